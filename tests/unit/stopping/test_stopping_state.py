"""What the rules count: held against plain definitions, split anywhere, kept and restored."""

import copy
import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest

from mpt.report import decode, encode
from mpt.stopping import Best, Cause, DivergenceRules
from mpt.stopping.reason import Causes
from mpt.stopping.skips import NonfiniteLoss, ScaleAtFloor, SkipsInARow
from mpt.stopping.standstill import FlatLoss, ZeroGradients
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.window import Window

FLOOR, CEILING = 0.25, 4.0
LIMIT, ZERO_STEPS, FLAT_STEPS = 3, 4, 2
SEEDS = range(150)


def trouble(seed):
    """A run's rows: losses and gradients of every kind, under a real dynamic scale."""
    rng = np.random.default_rng(seed)
    length = 60
    kinds = [1.0, -2.0 if seed % 5 == 0 else 2.0, 0.0, 1e-7, math.nan, math.inf, 5e3]
    weights = rng.dirichlet([2, 2, 0.3, 0.3, 0.6, 0.3, 0.3])
    loss = rng.choice(kinds, length, p=weights).astype("float32")
    norm = rng.choice([0.0, 1.0], length, p=[0.6, 0.4]).astype("float32")
    finite = (rng.random(length) > rng.choice([0.1, 0.5])).astype("float32")
    norm[finite == 0] = np.nan
    scale, skips, now, row = [], [], 1.0, 0
    for applied in finite:
        row = 0 if applied else row + 1
        if not applied:
            now = max(now / 2, FLOOR)
        elif rng.random() < 0.1:
            now = min(now * 2, CEILING)
        scale.append(now)
        skips.append(row)
    return {
        "loss": loss,
        "finite": finite,
        "scale": np.float32(scale),
        "consecutive_skips": np.float32(skips),
        "global_norm": norm,
    }


def windows(rows, rng):
    """The run's steps in windows of any lengths."""
    total, start = len(rows["loss"]), 0
    while start < total:
        end = min(total, start + rng.randint(1, 9))
        yield Window(end, {k: v[start:end] for k, v in rows.items()}, 1.0, end - start)
        start = end


def rules(**changes):
    setting = {
        "max_consecutive_skips": LIMIT,
        "max_loss": 900.0,
        "flat_steps": FLAT_STEPS,
        "max_loss_ratio": 300.0,
        "zero_gradient_steps": ZERO_STEPS,
        "min_scale": FLOOR,
        "initial_scale": 1.0,
    }
    return DivergenceRules(**{**setting, **changes})


def steps_in_a_row(counts, passes):
    """At each step, how many were counted since the last that ended the row."""
    row, found = 0, []
    for counted, passed in zip(counts, passes, strict=True):
        row = row if passed else row + 1 if counted else 0
        found.append(row)
    return found


def first(reached):
    """The step, from 1, at which something first holds."""
    return next((i + 1 for i, holds in enumerate(reached) if holds), None)


def expected_skips(rows):
    return first(steps >= LIMIT for steps in steps_in_a_row(rows["finite"] == 0, [False] * 60))


def expected_floor(rows):
    count, before, reached = 0, 1.0, []
    for finite, scale in zip(rows["finite"], rows["scale"], strict=True):
        if before <= FLOOR and not finite:
            count += 1
        if scale > FLOOR:
            count = 0
        before = scale
        reached.append(count >= LIMIT)
    return first(reached)


def expected_nonfinite(rows):
    row = steps_in_a_row(~np.isfinite(rows["loss"]), rows["finite"] == 0)
    return first(
        steps >= LIMIT and applied for steps, applied in zip(row, rows["finite"], strict=True)
    )


def expected_zero(rows):
    applied = [
        x for x, f in zip(rows["loss"], rows["finite"], strict=True) if f and math.isfinite(x)
    ]
    least = 1e-5 * abs(applied[0]) if applied else 0.0
    counts = [
        norm == 0 and not abs(x) <= least
        for x, norm in zip(rows["loss"], rows["global_norm"], strict=True)
    ]
    row = steps_in_a_row(counts, rows["finite"] == 0)
    return first(
        steps >= ZERO_STEPS and applied for steps, applied in zip(row, rows["finite"], strict=True)
    )


def expected_flat(rows):
    same = [False, *(a == b for a, b in pairwise(rows["loss"]))]
    return first(steps >= FLAT_STEPS for steps in steps_in_a_row(same, [False] * 60))


