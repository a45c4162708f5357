"""A run in pieces comes to what an unbroken one comes to, bit for bit.

Each case trains once without a break and once with a signal at some steps, each time resumed by the
same command, in this process.
"""

import json
import sys

import pytest
import resumed_runs
from resumed_runs import FILE, assert_identical, report_of, rows, train

from mpt.cli import main

TERM = "SIGTERM"
AFTER_STEP = "train_batch_end"


@pytest.fixture(autouse=True)
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPT_ALLOW", resumed_runs.ALLOWED)
    monkeypatch.setattr(sys, "path", [str(FILE.parent), *sys.path])


def in_pieces(tmp_path, signals, *own, **named):
    """Train unbroken in one folder; in another one, with `signals`, until it is done."""
    assert train(main, tmp_path / "unbroken", *own, **named) == 0
    (tmp_path / "signals.json").write_text(json.dumps(signals))
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(train(main, tmp_path / "resumed", *own, **named))
        assert len(codes) <= len(signals) + 1
    assert codes == [75] * len(signals) + [0]
    return tmp_path / "unbroken", tmp_path / "resumed"


def after(*steps):
    return [[AFTER_STEP, step, TERM] for step in steps]


PLATEAU = (
    "{_target_: keras.callbacks.ReduceLROnPlateau, monitor: val_loss, patience: 1, factor: 0.5,"
    " min_delta: 0.5}"
)
OWN_DATA = ("dataset=python", f"dataset.function={FILE}:data", "dataset.shuffle=true")
DIGITS = ("dataset=digits", "dataset.examples=320")  # eight steps an epoch
OVERFLOWS = (
    *OWN_DATA,
    *("dataset.kwargs={infinite: [40, 41, 200]}", "precision=mixed_float16", "loss_scale=dynamic"),
    *("loss_scale.growth_steps=3", "loss_scale.initial_scale=1024"),
)


def test_float32_with_schedule_accumulation_and_average(tmp_path):
    unbroken, resumed = in_pieces(
        tmp_path,
        after(3, 16),
        *("precision=float32", "optimizer=adamw", "optimizer.weight_decay=0.01", *DIGITS),
        *("optimizer.schedule.name=cosine", "optimizer.gradient_accumulation_steps=2"),
        "optimizer.ema=true",
    )
    assert_identical(unbroken, resumed)
    assert report_of(resumed)["training"]["resumed_from_step"] == 16
    steps = [int(row["step"]) for row in rows(resumed)]
    assert steps == [5, 8, 10, 15, 16, 20, 24, 25, 26]


def test_bfloat16_with_a_callback_that_counts(tmp_path):
    unbroken, resumed = in_pieces(
        tmp_path,
        after(9, 17),
        *("precision=mixed_bfloat16", "optimizer=sgd", "optimizer.learning_rate=0.1", *DIGITS),
        callbacks=[PLATEAU],
    )
    assert_identical(unbroken, resumed)
    rates = [row["optimizer/learning_rate"] for row in rows(resumed) if "train/loss" in row]
    assert rates[0] != rates[-1], "the callback never did anything"


def test_float16_with_overflows(tmp_path):
    unbroken, resumed = in_pieces(tmp_path, after(4, 13), *OVERFLOWS)
    assert_identical(unbroken, resumed)
    scale = report_of(resumed)["loss_scale"]
    assert scale["skipped_steps"] > 2, "nothing overflowed"
    assert len(scale["history"]) > 5
