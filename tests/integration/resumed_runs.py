"""Runs of `resumed/own_training.py`, unbroken and in pieces, and what must be equal of them."""

import io
import json
import random
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpt.checkpoint import Checkpoints
from mpt.run_folder import read_metrics

CODE = Path(__file__).with_name("resumed")
FILE = CODE / "own_training.py"
ALLOWED = f"own_training,{FILE}"
MEASURED = ("throughput/", "memory/", "compute/", "report/")  # of the machine, not of the run

SIGNALS = "{_target_: own_training.Signals, file: signals.json}"
WORDS = (
    *("model=python", f"model.function={FILE}:model", "device=cpu", "batch_size=32"),
    *("trainer.epochs=null", "trainer.log_every=5", "trainer.eval_every=8"),
    *("trainer.checkpoint_every=7", "trainer.warmup_steps=0", "trainer.steps=26"),
    *("telemetry.histogram_every=6", "telemetry.peak=false"),
)


def words(folder, *own, callbacks=()):
    """The command line of a run in `folder`; `own` words win."""
    listed = ",".join([SIGNALS, *callbacks])
    return ["train", *WORDS, f"trainer.callbacks=[{listed}]", f"run_dir={folder}", *own]


def forget_this_process():
    """What a new process would not have: names that were given, generators where they stood."""
    keras.utils.clear_session()
    random.seed()
    np.random.seed()


def train(main, folder, *own, **named):
    """Train in this process; the exit code."""
    forget_this_process()
    return main(words(folder, *own, **named))


def variables(folder):
    """Every variable in the last checkpoint: path -> dtype, shape and bytes."""
    kept = Checkpoints(Path(folder)).newest().state["variables"]
    assert len(kept["paths"]) <= len(kept["values"])  # one a replica
    return [(value.dtype.name, value.shape, value.tobytes()) for value in kept["values"]]


def paths(folder):
    """The names of the variables in the last checkpoint."""
    return Checkpoints(Path(folder)).newest().state["variables"]["paths"]


def state(folder):
    """The last checkpoint, without what was measured and what each process has of its own."""
    kept = dict(Checkpoints(Path(folder)).newest().state)
    for part in ("variables", "throughput", "run", "recorder", "steps_per_execution"):
        del kept[part]
    del kept["training"]["seconds"], kept["training"]["window_seconds"]
    kept["training"]["pending"].pop("data_wait", None)
    return _plain(kept)


def rows(folder):
    """metrics.jsonl, without what was measured of the machine."""
    return [
        {k: repr(v) for k, v in row.items() if not k.startswith((*MEASURED, "wall_seconds"))}
        for row in read_metrics(folder)
    ]


def curves(folder):
    """What TensorBoard shows: tag -> its points, in the order in which they were read."""
    sizes = {"scalars": 0, "histograms": 0, "tensors": 0}
    events = EventAccumulator(str(Path(folder) / "tensorboard"), size_guidance=sizes).Reload()
    tags = events.Tags()
    scalars = {
        tag: [(event.step, repr(event.value)) for event in events.Scalars(tag)]
        for tag in tags["scalars"]
    }
    tensors = {
        tag: [(event.step, event.tensor_proto.tensor_content) for event in events.Tensors(tag)]
        for tag in tags["tensors"]
    }
    return scalars, tensors


def saved_weights(folder):
    """The weights in model.keras: name -> bytes."""
    found = {}
    with zipfile.ZipFile(Path(folder) / "model.keras") as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))

    def note(name, node):
        if isinstance(node, h5py.Dataset):
            found[name] = node[()].tobytes()

    with h5py.File(content) as file:
        file.visititems(note)
    return found


def report_of(folder):
    return json.loads((Path(folder) / "report.json").read_text())


def assert_identical(unbroken, resumed, *, calls=True, evaluated_again=False):
    """That two runs came to the same, to the bit, and show it alike.

    Args:
        calls: they had the same number of calls, which callbacks count.
        evaluated_again: both evaluate their last step twice: before and after averaging.
    """
    different = [
        path
        for path, one, other in zip(
            paths(unbroken), variables(unbroken), variables(resumed), strict=False
        )
        if one != other
    ]
    assert different == []
    assert variables(unbroken) == variables(resumed)
    states = [state(folder) for folder in (unbroken, resumed)]
    if not calls:
        for each in states:
            del each["callbacks"]["callbacks"][0]["values"]["batches_ended"]
    assert states[0] == states[1]
    assert rows(unbroken) == rows(resumed)
    assert saved_weights(unbroken) == saved_weights(resumed)
    assert_same_report(report_of(unbroken), report_of(resumed))
    assert_same_curves(unbroken, resumed, evaluated_again=evaluated_again)


def assert_same_report(one, other):
    for key in ("status", "exit_code", "reason", "metrics", "loss_scale"):
        assert one[key] == other[key], key
    told, told_again = (  # how long the data took is the machine's
        [each for each in report["diagnosis"] if "data_wait_fraction" not in each]
        for report in (one, other)
    )
    assert told == told_again
    warned = [text for text in other["warnings"] if not text.startswith("No checkpoint was")]
    assert one["warnings"] == warned
    for key in ("steps", "epochs", "batch_size", "rollbacks"):
        assert one["training"][key] == other["training"][key], key
    assert one["config_hash"] == other["config_hash"]
    assert set(one["artifacts"]) == set(other["artifacts"])


def assert_same_curves(unbroken, resumed, *, evaluated_again):
    (scalars, tensors), (other_scalars, other_tensors) = curves(unbroken), curves(resumed)
    assert set(scalars) == set(other_scalars)
    assert set(tensors) == set(other_tensors)
    for tag, points in scalars.items():
        steps = [step for step, _ in points]
        if not (evaluated_again and tag.startswith("validation/")):
            assert steps == sorted(set(steps)), f"{tag}: a step is shown twice"
        if tag.startswith(MEASURED):
            assert steps == [step for step, _ in other_scalars[tag]], tag
        else:
            assert points == other_scalars[tag], tag
    for tag, points in tensors.items():
        if tag.startswith("_hparams_/"):  # they hold times
            assert len(points) == len(other_tensors[tag]) == 1, tag
        elif tag != "run/config":  # that names the folder
            assert points == other_tensors[tag], tag


def _plain(value):
    """With arrays as their bytes, so that NaN equals NaN."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    if isinstance(value, np.ndarray):
        return (value.dtype.name, value.shape, value.tobytes())
    return repr(value)