EXPECTED = {
    "max_consecutive_skips": (lambda: SkipsInARow(LIMIT), expected_skips),
    "scale_at_floor": (lambda: ScaleAtFloor(LIMIT, FLOOR, 1.0), expected_floor),
    "nonfinite_loss": (lambda: NonfiniteLoss(LIMIT), expected_nonfinite),
    "zero_gradients": (lambda: ZeroGradients(ZERO_STEPS), expected_zero),
    "flat_steps": (lambda: FlatLoss(FLAT_STEPS), expected_flat),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_rule_holds_where_its_definition_says_however_the_steps_are_split(name):
    make, expected = EXPECTED[name]
    held = 0
    for seed in SEEDS:
        rows, rule = trouble(seed), make()
        told = [rule.check(window, Causes()) for window in windows(rows, random.Random(seed))]
        reason = next((reason for reason in told if reason), None)
        assert (reason.step if reason else None) == expected(rows), seed
        assert reason is None or reason.rule == name
        held += reason is not None
    assert 15 < held < len(SEEDS), "else this shows little"


def test_the_first_of_all_rules_stops_the_run():
    for seed in SEEDS:
        rows, every = trouble(seed), rules(max_loss=None, max_loss_ratio=None)
        told = [every.check(window) for window in windows(rows, random.Random(seed))]
        reason = next((reason for reason in told if reason), None)
        steps = {name: expected(rows) for name, (_, expected) in EXPECTED.items()}
        assert reason.step == min(step for step in steps.values() if step), seed
        assert steps[reason.rule] == reason.step


def kept(state):
    """`state` as it comes back from a file."""
    return decoded(json.loads(json.dumps(encode(state), allow_nan=False)))


def decoded(value):
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else decode(value)


def text(part):
    """A state as text: NaN is not equal to itself."""
    return json.dumps(encode(part.state()))


def test_restored_at_any_window_the_rules_go_on_as_if_never_interrupted():
    told = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        limits = {"max_loss": 900.0 if seed % 2 else None}
        unbroken, resumed = rules(**limits), rules(**limits)
        for window in windows(trouble(seed), rng):
            cause = Cause(window.step, f"step {window.step} broke") if rng.random() < 0.1 else None
            reason = unbroken.check(window, cause)
            assert resumed.check(window, cause) == reason, seed
            told += reason is not None
            again = rules(**limits)
            again.restore(kept(resumed.state()))
            assert text(again) == text(unbroken)
            length = rng.randint(0, 3)
            some = {name: column[:length] for name, column in window.rows.items()}
            assert again.healthy(some) == unbroken.healthy(some)
            assert again.healthy({}) == unbroken.healthy({})
            resumed = again
    assert told > 100


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_state_whose_rows_a_rule_will_stop_is_not_one_to_go_back_to(after):
    """As a checkpoint between two windows has them: the streak is over, but not yet looked at."""
    count = LIMIT + after
    rows = {name: np.ones(count, "float32") for name in trouble(0)}
    rows["finite"][:LIMIT] = 0
    rows["consecutive_skips"] = np.float32([*range(1, LIMIT + 1), *[0] * after])
    rows["loss"] += np.arange(count, dtype="float32")
    every = rules()
    before = text(every)
    assert not every.healthy(rows)
    assert text(every) == before
    short = {name: column[1:] for name, column in rows.items()}
    short["consecutive_skips"] = np.float32([*range(1, LIMIT), *[0] * after])
    assert every.healthy(short)


def test_a_state_is_a_copy():
    every = rules()
    before = copy.deepcopy(state := every.state())
    for window in windows(trouble(1), random.Random(1)):
        every.check(window, Cause(window.step, "broke"))
    assert state == before


def test_other_limits_go_on_with_the_same_counts():
    strict, lenient = rules(zero_gradient_steps=10), rules(zero_gradient_steps=None)
    one = Window(6, {name: np.zeros(6, "float32") for name in trouble(0)}, 1.0, 6)
    one.rows["loss"] += np.arange(1, 7, dtype="float32")
    for name in ("finite", "scale"):
        one.rows[name] += 1
    assert lenient.check(one) is None
    strict.restore(lenient.state())
    more = Window(12, {**one.rows, "loss": one.rows["loss"] + 6}, 1.0, 6)
    reason = strict.check(more)
    assert (reason.rule, reason.step) == ("zero_gradients", 10)


def test_a_history_of_the_scale_goes_on():
    for seed in SEEDS:
        unbroken, resumed = (LossScaleHistory("dynamic", 1.0) for _ in range(2))
        for window in windows(trouble(seed), random.Random(seed)):
            unbroken.add(window)
            resumed.add(window)
            again = LossScaleHistory("dynamic", 1.0)
            again.restore(kept(resumed.state()))
            assert again.summary() == unbroken.summary()
            resumed = again


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_evaluation_and_the_wait_for_a_better_one_go_on(mode):
    stopped = 0
    for seed in SEEDS:
        rng = random.Random(seed)
        unbroken, resumed = (Best("validation/loss", mode, 0.1, 3) for _ in range(2))
        for step in range(1, 12):
            value = rng.choice([None, math.nan, math.inf, -math.inf, *np.linspace(0, 1, 6)])
            reason = unbroken.update(step, value)
            assert resumed.update(step, value) == reason
            stopped += reason is not None
            again = Best("validation/loss", mode, 0.1, 3)
            again.restore(kept(resumed.state()))
            assert again == unbroken
            resumed = again
    assert stopped > 100


def test_the_best_of_another_tag_is_refused():
    best = Best("validation/loss", "min")
    best.update(1, 2.0)
    for other in (Best("validation/accuracy", "min"), Best("validation/loss", "max")):
        with pytest.raises(ValueError, match="is that of validation/loss"):
            other.restore(best.state())


# Anything that a damaged or forged file may hold in place of a value.
JUNK = [
    *(None, True, False, 0, 1, -1, 2**62, 2**63, 10**400, 0.0, -0.5, 1.5, 1e308),
    *(math.nan, math.inf, -math.inf, "", "NaN", "x" * 10_000, "\ud800", [], {}),
    *([1, 2, 3], [None], [[1]], [[0, 1.0]], [[2, 1.0], [1, 2.0]], [[1, -1.0]], {"count": 1}),
    *({"step": 1}, {"step": 0, "advice": "x"}, {"step": 1, "advice": 2}, {1: 2}, object()),
]


def places(value, path=()):
    """Every place in a state, as the keys that lead there."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def spoiled(state, rng):
    """`state` with one or two values replaced, removed or added."""
    state = copy.deepcopy(state)
    for _ in range(rng.choice([1, 1, 2])):
        *path, last = rng.choice(list(places(state)))
        inner = state
        for key in path:
            inner = inner[key]
        action = rng.choice(["replace", "replace", "replace", "remove", "add"])
        if action == "replace":
            inner[last] = copy.deepcopy(rng.choice(JUNK))
        elif action == "remove":
            del inner[last]
        elif isinstance(inner, dict):
            inner[rng.choice(["extra", "", 5])] = copy.deepcopy(rng.choice(JUNK))
        else:
            inner.append(copy.deepcopy(rng.choice(JUNK)))
        if not state:
            return state
    return state


def refusal(part, state):
    """With which words `state` is refused; None: it was taken."""
    try:
        part.restore(state)
    except ValueError as error:
        return str(error)
    return None


def further(part, seed):
    """Use `part` on, as a run would."""
    for i, window in enumerate(windows(trouble(seed), random.Random(seed))):
        if isinstance(part, Best):
            part.update(window.step, [1.0, math.nan, None][i % 3])
        elif isinstance(part, LossScaleHistory):
            part.add(window)
            part.summary()
        else:
            part.check(window)
            part.healthy(window.rows)
    json.dumps(encode(part.state()), allow_nan=False)


PARTS = {
    "rules": rules,
    "best": lambda: Best("validation/loss", "min", patience=2),
    "history": lambda: LossScaleHistory("dynamic", 1.0),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.filterwarnings("error")
def test_a_spoiled_state_is_refused_whole_or_can_be_gone_on_from(name):
    make, refused, taken = PARTS[name], 0, 0
    for seed in range(600):
        rng, part = random.Random(seed), make()
        further(part, seed)
        if name == "rules":
            part.check(next(windows(trouble(seed), rng)), Cause(1, "broke"))
        state, before = spoiled(part.state(), rng), text(part)
        error = refusal(part, state)
        if error is None:
            taken += 1
            further(part, seed + 1)
        else:
            refused += 1
            assert 0 < len(error) < 300
            assert text(part) == before, "half of it was taken"
    assert refused > 200
    assert taken > 20


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
def test_what_is_no_state_at_all_is_refused(name, junk):
    with pytest.raises(ValueError, match=r"."):
        PARTS[name]().restore(junk)
