"""When a captured step is diagnosed, and what is told of it."""

import numpy as np
import pytest
from planted import planted_model

from mpt.numerics import Watch
from mpt.telemetry.window import Window


@pytest.fixture
def planted():
    return planted_model("functional", jit=False).restart()


class Watched:
    """A watch over a planted model; `steps` gives what `check` said of one window."""

    def __init__(self, planted):
        self.planted, self.told, self.step = planted, [], 0
        self.watch = Watch(planted.capture, planted.model, (), self.told.append)

    def steps(self, *batches, count=None):
        self.planted.run(*batches)
        self.step += count or len(batches)
        captured = self.planted.capture.telemetry()["captured"].numpy()
        rows = {"captured": np.array([captured], "float32"), "loss": np.ones(1)}
        return self.watch.check(Window(self.step, rows, seconds=1.0, examples=1))


def nan_in(x, row):
    bad = x.copy()
    bad[row] = np.nan
    return bad


def test_a_clean_window_has_no_cause(planted):
    watched = Watched(planted)
    assert watched.steps((planted.x, planted.y)) is None
    assert watched.told == []


def test_the_same_cause_is_found_again_and_told_once(planted):
    watched = Watched(planted)
    first = watched.steps((planted.x, planted.y), (nan_in(planted.x, 0), planted.y))
    second = watched.steps((nan_in(planted.x, 4), planted.y))
    assert (first.step, second.step) == (2, 3)
    assert "take such rows out" in first.advice
    assert [(found.step, found.bad_rows) for found in watched.told] == [(2, (0,))]


def test_another_cause_is_told_too(planted):
    watched = Watched(planted)
    watched.steps((nan_in(planted.x, 0), planted.y))
    planted.weight("wide", 1).assign([300.0, 0.0, 0.0, 0.0, 0.0])
    watched.steps((planted.x, planted.y))
    assert [found.direction for found in watched.told] == ["input", "forward"]


def test_after_three_replays_the_next_waits_until_the_run_is_twice_as_long(planted):
    watched, bad = Watched(planted), (nan_in(planted.x, 0), planted.y)
    assert all(watched.steps(bad) is not None for _ in range(3))
    assert watched.steps(bad) is None
    assert watched.steps(bad, count=2) is None, "armed again at step 6, for later steps"
    assert watched.steps(bad).step == 6
    assert len(watched.told) == 1


def test_a_step_that_cannot_be_replayed_does_not_end_the_run(planted, monkeypatch):
    watched = Watched(planted)

    def fail(batch):
        raise TypeError("only in graphs\nand more")

    planted.run((nan_in(planted.x, 0), planted.y))
    before = planted.state()
    monkeypatch.setattr(planted.model, "train_step", fail)
    cause = watched.steps((planted.x, planted.y))
    assert "cannot be replayed" in cause.advice
    assert "TypeError: only in graphs" in watched.told[0].message
    assert watched.told[0].entry()["step"] == 1
    for a, b in zip(before, planted.state(), strict=True):
        assert np.isfinite(b).all()
        assert a.shape == b.shape


def test_an_entry_of_the_report_leaves_out_what_does_not_apply(planted):
    watched = Watched(planted)
    watched.steps((nan_in(planted.x, 3), planted.y))
    entry = watched.told[0].entry()
    assert set(entry) == {
        "message",
        "step",
        "direction",
        "float32_finite",
        "bad_rows",
        "loss_scale",
    }
    assert entry["bad_rows"] == [3]
    assert entry["message"].splitlines()[0].startswith("step 1: ")
    assert entry["message"].splitlines()[-1].startswith("  to do:   ")
    assert watched.told[0].markdown.startswith("**Step 1**: ")
