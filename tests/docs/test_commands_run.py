"""Every `mpt` command of the pages runs, in a smaller form, and ends with 0 or what the page says.

Each is a process of its own, in a folder of its own in which all is there that the page names, real
runs and a real sweep too. Two processes that have imported TensorFlow fork them, two at a time.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import documented
import laid_out
import numpy as np
import pytest

pytestmark = pytest.mark.slow

MPT = list(dict.fromkeys(c.text for c in documented.commands() if c.text.startswith("mpt ")))
MENTIONED = {command.text for command in documented.commands() if command.mention}
LAUNCHERS = "tests/integration/test_launchers.py runs that launcher"
SEARCH = "a search is some ten trainings: tests/integration/test_batch_search.py makes one"
# What cannot run here, and why; all of it goes through test_documented_commands.py.
NOT_HERE = {
    "mpt train -m batch_size=max precision=float32,mixed_bfloat16": SEARCH,
    "mpt train dataset=synthetic 'dataset.shape=[64,64,3]' dataset.examples=1000 "
    "dataset.validation_fraction=0.1 trainer.epochs=1 batch_size=max device=cpu "
    "device.memory_limit_mb=900 precision=float32": SEARCH,
    "mpt train -m hydra/launcher=ray hydra.launcher.ray.init.address=HEAD:6379 seed=0,1 "
    "trainer.epochs=2": f"a Ray cluster: {LAUNCHERS}",
    "mpt train -m hydra/launcher=ray seed=0,1 trainer.epochs=2": f"starts Ray: {LAUNCHERS}",
    "mpt train -m hydra/launcher=ray +hydra.launcher.ray.remote.num_gpus=1 "
    "+hydra.launcher.ray.remote.num_cpus=4 seed=0,1,2,3,4": "a GPU",
    "mpt train -m hydra/launcher=submitit_slurm hydra.launcher.partition=gpu "
    "hydra.launcher.gpus_per_node=1 hydra.launcher.cpus_per_task=8 hydra.launcher.mem_gb=32 "
    "hydra.launcher.timeout_min=240 seed=0,1,2,3,4 precision=float32,mixed_float16": (
        f"Slurm: {LAUNCHERS}, with stand-ins for Slurm's programs"
    ),
    "mpt train dataset=tfds dataset.name=oxford_iiit_pet dataset.size=224 dataset.download=true "
    "model=resnet": "a download",
    """mpt train dataset=tfds dataset.name=mnist 'dataset.split='"'"'train[:90%]'"'"'' """
    """'dataset.validation_split='"'"'train[90%:]'"'"''""": (
        "a dataset that was prepared: tests/unit/data/test_tfds.py prepares one"
    ),
}
WORKERS = "several workers at once: tests/integration/test_workers.py has them"
NOT_HERE |= {text: WORKERS for text in MPT if "device=multi_worker" in text}
HERE = [text for text in MPT if text not in NOT_HERE and text not in MENTIONED]
# What the page says that it ends with, where that is not 0.
STATED = {
    "mpt train precison=float32": (2, "did you mean 'precision'?"),
    "mpt doctor": ((0, 1), "mpt"),  # 1: this machine has a problem
    "mpt bisect precision=mixed_float16": (2, "nothing to find"),
    "mpt bisect --allow my.py model=python model.function=my.py:build precision=mixed_float16 "
    "--steps 100": (2, "nothing to find"),
}

SHORT = (
    *("trainer.steps=2", "trainer.log_every=1", "trainer.warmup_steps=0", "batch_size=4"),
    *("trainer.checkpoint_every=null", "telemetry.peak=false", "telemetry.histogram_every=0"),
)
SMALL_GPT = ("model.depth=2", "model.heads=2", "model.width=16", "dataset.length=16")
SMALL_UNET = ("model.depth=2", "model.width=4", "dataset.size=16")
WARM = "optimizer.schedule.warmup_steps=1"
# In a command that has the first: what is smaller in it.
SMALLER = {
    r"model=resnet|recipe=imagenet|recipe=fashion": ("model.depth=8",),
    r"recipe=(imagenet|fashion|unet|gpt2)": (WARM,),
    r"recipe=gpt2_small": ("optimizer.gradient_accumulation_steps=1",),
    r"(recipe|dataset)=fashion": ("dataset.path=idx",),
    r"dataset=(image_folder|tfrecord)|recipe=imagenet": ("dataset.size=32",),
    r"model=vit": ("model.depth=1", "model.heads=2", "model.width=16"),
    r"model=gpt|recipe=gpt2": SMALL_GPT,
    r"model=unet": SMALL_UNET,
    r"recipe=unet": (*SMALL_UNET, "dataset.examples=20"),
    r"dataset=cifar10": (
        *("dataset=synthetic", "dataset.shape=[32,32,3]", "dataset.examples=64"),  # no download
    ),
    r"recipe=fp32_vs_bf16": ("hydra.sweeper.params.seed='0'",),
    r"recipe=needs_scaling": ("hydra.mode=RUN",),
}


class Ended(NamedTuple):
    """The exit code of a command, and all that it said."""

    code: int
    said: str


def smaller(words: list[str]) -> list[str]:
    """The same command with less to do: what it is about stays."""
    command, text = words[0], " ".join(words)
    if {"--help", "--cfg"} & {*words} or "resume=runs" in text or "trainer=smoke" in words:
        return words
    extra = [each for found, few in SMALLER.items() if re.search(found, text) for each in few]
    if command == "doctor":
        kept = [word for word in words if not word.startswith("batch_size=")]
        return [*kept, *(["batch_size=4", "--seconds", "1"] if "data" in words else [])]
    if command not in ("train", "inspect", "probe", "bisect"):
        return words
    extra += SHORT if command == "train" else SHORT[3:4]
    if command == "train" and "--multirun" not in words and "-m" in words:
        extra = [*extra, *(["seed=0"] if "precision=" in text or "model=" in text else [])]
    keys = {word.partition("=")[0] for word in extra} | {"trainer.epochs"}
    kept = [word for word in words if word.partition("=")[0] not in keys]
    return [*kept, *extra, *(["--steps", "6"] if command == "bisect" else [])]


class Forker:
    """A process that forks one for each command, as tests/docs/forked.py says."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, words: list[str], folder: Path) -> Ended:
        job = {"words": words, "folder": str(folder), "output": str(folder / "output.txt")}
        job["environment"] = {"PYTHONPATH": str(documented.ROOT)}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, (folder / "output.txt").read_text(errors="replace"))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def forkers() -> Iterator["Queue[Forker]"]:
    free: Queue[Forker] = Queue()
    every = [Forker(), Forker()]
    for each in every:
        free.put(each)
    yield free
    for each in every:
        each.close()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, forkers: "Queue[Forker]") -> Path:
    """A folder with all that the commands name: files, real runs, a real sweep, made-up studies."""
    folder = tmp_path_factory.mktemp("base")
    laid_out.data(folder)
    laid_out.shards(folder / "imagenet")
    forker = forkers.get()
    assert forker(["init", laid_out.PROJECT], folder).code == 0
    for name, choices in {"RUN": (), **laid_out.CHOICES}.items():
        ended = forker(["train", *choices, *SHORT, f"run_dir={name}"], folder)
        assert ended.code == 0, ended.said
    for name in laid_out.RUNS:
        if not (folder / name).exists():
            shutil.copytree(folder / "RUN", folder / name)
    real = ["train", "-m", "seed=0", "precision=float32,mixed_bfloat16", *SHORT]
    ended = forker([*real, "hydra.sweep.dir=real"], folder)
    assert ended.code == 0, ended.said
    for name in laid_out.SWEEPS:
        if name in laid_out.REAL:
            shutil.copytree(folder / "real", folder / name)
        else:
            laid_out.study(folder / name)
    (folder / "output.txt").unlink()
    forkers.put(forker)
    return folder


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, base: Path, forkers: "Queue[Forker]", tmp_path_factory: Any
) -> dict[str, Ended]:
    """What each command came to, of those that this session tests."""

    def run(text: str) -> Ended:
        folder = tmp_path_factory.mktemp("command", numbered=True) / "here"
        shutil.copytree(base, folder)
        words = smaller(laid_out.words(text))
        makes = [
            word.partition("=")[2] for word in words if re.match(r"run_dir|hydra\.sweep\.", word)
        ]
        for name in [*makes, *(words[1:] if words[0] == "init" else [])]:
            shutil.rmtree(folder / name, ignore_errors=True)
        forker = forkers.get()
        try:
            return forker(words, folder / laid_out.PLACES.get(text, ""))
        finally:
            forkers.put(forker)
            shutil.rmtree(folder)

    calls = [getattr(item, "callspec", None) for item in request.session.items]
    asked = [call.params["text"] for call in calls if call and "text" in call.params]
    texts = [text for text in HERE if text in asked and not text.startswith("mpt board")]
    with ThreadPoolExecutor(2) as threads:
        return dict(zip(texts, threads.map(run, texts), strict=True))


@pytest.mark.parametrize("text", [text for text in HERE if not text.startswith("mpt board")])
def test_it_runs(text: str, ended: dict[str, Ended]) -> None:
    codes, words = STATED.get(text, (0, ""))
    assert ended[text].code in np.atleast_1d(codes), ended[text].said[-3000:]
    assert words in ended[text].said


@pytest.mark.parametrize("text", [text for text in HERE if text.startswith("mpt board")])
def test_a_board_answers(text: str, base: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", *shlex.split(text), "--port", "0"],
        cwd=base,
        env={**os.environ, "PYTHONPATH": str(documented.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("board: http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_what_does_not_run_here_is_still_in_the_pages() -> None:
    assert set(NOT_HERE) | set(STATED) <= set(MPT)
    assert len(HERE) > 5 * len(NOT_HERE)
