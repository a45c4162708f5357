"""Training that is killed (SIGKILL) at any moment, and resumed, comes to what it would have.

One run is killed many times: while it starts, trains, writes a checkpoint, ends, saves its model
and writes its report. MPT_KILLS is the number of kills, MPT_KILL_SEED the seed of their moments;
`make torture` sets them.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from resumed_runs import ALLOWED, CODE, FILE, assert_identical, report_of, words

from mpt.checkpoint import Checkpoints, read
from mpt.run_folder import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("MPT_KILLS", "20"))
SEED = os.environ.get("MPT_KILL_SEED") or str(random.SystemRandom().randrange(10**6))
STEPS = 45
EARLY, LATE = ("starting", "opening", "training", "writing"), ("ending", "saving", "reporting")
EARLY_KILLS = 7  # of one run
STOPPING = "{_target_: keras.callbacks.EarlyStopping, monitor: val_loss, patience: 99}"
VARIANTS = {
    "float32": (
        *("precision=float32", "dataset=digits", "dataset.examples=320", "optimizer=adamw"),
        *("optimizer.ema=true", "optimizer.gradient_accumulation_steps=2"),
        "optimizer.schedule.name=cosine",
    ),
    "float16": (
        *("precision=mixed_float16", "dataset=python", f"dataset.function={FILE}:data"),
        *("dataset.shuffle=true", "dataset.kwargs={infinite: [40, 41, 200]}"),
        *("loss_scale.growth_steps=3", "loss_scale.initial_scale=1024"),
    ),
    "bfloat16": (
        *("precision=mixed_bfloat16", "dataset=python", "trainer.on_divergence=rollback"),
        *(f"dataset.function={FILE}:bad_for_a_while", "dataset.kwargs={first: 10, last: 12}"),
        "loss_scale.max_consecutive_skips=2",
    ),
}


@dataclass
class Killed:
    """A run that is killed again and again.

    Attributes:
        every: steps between two checkpoints.
        noted: what was done to it, for a person to read.
    """

    folder: Path
    variant: str
    every: int
    dice: random.Random
    kills: int = 0
    noted: list[str] = field(default_factory=list)

    def start(self, *, resume=False):
        """The training process: by its command, or by resume=RUN."""
        own = (*VARIANTS[self.variant], f"trainer.steps={STEPS}")
        own += (f"trainer.checkpoint_every={self.every}", "trainer.eval_every=9")
        command = words(self.folder, *own, callbacks=[STOPPING])
        if resume:
            command = ["train", f"resume={self.folder}"]
        path = os.pathsep.join([str(ROOT), str(CODE)])
        return subprocess.Popen(
            [sys.executable, "-m", "mpt", *command],
            cwd=self.folder.parent,
            env={**os.environ, "PYTHONPATH": path, "MPT_ALLOW": ALLOWED},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self):
        """Let it train to its end; its output."""
        process = self.start()
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
        return output

    def kill(self, moment, startup_seconds):
        """Kill the next process at such a moment; False where it was done before."""
        before = self.step()
        resume = self.dice.random() < 0.3 and (self.folder / ".hydra/config.yaml").exists()
        process, began = self.start(resume=resume), time.time()
        ahead = self.dice.randint(0, 3)  # checkpoints that it may write before
        try:
            while process.poll() is None and not self.has_come(moment, before, ahead, began):
                time.sleep(0.0003)
                if moment == "starting" and time.time() - began > startup_seconds:
                    break
            delay = {"writing": 0.003, "saving": 0.02, "training": 0.03, "ending": 0.1}.get(
                moment, 0.3
            )
            time.sleep(self.dice.uniform(0, delay))
        finally:
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
        self.noted.append(f"{moment} {before}->{self.step()}")
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, output
            return False
        self.kills += 1
        self.check(before)
        return True

    def has_come(self, moment, before, ahead, began):
        """Whether the moment has come; `began` is when the process did."""
        if moment == "starting":
            return False
        if moment == "opening":
            return _newer(self.folder / "train.log", began)
        if moment == "saving":
            return (self.folder / ".partial-model.keras").exists()
        if moment == "reporting":
            return _newer(self.folder / "model.keras", began)
        step = self.step()
        if moment == "ending":
            return step == STEPS and _newer(self.folder / "train.log", began)
        if step < min(before + ahead * self.every, STEPS - 1):
            return False
        partial = any(self.folder.glob("checkpoints/.partial-*"))
        return partial if moment == "writing" else _newer(self.folder / "train.log", began)

    def step(self):
        """The step of the newest checkpoint."""
        return max(Checkpoints(self.folder).steps(), default=0)

    def check(self, before):
        """That nothing which the folder held before a kill is lost, and all of it is whole."""
        assert self.step() >= before, "a checkpoint was lost"
        for file in Checkpoints(self.folder).steps().values():
            read(file)
        for file in self.folder.rglob("*.json"):
            assert file.read_text().endswith("}\n")
        if (self.folder / "metrics.jsonl").exists():
            steps = [row["step"] for row in read_metrics(self.folder)]
            assert steps == sorted(steps)

    def files(self):
        """What the folder holds, but for the number and the names of event files."""
        found = {file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*")}
        return {re.sub(r"tfevents\..*", "tfevents", name) for name in found}


def _newer(file, moment):
    try:
        return file.stat().st_mtime > moment
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """`unbroken(variant, every)` is the folder of a run that nobody disturbed."""
    found = {}

    def call(variant, every):
        if (variant, every) not in found:
            folder = tmp_path_factory.mktemp("unbroken") / "run"
            run = Killed(folder, variant, every, random.Random())
            run.end()
            found[variant, every] = run
        return found[variant, every]

    return call


def test_it_comes_to_the_same_however_often_it_is_killed(tmp_path, unbroken):
    dice = random.Random(SEED)
    print(f"\nMPT_KILL_SEED={SEED} MPT_KILLS={KILLS}")
    kills, startup_seconds, count = 0, 6.0, 0
    while kills < KILLS:
        variant, every = list(VARIANTS)[count % len(VARIANTS)], count % 3 + 1
        reference = unbroken(variant, every)
        run = Killed(tmp_path / f"run_{count}", variant, every, dice)
        early = [*EARLY, *dice.choices(EARLY[1:], k=EARLY_KILLS - len(EARLY))]
        moments = [*dice.sample(early, k=len(early)), *dice.sample(LATE, k=len(LATE))]
        for moment in moments:
            if not run.kill(moment, dice.uniform(0.1, startup_seconds)):
                break
        output = run.end()
        kills, count = kills + run.kills, count + 1
        print(f"{variant}, every {every}: {', '.join(run.noted)}")
        assert output.rstrip().splitlines()[-1] == f"run: {run.folder}"
        assert_identical(reference.folder, run.folder)
        assert run.files() == reference.files()
        if variant == "bfloat16":
            assert report_of(run.folder)["training"]["rollbacks"], "it never went back"
        assert "done: completed" in run.end()
    print(f"{kills} kills of {count} runs")
