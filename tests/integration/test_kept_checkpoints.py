"""Which checkpoints a real run keeps, and when it goes back to one of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import resumed_runs
from resumed_runs import FILE, report_of, rows, train

from mpt.checkpoint import Checkpoints, read_header
from mpt.cli import main

DIGITS = ("dataset=digits", "dataset.examples=320", "precision=float32")  # eight steps an epoch
DIVERGING = (
    *("dataset=python", f"dataset.function={FILE}:bad_for_a_while", "precision=float32"),
    *("loss_scale.max_consecutive_skips=2", "trainer.on_divergence=rollback"),
)


@pytest.fixture(autouse=True)
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPT_ALLOW", resumed_runs.ALLOWED)
    monkeypatch.setattr(sys, "path", [str(FILE.parent), *sys.path])


def steps(folder):
    return list(Checkpoints(Path(folder)).steps())


@pytest.mark.slow
def test_the_newest_and_the_best(tmp_path):
    own = ["trainer.checkpoint_every=4", "trainer.keep=2", "monitor=train/loss", *DIGITS]
    own += ["optimizer.learning_rate=0.02", "optimizer=sgd"]
    assert train(main, "run", *own) == 0
    report = report_of("run")
    best = report["metrics"]["best"]["step"]
    assert steps("run") == sorted({best, 24, 26})
    assert report["artifacts"]["checkpoint"] == "checkpoints/step-00000026.ckpt"
    assert report["artifacts"]["best_checkpoint"] == f"checkpoints/step-{best:08d}.ckpt"
    assert read_header(tmp_path / "run" / report["artifacts"]["best_checkpoint"])["best"]


@pytest.mark.slow
def test_none_while_it_trains_is_one_at_its_end_and_one_where_it_is_cut(tmp_path):
    own = ("trainer.checkpoint_every=null", "trainer.keep_best=false", *DIGITS)
    (tmp_path / "signals.json").write_text(json.dumps([["train_batch_end", 9, "SIGTERM"]]))
    assert train(main, "run", *own) == 75
    assert steps("run") == [9]
    assert train(main, "run", *own) == 0
    assert set(steps("run")) <= {9, 26}
    assert steps("run")[-1] == 26


@pytest.mark.slow
def test_one_every_so_many_minutes():
    own = ("trainer.checkpoint_every=null", "trainer.keep_best=false", "trainer.keep=100", *DIGITS)
    assert train(main, "often", *own, "trainer.checkpoint_minutes=1e-9") == 0
    assert steps("often") == list(range(1, 27))  # after each call of the device
    assert train(main, "seldom", *own, "trainer.checkpoint_minutes=60") == 0
    assert steps("seldom") == [26]


@pytest.mark.slow
def test_a_run_that_always_diverges_goes_back_so_often_and_no_more(tmp_path):
    own = (*DIVERGING, "dataset.kwargs={first: 10, last: 1000}", "trainer.max_rollbacks=2")
    assert train(main, "run", *own) == 3
    report = report_of("run")
    back = report["training"]["rollbacks"]
    assert [entry["to_step"] for entry in back] == [8, 8]
    assert all(entry["rule"] == "max_consecutive_skips" for entry in back)
    assert [entry["from_step"] for entry in back] == [15, 10]
    told = [text for text in report["warnings"] if "goes back to step 8" in text]
    assert len(told) == 2
    assert "(2 of trainer.max_rollbacks=2)" in told[1]
    assert report["status"] == "diverged"
    assert report["artifacts"]["last_good_checkpoint"] == "checkpoints/step-00000008.ckpt"
    seen = [int(row["step"]) for row in rows("run")]
    assert seen == sorted(set(seen)), "what was taken back is written twice"


@pytest.mark.slow
def test_one_that_went_back_as_often_as_it_may_can_be_let_go_on(tmp_path):
    own = (*DIVERGING, "dataset.kwargs={first: 10, last: 1000}")
    assert train(main, "run", *own, "trainer.max_rollbacks=1") == 3
    assert len(report_of("run")["training"]["rollbacks"]) == 1
    assert train(main, "run", *own, "trainer.max_rollbacks=3") == 3
    assert len(report_of("run")["training"]["rollbacks"]) == 3


@pytest.mark.slow
def test_jobs_of_a_sweep_go_on_from_their_checkpoints(tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(FILE.parent)]),
    }
    own = ["model.kwargs={slow: {training: [1, 0.3]}}", *DIGITS, "trainer.steps=12"]
    command = [word for word in resumed_runs.words("x", *own) if not word.startswith("run_dir")]

    def start(*given):
        return subprocess.Popen(
            [sys.executable, "-m", "mpt", *command, "-m", "seed=0,1", *given],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    sweep = tmp_path / "sweep"
    process = start(f"hydra.sweep.dir={sweep}")
    while not (sweep / "0/metrics.jsonl").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert report_of(sweep / "0")["status"] == "interrupted"
    cut = report_of(sweep / "0")["training"]["steps"]
    assert 5 <= cut < 12
    process = start(f"resume={sweep}")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    first, second = report_of(sweep / "0"), report_of(sweep / "1")
    assert first["training"]["resumed_from_step"] == cut
    assert second["training"]["resumed_from_step"] is None
    assert [each["training"]["steps"] for each in (first, second)] == [12, 12]
    assert not (sweep / ".jobs/replaced").exists()
    # A job of another configuration is another job: what it came to is kept aside.
    (sweep / "1/report.json").unlink()
    command.append("optimizer.learning_rate=0.5")
    done = json.loads((sweep / ".jobs/1.json").read_text()) | {"status": "killed"}
    (sweep / ".jobs/1.json").write_text(json.dumps(done))
    first_done = json.loads((sweep / ".jobs/0.json").read_text()) | {"status": "killed"}
    (sweep / ".jobs/0.json").write_text(json.dumps(first_done))
    (sweep / "0/report.json").unlink()
    process = start(f"resume={sweep}")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert report_of(sweep / "1")["training"]["resumed_from_step"] is None
    assert len(list((sweep / ".jobs/replaced").glob("1-*"))) == 1
