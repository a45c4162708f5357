"""A run in pieces comes to what an unbroken one comes to, bit for bit.

Each case trains once without a break and once with a signal at some steps, each time resumed by the
same command, in this process.
"""

import json
import sys
from contextlib import contextmanager

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


def in_pieces(tmp_path, signals, *own, pieces=None, code=0, **named):
    """Train unbroken in one folder; in another one, with `signals`, until it is done.

    Args:
        pieces: processes that it takes, where that is not one more than there are signals.
        code: with which the run ends.
    """
    assert train(main, tmp_path / "unbroken", *own, **named) == code
    (tmp_path / "signals.json").write_text(json.dumps(signals))
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(train(main, tmp_path / "resumed", *own, **named))
        assert len(codes) <= len(signals) + 1
    assert codes == [75] * ((pieces or len(signals) + 1) - 1) + [code]
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


@pytest.mark.slow
def test_a_signal_in_every_hook(tmp_path):
    signals = [
        ["epoch_begin", 0, TERM],
        ["train_batch_begin", 2, TERM],
        ["test_begin", 8, TERM],
        ["epoch_begin", 8, "SIGINT"],
        ["test_end", 16, "SIGUSR1"],
        ["epoch_end", 24, "SIGUSR2"],
        ["test_end", 26, TERM],  # all steps are done: the run ends as it should
        ["train_end", 26, TERM],
    ]
    unbroken, resumed = in_pieces(
        tmp_path, signals, "precision=mixed_bfloat16", *DIGITS, pieces=len(signals) - 1
    )
    assert_identical(unbroken, resumed)


class Death(BaseException):
    """The end of a process, at once."""


@pytest.fixture
def dies(monkeypatch):
    """`dies(name)`: a call of `mpt.ending.<name>` ends the process before it does a thing."""

    def call(name):
        with monkeypatch.context() as patched:

            def die(*_, **__):
                raise Death

            patched.setattr(f"mpt.ending.{name}", die)
            yield

    return contextmanager(call)


STOPPING = (
    "{_target_: keras.callbacks.EarlyStopping, monitor: val_loss, patience: 1, min_delta: 10,"
    " restore_best_weights: true}"
)


@pytest.mark.slow
@pytest.mark.parametrize("death", ["save_model", "conclude"])
@pytest.mark.parametrize("by", ["patience", "callback", "steps"])
def test_a_run_that_was_done_but_did_not_come_to_say_so(tmp_path, dies, death, by):
    own = (*DIGITS, "optimizer.ema=true", "precision=mixed_bfloat16", "trainer.checkpoint_every=50")
    callbacks = [STOPPING] if by == "callback" else []
    if by == "patience":
        own += ("trainer.early_stopping.patience=1", "trainer.early_stopping.min_delta=1")
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert train(main, unbroken, *own, callbacks=callbacks) == 0
    steps = {"patience": 16, "callback": 16, "steps": 26}[by]
    assert report_of(unbroken)["training"]["steps"] == steps
    with dies(death), pytest.raises(Death):
        train(main, resumed, *own, callbacks=callbacks)
    assert not (resumed / "report.json").exists()
    assert train(main, resumed, *own, callbacks=callbacks) == 0
    assert_identical(unbroken, resumed, evaluated_again=by != "steps")


@pytest.mark.slow
def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path, dies):
    own = (*DIGITS, "trainer.early_stopping.min_delta=1", "precision=float32")
    patient = [*own, "trainer.early_stopping.patience=3"]
    own = [*own, "trainer.early_stopping.patience=1"]
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert train(main, unbroken, *patient) == 0
    assert train(main, resumed, *own) == 0
    assert report_of(resumed)["training"]["steps"] == 16
    with dies("conclude"), pytest.raises(Death):
        train(main, resumed, *patient)
    assert train(main, resumed, *patient) == 0
    assert report_of(resumed)["training"]["steps"] == 26
    assert_identical(unbroken, resumed)
