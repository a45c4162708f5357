"""A run in pieces comes to what an unbroken one comes to, bit for bit.

Each case trains once without a break and once with a signal at some steps, each time resumed by the
same command, in this process.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import resumed_runs
from resumed_runs import FILE, assert_identical, paths, report_of, rows, train, variables

from mpt import saving
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
        assert len(codes) <= (pieces or len(signals) + 1)
    assert codes == [75] * ((pieces or len(signals) + 1) - 1) + [code]
    return tmp_path / "unbroken", tmp_path / "resumed"


def after(*steps):
    return [[AFTER_STEP, step, TERM] for step in steps]


ROOT = Path(__file__).resolve().parents[2]
PLATEAU = (
    "{_target_: keras.callbacks.ReduceLROnPlateau, monitor: val_loss, patience: 1, factor: 0.5,"
    " min_delta: 0.5}"
)
OWN_DATA = ("dataset=python", f"dataset.function={FILE}:data", "dataset.shuffle=true")
DIGITS = ("dataset=digits", "dataset.examples=320")  # eight steps an epoch
DIVERGING = (
    *("dataset=python", f"dataset.function={FILE}:bad_for_a_while", "precision=float32"),
    *("dataset.kwargs={first: 10, last: 12}", "loss_scale.max_consecutive_skips=2"),
)
OVERFLOWS = (
    *OWN_DATA,
    *("dataset.kwargs={infinite: [40, 41, 200]}", "precision=mixed_float16", "loss_scale=dynamic"),
    *("loss_scale.growth_steps=3", "loss_scale.initial_scale=1024"),
)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_float8_whose_scales_follow_former_steps(tmp_path):
    rule = "precision.overrides=[{match: logits, policy: float8}]"
    unbroken, resumed = in_pieces(tmp_path, after(5), *DIGITS, "precision=mixed_bfloat16", rule)
    assert_identical(unbroken, resumed)
    table = report_of(resumed)["precision"]["table"]
    assert any(row.get("quantization") == "float8" for row in table)


@pytest.mark.slow
def test_float16_with_overflows(tmp_path):
    unbroken, resumed = in_pieces(tmp_path, after(4, 13), *OVERFLOWS)
    assert_identical(unbroken, resumed)
    scale = report_of(resumed)["loss_scale"]
    assert scale["skipped_steps"] > 2, "nothing overflowed"
    assert len(scale["history"]) > 5


@pytest.mark.slow
def test_a_signal_at_every_step(tmp_path):
    unbroken, resumed = in_pieces(
        tmp_path,
        after(*range(1, 26)),
        *("precision=mixed_bfloat16", "optimizer.ema=true", *DIGITS),
        *("optimizer.schedule.name=warmup_cosine", "optimizer.schedule.warmup_steps=5"),
    )
    assert_identical(unbroken, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("together", [4, 1000])
def test_steps_together_in_a_call_that_is_cut_short(tmp_path, together):
    (tmp_path / "steps.json").write_text("[]")
    own = (
        *OVERFLOWS,
        *("model.kwargs={signals: steps.json}", f"trainer.steps_per_execution={together}"),
        *("trainer.log_every=20", "trainer.eval_every=26", "trainer.checkpoint_every=null"),
    )
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert train(main, unbroken, *own) == 0
    for step in (2, 7, 15):
        (tmp_path / "steps.json").write_text(f"[{step}]")
        assert train(main, resumed, *own) == 75
        report = report_of(resumed)  # the layer's own count goes back where a step is skipped
        applied = report["training"]["steps"] - report["loss_scale"]["skipped_steps"]
        assert step <= applied <= step + 1, "it waited for the call"
    (tmp_path / "steps.json").write_text("[]")
    assert train(main, resumed, *own) == 0
    assert_identical(unbroken, resumed, calls=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_under_xla(tmp_path, precision):
    unbroken, resumed = in_pieces(
        tmp_path,
        after(6, 17),
        *(f"precision={precision}", "trainer.jit_compile=true", "optimizer.ema=true", *DIGITS),
        *(
            "model.kwargs={shift: false}",
            "loss_scale.growth_steps=4",
            "optimizer.gradient_accumulation_steps=3",
        ),
    )
    assert_identical(unbroken, resumed)
    assert report_of(resumed)["execution"]["jit_compile"] is True


@pytest.mark.slow
@pytest.mark.parametrize("by", ["patience", "callback"])
def test_a_run_that_stops_early(tmp_path, by):
    own = [*DIGITS, "precision=float32", "trainer.steps=60", "optimizer.ema=true"]
    callbacks = [STOPPING.replace("patience: 1", "patience: 3")] if by == "callback" else []
    if by == "patience":
        own += ["trainer.early_stopping.patience=3", "trainer.early_stopping.min_delta=1"]
    unbroken, resumed = in_pieces(tmp_path, after(7, 9, 16, 26), *own, callbacks=callbacks)
    assert report_of(unbroken)["training"]["steps"] == 32
    assert_identical(unbroken, resumed, evaluated_again=True)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["the run", "itself", "itself anew"])
def test_data_of_the_users_own_that_are_shuffled(tmp_path, by):
    function, shuffle = ("data", "true") if by == "the run" else ("shuffled_by_itself", "false")
    anew = f"dataset.kwargs={{reshuffle: {str(by == 'itself anew').lower()}}}"
    unbroken, resumed = in_pieces(
        tmp_path,
        after(5, 14),
        *("dataset=python", f"dataset.function={FILE}:{function}", f"dataset.shuffle={shuffle}"),
        *("precision=mixed_bfloat16", *([] if by == "the run" else [anew])),
    )
    warned = [w for w in report_of(resumed)["warnings"] if "shuffles anew" in w]
    if by == "itself anew":  # TensorFlow gives each iterator another order
        assert len(warned) == 1
        return
    assert warned == []
    assert_identical(unbroken, resumed)


@pytest.mark.slow
def test_a_run_that_went_back(tmp_path):
    own = (*DIVERGING, "trainer.on_divergence=rollback")
    # It goes from step 15 back to 8.
    unbroken, resumed = in_pieces(tmp_path, after(6, 13, 15, 16), *own)
    assert_identical(unbroken, resumed)
    assert report_of(resumed)["training"]["rollbacks"] == [
        {"from_step": 15, "to_step": 8, "rule": "max_consecutive_skips"}
    ]


@pytest.mark.slow
def test_on_two_replicas(tmp_path):
    """In a process of its own: devices are laid out before TensorFlow starts."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("resumed_on_replicas.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(FILE.parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert report_of(resumed)["device"]["count"] == 2
    assert len(variables(resumed)) > len(paths(resumed)), "each replica has statistics of its own"
    assert_identical(unbroken, resumed)


@pytest.mark.slow
def test_a_signal_in_every_hook(tmp_path):
    signals = [
        ["epoch_begin", 0, TERM],
        ["train_batch_begin", 2, TERM],
        ["test_begin", 8, TERM],
        ["epoch_begin", 8, "SIGINT"],
        ["test_end", 16, "SIGUSR1"],
        ["epoch_end", 24, "SIGUSR2"],
        ["test_begin", 26, TERM],
        ["test_end", 26, TERM],  # nothing is left to do: the run ends as it should
        ["train_end", 26, TERM],
    ]
    own = ["precision=mixed_bfloat16", "optimizer.ema=true", *DIGITS]
    unbroken, resumed = in_pieces(tmp_path, signals, *own, pieces=len(signals) - 1)
    assert_identical(unbroken, resumed)


@pytest.mark.slow
def test_a_diagnosis_before_an_evaluation_that_is_cut_short_is_told_once(tmp_path):
    own = (*OVERFLOWS, "trainer.log_every=8")
    unbroken, resumed = in_pieces(tmp_path, [["test_begin", 8, TERM]], *own)
    assert report_of(unbroken)["diagnosis"][0]["step"] <= 8
    assert_identical(unbroken, resumed)


@pytest.mark.slow
def test_a_signal_in_the_last_evaluation_of_a_run_that_stops_early(tmp_path):
    """Its weights' average is evaluated once more."""
    own = [*DIGITS, "precision=float32", "optimizer.ema=true"]
    own += ["trainer.early_stopping.patience=1", "trainer.early_stopping.min_delta=1"]
    signals = [["test_begin", 16, TERM], ["test_end", 16, TERM]]
    unbroken, resumed = in_pieces(tmp_path, signals, *own)
    assert report_of(unbroken)["training"]["steps"] == 16
    assert_identical(unbroken, resumed, evaluated_again=True)


STOPPING = (
    "{_target_: keras.callbacks.EarlyStopping, monitor: val_loss, patience: 1, min_delta: 10,"
    " restore_best_weights: true}"
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_saved_is_too_late(tmp_path, monkeypatch, number):
    own = (*DIGITS, "precision=float32", "trainer.steps=9")
    assert train(main, tmp_path / "undisturbed", *own) == 0
    save = saving.save

    def disturbed(*given):
        os.kill(os.getpid(), number)
        save(*given)

    with monkeypatch.context() as patched:
        patched.setattr("mpt.saving.save", disturbed)
        assert train(main, tmp_path / "disturbed", *own) == 0
    assert_identical(tmp_path / "undisturbed", tmp_path / "disturbed")


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
def test_a_run_that_had_only_begun_to_say_what_it_is(tmp_path, monkeypatch):
    own = (*DIGITS, "precision=float32", "trainer.steps=9")
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert train(main, unbroken, *own) == 0
    with monkeypatch.context() as patched:

        def die_after(board, *_):
            board.flush()
            raise Death

        patched.setattr("mpt.session.hparams.begin", die_after)
        with pytest.raises(Death):
            train(main, resumed, *own)
    assert list(resumed.glob("tensorboard/*")), "there is nothing to be told twice"
    assert train(main, resumed, *own) == 0
    assert_identical(unbroken, resumed)


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
