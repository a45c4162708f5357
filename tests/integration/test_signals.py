"""Signals to a training process: it saves what it has and says so, within its present step."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from resumed_runs import ALLOWED, CODE, report_of, words

from mpt.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ("dataset=digits", "dataset.examples=320", "precision=float32")  # eight steps an epoch


@dataclass
class Process:
    """`mpt train` as a process; `folder` is the run's."""

    folder: Path
    own: tuple[str, ...]
    before: tuple[str, ...] = ()

    def start(self, code=None):
        """Start it; with `code` in the place of the module mpt."""
        program = ["-c", code] if code else ["-m", "mpt"]
        # A shell starts background jobs with SIGINT ignored, and children would inherit that.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [*self.before, sys.executable, *program, *words(self.folder, *DIGITS, *self.own)],
            cwd=self.folder.parent,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(CODE)]),
                "MPT_ALLOW": ALLOWED,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        signal.signal(signal.SIGINT, previous)
        return self

    def wait_for(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def send(self, *numbers):
        for number in numbers:
            time.sleep(0.3)
            self.process.send_signal(number)
        self._sent = time.monotonic()
        return self

    def end(self, timeout=120):
        """Its exit code and output, and the seconds since the last signal."""
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output, time.monotonic() - getattr(self, "_sent", 0)


def slow(tmp_path, part):
    """Whether a batch that takes its time is at work; to be asked later."""
    file = tmp_path / "slow.txt"
    return lambda: file.exists() and file.read_text() == part


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1)),
        pytest.param(signal.SIGUSR2, marks=pytest.mark.slow),
    ],
)
def test_it_waits_for_the_step_and_not_for_the_call(tmp_path, number):
    own = (
        *("model.kwargs={slow: {training: [3, 1.0]}}", "trainer.steps_per_execution=1000"),
        *("trainer.steps=7", "trainer.log_every=100", "trainer.eval_every=100"),
        "trainer.checkpoint_every=null",
    )
    run = Process(tmp_path / "run", own).start().wait_for(slow(tmp_path, "training"))
    code, output, seconds = run.send(number).end()
    assert code == 75, output
    assert seconds < 1 + 4, "a step, and the time to save and end"
    assert output.rstrip().splitlines()[-1] == f"run: {tmp_path / 'run'}"
    report = report_of(tmp_path / "run")
    assert (report["status"], report["exit_code"]) == ("interrupted", 75)
    assert report["reason"]["message"] == f"{number.name} was received"
    steps = report["training"]["steps"]
    assert steps < 7
    assert report["artifacts"]["checkpoint"] == f"checkpoints/step-{steps:08d}.ckpt"
    code, output, _ = Process(tmp_path / "run", own).start().end()
    assert code == 0, output
    assert report_of(tmp_path / "run")["training"]["resumed_from_step"] == steps


@pytest.mark.slow
def test_an_evaluation_is_cut_short(tmp_path):
    own = ("model.kwargs={slow: {evaluation: [3, 3.0]}}", "trainer.eval_every=5")
    own += ("trainer.steps=10", "trainer.checkpoint_every=null", "batch_size=8")
    run = Process(tmp_path / "run", own).start().wait_for(slow(tmp_path, "evaluation"))
    code, output, seconds = run.send(signal.SIGTERM).end()
    assert code == 75, output
    assert seconds < 3 + 4, "a batch of eight that take 3 s each"
    assert report_of(tmp_path / "run")["training"]["steps"] == 5


@pytest.mark.slow
def test_a_second_control_c_ends_it_at_once(tmp_path):
    own = ("model.kwargs={slow: {training: [5, 60]}}", "trainer.checkpoint_every=2")
    run = Process(tmp_path / "run", own).start().wait_for(slow(tmp_path, "training"))
    code, output, seconds = run.send(signal.SIGINT, signal.SIGINT).end()
    assert code == 130, output
    assert seconds < 3.5
    assert Checkpoints(tmp_path / "run").newest().step == 4
    assert not list(tmp_path.rglob(".partial-*"))


TWICE = """
import os, signal, sys, time
from mpt import isolation

def wrap():
    from mpt import saving
    save = saving.save
    def disturbed(model, path):
        path.with_name(".partial-model.keras").write_bytes(b"half of it")
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        save(model, path)
    saving.save = disturbed

imported = isolation.import_tensorflow
isolation.import_tensorflow = lambda verbosity: (imported(verbosity), wrap())
from mpt.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_control_c_twice_while_the_model_is_saved(tmp_path):
    own = ("trainer.steps=9",)
    run = Process(tmp_path / "run", own).start(TWICE)
    code, output, _ = run.end()
    assert code == 130, output
    assert "Traceback" not in output
    assert not (tmp_path / "run/model.keras").exists()
    code, output, _ = Process(tmp_path / "run", own).start().end()
    assert code == 0, output
    report = report_of(tmp_path / "run")
    assert (report["status"], report["training"]["resumed_from_step"]) == ("completed", 9)
    assert (tmp_path / "run/model.keras").exists()
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.slow
def test_a_control_c_after_another_signal_lets_it_save(tmp_path):
    """A batch system tells every process of a job, and a parent hands on what it was told."""
    own = ("model.kwargs={slow: {training: [5, 2]}}", "trainer.checkpoint_every=null")
    run = Process(tmp_path / "run", own).start().wait_for(slow(tmp_path, "training"))
    code, output, _ = run.send(signal.SIGTERM, signal.SIGINT).end()
    assert code == 75, output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs coreutils' timeout")
def test_a_job_with_a_time_limit_is_given_until_it_is_done(tmp_path):
    own = ("model.kwargs={slow: {training: [1, 0.25]}}", "trainer.checkpoint_every=null")
    own += ("trainer.steps=16", "trainer.eval_every=100")  # 4 s at least
    before = ("timeout", "--preserve-status", "-s", "TERM", "300")
    codes, steps = [], [0]
    while len(codes) < 2:
        run = Process(tmp_path / "run", own, before).start()
        run.wait_for(slow(tmp_path, "training"))
        # The limit is reached, for `timeout`; by the clock it would be anywhere in the start.
        codes.append(run.send(signal.SIGALRM).end()[0])
        steps.append(report_of(tmp_path / "run")["training"]["steps"])
        (tmp_path / "slow.txt").unlink()
    assert codes == [75, 75]
    assert steps[0] < steps[1] < steps[2] < 16
    code, output, _ = Process(tmp_path / "run", own, before).start().end()
    assert code == 0, output
    report = report_of(tmp_path / "run")
    assert (report["status"], report["training"]["steps"]) == ("completed", 16)
    assert report["training"]["resumed_from_step"] == steps[2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_while_it_starts_nothing_is_left(tmp_path, number):
    for delay in (0.0, 1.0, 1.5, 2.5, 4.0):
        run = Process(tmp_path / "run", ("run_dir=runs/deep/run",)).start()
        time.sleep(delay)
        code, output, _ = run.send(number).end()
        if code == 75:  # it trained by then
            break
        # Python itself may end by SIGINT; for a shell that is 130 as well.
        assert code in (130, -signal.SIGINT, -number), (delay, output)
        assert "Traceback" not in output
        assert list(tmp_path.iterdir()) == [], f"after {delay} s"
