from dataclasses import asdict, replace

import numpy as np
import pytest

from mpt.progress import ACTIVITIES, Outcome, Schedule, Standing
from mpt.stopping import Reason

COLUMNS = ("loss", "finite")
STANDING = Standing(
    step=12,
    left_out=3,
    drained_at=10,
    pending={name: np.array([1.0, 2.0], np.float32) for name in COLUMNS},
    window_seconds=0.5,
    final={"train/loss": 0.25},
    seconds=dict.fromkeys(ACTIVITIES, 1.5),
    rollbacks=[{"from_step": 9, "to_step": 6, "rule": "nonfinite_loss"}],
    stopped=Reason("early_stopping", 12, "it was no better"),
    edge_due=True,
)


def test_the_next_edge_is_the_nearest_of_all() -> None:
    schedule = Schedule(100, steps_per_epoch=40, log_every=25, eval_every=30, checkpoint_every=35)
    edges, step = [], 0
    while step < 100:
        step = schedule.next_edge(step)
        edges.append(step)
    assert edges == [25, 30, 35, 40, 50, 60, 70, 75, 80, 90, 100]
    assert replace(schedule, checkpoint_every=None).next_edge(30) == 40


def test_a_standing_is_the_same_after_a_checkpoint() -> None:
    again = Standing.kept(STANDING.state(), COLUMNS)
    np.testing.assert_equal(asdict(again), asdict(STANDING))
    assert isinstance(again.stopped, Reason)


def test_a_state_does_not_grow_with_the_run() -> None:
    seconds = dict.fromkeys(ACTIVITIES, 0.0)
    state = replace(STANDING, seconds=seconds).state()
    seconds["train"] = 7.0
    assert state["seconds"]["train"] == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drained_at": 13}, "the last logged step is 13, the present one 12"),
        ({"step": -1}, "step"),
        ({"edge_due": 1}, "edge_due"),
        ({"pending": {"loss": np.ones(2, np.float32)}}, "finite"),
        (
            {"pending": {"loss": np.ones(2, np.float32), "finite": np.ones(1, np.float32)}},
            "not as long",
        ),
        ({"seconds": {"train": 1.0}}, "evaluate"),
        ({"rollbacks": [{"from_step": 1}]}, "to_step"),
        ({"other": 1}, "other"),
    ],
)
def test_another_state_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Standing.kept({**STANDING.state(), **changes}, COLUMNS)


def test_time_is_counted_by_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, now = Outcome(), iter([10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("mpt.progress.time.perf_counter", lambda: next(now))
    for activity in ("evaluate", "save"):
        with outcome.timed(activity):
            pass
    assert outcome.seconds == {"train": 0.0, "evaluate": 2.0, "diagnose": 0.0, "save": 1.0}
    assert outcome.beside == 3.0
