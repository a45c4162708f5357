"""Is the metric the same? A paired-t interval and an equivalence test."""

from mpt.comparison.groups import final_values, other_data, succeeded
from mpt.comparison.result import Group, Interval, Parity
from mpt.comparison.speed import left_out
from mpt.comparison.statistics import difference, once_a_seed
from mpt.report.monitor import HIGHER_IS_BETTER, by_name
from mpt.report.numbers import number

SEEDS = 5
LEVEL = 0.05
# Higher is better, and not a share between 0 and 1.
_UNBOUNDED = ("examples_per_second", "r2", "true_")


def direction(tag: str, mode: str) -> bool | None:
    """Whether higher is better; None where neither the mode nor the name says so."""
    if mode in ("min", "max"):
        return mode == "max"
    known = by_name(tag)
    return None if known is None else known == "max"


def is_share(tag: str, baseline: Group) -> bool:
    """Whether the metric lies between 0 and 1, so that its differences are told in points.

    Its name says so, unless a value is none: some record an accuracy in percent.
    """
    name = tag.rsplit("/", 1)[-1].lower()
    return (
        not name.endswith("loss")
        and any(word in name for word in HIGHER_IS_BETTER)
        and not any(word in name for word in _UNBOUNDED)
        and all(0 <= value <= 1 for _, value in final_values(baseline, tag))
    )


def margin_of(tag: str, points: float, baseline: Group) -> float:
    """Largest difference that counts as none, in the metric's own unit.

    Of a share: `points` hundredths, and never less than one example. Of any other metric: `points`
    percent of the baseline's mean.
    """
    if is_share(tag, baseline):
        return max(points / 100, _one_example(tag, baseline))
    values = [value for _, value in final_values(baseline, tag)]
    return points / 100 * abs(sum(values) / len(values)) if values else 0.0


def judge(
    group: Group, baseline: Group, tag: str, points: float, higher_is_better: bool | None
) -> tuple[Parity | None, str | None]:
    """The parity of `tag`, or why there is none."""
    name = tag.rsplit("/", 1)[-1]
    if data := other_data(group, baseline):
        return None, f"{name} is not compared: {data}"
    ours, theirs = final_values(group, tag), final_values(baseline, tag)
    found = difference(once_a_seed(ours), once_a_seed(theirs))
    if found is None:
        lacking = group.label if not ours else baseline.label
        return None, f"{name} is not compared: {lacking} has no finite {tag}"
    share = is_share(tag, baseline)
    margin = margin_of(tag, points, baseline)
    interval = found.interval()
    p_value = found.equivalence(margin) if found.count >= SEEDS else None
    lost = _not_finite(group, tag) + _not_finite(baseline, tag)
    said = _signed(interval.estimate, share)
    limit = _amount(margin, share)
    within = ""
    if p_value is None:
        outcome = "not_enough_seeds"
        text = f"{name} {said}: not enough seeds to say: {found.count} of {SEEDS}"
        text += left_out(interval)
    elif lost:
        outcome, text = "unclear", f"{name} unclear: {_runs(lost)} ended with NaN or Infinity"
    elif p_value < LEVEL:
        outcome = "same"
        by = f"{_p(p_value)}, {found.count} seeds{left_out(interval)}"
        text = f"{name} the same within {limit} ({said}, {by})"
        widened = share and margin > points / 100
        within = "seed noise" if _holds_zero(interval) and not widened else limit
    else:
        outcome = _sign(interval.low, interval.high, higher_is_better)
        assert interval.low is not None
        assert interval.high is not None
        ends = f"{_signed(interval.low, share)} to {_signed(interval.high, share)}"
        by = f"95% interval {ends}, margin {limit}{left_out(interval)}"
        text = f"{name} {outcome}: {said} ({by})"
    return Parity(tag, interval, margin, p_value, outcome, text, within), None


def _holds_zero(interval: Interval) -> bool:
    return (
        interval.low is not None
        and interval.high is not None
        and (interval.low <= 0 <= interval.high)
    )


def _p(value: float) -> str:
    return "p <0.0001" if value < 1e-4 else f"p {value:.2g}"


def _sign(low: float | None, high: float | None, higher_is_better: bool | None) -> str:
    assert low is not None
    assert high is not None
    if low <= 0 <= high:
        return "unclear"
    if higher_is_better is None:
        return "different"
    return "better" if (low > 0) == higher_is_better else "worse"


def _one_example(tag: str, group: Group) -> float:
    part = "train_examples" if tag.startswith("train/") else "validation_examples"
    counts = [getattr(run.report.data, part) for run in group.runs]
    known = [count for count in counts if count]
    return 1 / min(known) if known else 0.0


def _not_finite(group: Group, tag: str) -> int:
    recorded = [run for run in succeeded(group) if tag in run.report.metrics.final]
    return len(recorded) - len(final_values(group, tag))


def _amount(value: float, share: bool) -> str:
    return f"{100 * value:.2g} points" if share else number(value)


def _signed(value: float, share: bool) -> str:
    if share:
        return f"{round(100 * value, 2) + 0.0:+.2f} points"  # + 0.0: no "-0.00"
    return f"{value + 0.0:+.3g}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
