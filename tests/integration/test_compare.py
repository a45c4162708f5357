"""`mpt compare` on runs that trained: the same twice, and a slow-down that was planted."""

import json
from pathlib import Path
from typing import Any

import pytest

PAUSE = '''
import time

import keras


class Pause(keras.callbacks.Callback):
    """Each step takes `seconds` more, whatever else the machine does."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)
'''
RUN = (
    "model=mlp",
    "model.hidden=[8]",
    "trainer.steps=40",
    "trainer.warmup_steps=5",
    "trainer.log_every=20",
    "trainer.eval_every=1000",
    "trainer.steps_per_execution=1",
    "trainer.jit_compile=false",
    "telemetry.tensorboard=false",
    "telemetry.peak=false",
    "precision=float32",
)


@pytest.fixture
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' runs are not counted as jobs on this machine: the pauses do not mind them."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "locks"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_locks")  # before `mpt_process` notes the environment
def test_a_slow_down_of_a_tenth_and_none(mpt_process: Any, tmp_path: Path) -> None:
    (tmp_path / "pausing.py").write_text(PAUSE)
    callbacks = ",".join(
        f"[{{_target_: pausing.Pause, seconds: {seconds}}}]" for seconds in (0.2, 0.2001, 0.22)
    )
    trained = mpt_process(
        "train",
        "-m",
        "--allow",
        "pausing",
        "seed=0,1,2",
        f"trainer.callbacks={callbacks}",
        *RUN,
        "hydra.sweep.dir=sweep",
        timeout=900,
    )
    assert trained.code == 0, trained.err
    compared = mpt_process("compare", "sweep", "--json", "--require", "failures<=0")
    assert compared.code == 0, compared.err
    result = json.loads(compared.out)
    labels = [group["label"] for group in result["groups"]]
    assert labels == ["seconds=0.2", "seconds=0.2001", "seconds=0.22"]
    twin, slow = result["pairings"]
    assert twin["speed"] not in ("faster", "slower"), twin["speed_text"]
    assert slow["speed"] == "slower", slow["speed_text"]
    assert slow["speedup"]["estimate"] == pytest.approx(0.91, abs=0.04)
