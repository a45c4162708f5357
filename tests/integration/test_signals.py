"""Signals to a training process: it saves what it has and says so, within its present step."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from resumed_runs import ALLOWED, CODE, FILE, report_of, words

from mpt.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ("dataset=digits", "dataset.examples=320", "precision=float32")  # eight steps an epoch
HUNG = ("dataset=python", f"dataset.function={FILE}:hung", "precision=float32", "trainer.steps=2")


@dataclass
class Process:
    """`mpt train` as a process; `folder` is the run's."""

    folder: Path
    own: tuple[str, ...]
    before: tuple[str, ...] = ()
    data: tuple[str, ...] = DIGITS

    def start(self, code=None):
        """Start it; with `code` in the place of the module mpt."""
        program = ["-c", code] if code else ["-m", "mpt"]
        command = words(self.folder, *self.data, *self.own)
        if "-m" in command:
            command.remove(f"run_dir={self.folder}")
        self.process = subprocess.Popen(
            [*self.before, sys.executable, *program, *command],
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
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, output, time.monotonic() - getattr(self, "_sent", 0)


def slow(tmp_path, part):
    """Whether a batch that takes its time is at work; to be asked later."""
    file = tmp_path / "slow.txt"
    return lambda: file.exists() and file.read_text() == part


@pytest.mark.slow
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
        # Before it has handlers the signal itself ends it; for a shell that is the same.
        assert code in (128 + number, -number), (delay, output)
        assert "Traceback" not in output
        assert list(tmp_path.iterdir()) == [], f"after {delay} s"


@pytest.fixture
def hung(tmp_path):
    """`hung(*own)` is a process that waits for its data; `hung.left()` all that it has left."""
    (tmp_path / "hang.txt").touch()

    def start(*own):
        run = Process(tmp_path / "run", own, data=HUNG).start()
        run.wait_for((tmp_path / "hung.txt").exists)
        time.sleep(1)  # the main thread is inside TensorFlow
        return run

    start.left = lambda: sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".txt")
    return start


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        ),
    ],
)
def test_while_it_waits_for_data_that_do_not_come(hung, number):
    code, output, seconds = hung().send(number).end()
    assert code == 128 + number, output
    assert seconds < 4
    assert output == "interrupted\n"
    assert hung.left() == []


@pytest.mark.slow
def test_while_it_waits_for_the_first_batch(hung):
    """Where nothing is to be counted, the wait is another one."""
    code, output, seconds = hung("dataset.classes=4", "dataset.examples=320").send(2).end()
    assert (code, output) == (130, "interrupted\n")
    assert seconds < 4
    assert hung.left() == []


@pytest.mark.slow
def test_a_second_control_c_ends_a_wait_for_data_without_delay(hung):
    code, output, seconds = hung().send(signal.SIGINT, signal.SIGINT).end()
    assert (code, output) == (130, "interrupted\n")
    assert seconds < 1


@pytest.mark.slow
def test_a_child_that_waits_for_data(hung):
    code, output, seconds = interrupt_with_child(hung("device.memory_limit_mb=8000"))
    assert (code, output) == (130, "interrupted\n")
    assert seconds < 5
    assert hung.left() == []


@pytest.mark.slow
def test_a_sweep_whose_job_waits_for_data(hung, tmp_path):
    code, output, seconds = interrupt_with_child(hung("-m", "hydra.sweep.dir=sweep"))
    assert code == 75, output  # the job can run again
    assert seconds < 6
    (job,) = json.loads((tmp_path / "sweep/sweep.json").read_text())["jobs"]
    assert (job["status"], job["exit_code"]) == ("interrupted", 130)


def interrupt_with_child(run):
    """What `end` gives after a SIGINT to a process whose child trains, which ends too."""
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert children
    ended = run.send(signal.SIGINT).end()
    assert not any(child.is_running() for child in children)
    return ended


@pytest.mark.slow
def test_a_run_that_would_go_on_waits_for_its_data(hung, tmp_path):
    (tmp_path / "hang.txt").unlink()
    code, output, _ = Process(tmp_path / "run", (), data=HUNG).start().end()
    assert code == 0, output
    before = contents(tmp_path / "run")
    (tmp_path / "hang.txt").touch()
    code, output, seconds = hung("trainer.steps=4").send(signal.SIGTERM).end()
    assert code == 143, output
    assert seconds < 4
    assert contents(tmp_path / "run") == before


def contents(folder):
    """Every file below `folder`: path -> bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
