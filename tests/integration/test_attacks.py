"""What a configuration, a file or a folder of somebody else's must not do here.

Each attack has something that would show its success: a canary, which the code of its module
`intruder` would make; a variable of the environment, which would turn up in what is printed or
written; a file of the user's, which would be changed. None of them succeeds, and each is told of by
exit code 2 and one block on stderr. Nothing is left behind.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pages_study import metrics, report, write

ROOT = Path(__file__).resolve().parents[2]
SECRET = "not-for-anybody-else"
PRECIOUS = "what the user would miss\n" * 400
ESCAPES = "\x1b[31mred\x1b[2J\x07\u202e"
TINY = (
    "trainer.steps=2",
    "trainer.log_every=1",
    "trainer.warmup_steps=0",
    "trainer.checkpoint_every=1",
    "dataset.examples=80",
    "batch_size=8",
    "telemetry.peak=false",
    "telemetry.tensorboard=false",
)
INTRUDER = """
import os, pathlib
def touch(*arguments, **keys):
    pathlib.Path(os.environ["CANARY"]).touch()
touch()
class Callback:
    def __getattr__(self, name):
        return touch
"""


def hole(file: Path, size: int = 2**36) -> None:
    """Put a file in its place that takes no room on the disk, and more memory than there is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with open(file, "wb") as opened:
        opened.truncate(size)


def deep(file: Path) -> None:
    """A file of more levels than Python's own limit."""
    file.write_text('{"a":' * 10**6)


def pipe(file: Path) -> None:
    """Put a pipe in its place, which nobody ever writes to."""
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def endless(file: Path) -> None:
    """Put a link to a device without end in its place."""
    file.unlink(missing_ok=True)
    file.symlink_to("/dev/zero")


def link(file: Path) -> None:
    """Put a link to the user's own file in its place."""
    file.unlink(missing_ok=True)
    file.symlink_to(Path("PRECIOUS").absolute())


def linked(folder: Path) -> None:
    """Put a link to a folder of the user's, with the same in it, in its place."""
    theirs = Path("theirs").absolute() / folder.name
    theirs.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    folder.rename(theirs)
    folder.symlink_to(theirs)


class Gadget:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@dataclass(frozen=True)
class Attack:
    """A command line, the files that it comes with, and what the refusal must say.

    Attributes:
        words: of the command line; "@" is the folder, and "mpt train" goes without saying.
        where: what is in the line that says where it is wrong.
        says: what else is said.
        files: name -> text.
        plant: makes what is no text, in the folder; its second argument has a finished `run`.
    """

    name: str
    words: str
    where: str
    says: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    plant: Callable[[Path, Path], None] | None = None

    def argv(self, folder: Path) -> list[str]:
        words = [word.replace("@", str(folder)) for word in self.words.split()]
        if words[0] in ("show", "compare", "board", "probe"):
            return words
        complete = {"resume=run", "-cp"} & set(words)
        return ["train", *words, *(() if complete else TINY)]


def attack(name, words, where, *says, files=None, plant=None):
    return Attack(name, words, where, says, files or {}, plant)


def configured(name, path, text, words, where, *says):
    """An attack from the folder that --config-dir adds."""
    return Attack(name, f"--config-dir mine {words}", where, says, {f"mine/{path}": text})


def logging(name, handler, where, group="job_logging", more=""):
    text = f"version: 1\nroot: {{handlers: [h], level: DEBUG}}\nhandlers: {{h: {handler}}}\n{more}"
    where = f"hydra.{group}.{where}"
    return configured(
        name, f"hydra/{group}/bad.yaml", text, f"hydra/{group}=bad", where, f"--allow hydra.{group}"
    )


def model(name, text, where, *says):
    return configured(name, "model/bad.yaml", text, "model=bad", where, *says)


CODE = [
    attack("a module", "model._target_=intruder.touch", "model._target_", "--allow intruder"),
    attack("a shell", "model._target_=os.system", "model._target_", "runs programs"),
    attack("an import of ours", "model._target_=mpt.data.arrays.np.save", "model._target_"),
    attack(
        "a class that ours imports",
        "model._target_=mpt.data.arrays.Path",
        "model._target_",
        "pathlib runs programs or changes files",
    ),
    attack("a dunder of ours", "model._target_=mpt.models.cnn.build.__globals__", "model._target_"),
    attack("a dunder of Keras's", "loss={_target_:keras.losses.Loss.__init__}", "loss._target_"),
    attack("Keras's private modules", "loss={_target_:keras.src.losses.Huber}", "loss._target_"),
    attack("what opens files", "dataset._target_=builtins.open", "dataset._target_"),
    attack("a list for a target", "model._target_=[os,system]", "model._target_"),
    attack("in a loss", "+loss={_target_:intruder.touch}", "loss"),
    attack("in a list", "metrics=[accuracy,{_target_:intruder.touch}]", "metrics[1]._target_"),
    attack(
        "in an argument",
        "+model.arguments=[[{_target_:intruder.touch}]]",
        "model.arguments[0][0]._target_",
    ),
    attack(
        "in kwargs",
        "model=python model.function=mpt.models.cnn:build +model.kwargs={x:{_target_:os.getcwd}}",
        "model.kwargs.x._target_",
    ),
    attack(
        "in a schedule", "+optimizer.schedule.x={_target_:intruder.touch}", "schedule.x._target_"
    ),
    attack(
        "in a callback",
        "trainer.callbacks=[{_target_:keras.callbacks.EarlyStopping,monitor:{_target_:os.getcwd}}]",
        "trainer.callbacks[0].monitor._target_",
    ),
    attack(
        "a file's function",
        "model=python model.function=intruder.py:touch",
        "model.function",
        "--allow intruder.py",
    ),
    attack(
        "a function elsewhere",
        "--allow other.py model=python model.function=@/intruder.py:touch",
        "model.function",
    ),
    attack("data", "dataset=python dataset.function=intruder:touch", "dataset.function"),
    attack(
        "a function that ours imports",
        "model=python model.function=mpt.data.arrays:Path",
        "model.function",
    ),
    attack("a function anywhere", "loss={_target_:keras.losses.Huber,function:os:getcwd}", "loss"),
    attack("partial", "+model._partial_=true", "model._partial_"),
    attack("arguments by place", "+model._args_=[1]", "model._args_"),
    attack("not recursive", "+model._recursive_=false", "model._recursive_"),
    attack("a rerun", "--experimental-rerun run.pickle", "command line"),
]

KERAS = [
    attack(
        "a serialized loss",
        "loss={class_name:function,config:touch,module:intruder,registered_name:touch}",
        "loss.class_name",
        "_target_",
    ),
    attack(
        "a serialized metric",
        "metrics=[{class_name:MeanMetricWrapper,config:{fn:{class_name:function,"
        "config:touch,module:intruder,registered_name:touch}},module:keras.metrics}]",
        "metrics[0].class_name",
    ),
    attack(
        "a serialized argument",
        "metrics=[{_target_:keras.metrics.Mean,dtype:{class_name:X,module:intruder,config:{}}}]",
        "metrics[0].dtype.class_name",
    ),
    attack(
        "a serialized optimizer",
        "+optimizer.schedule.x={class_name:Adam,module:intruder,config:{}}",
        "optimizer.schedule.x.class_name",
    ),
    attack(
        "a callback of texts",
        "trainer.callbacks=[{_target_:keras.callbacks.LambdaCallback,on_train_end:intruder.touch}]",
        "trainer.callbacks[0]._target_",
        "--allow keras.callbacks",
    ),
    attack(
        "a callback that writes",
        "trainer.callbacks=[{_target_:keras.callbacks.CSVLogger,filename:@/CANARY}]",
        "trainer.callbacks[0]._target_",
    ),
    attack(
        "a callback that makes folders",
        "trainer.callbacks=[{_target_:keras.callbacks.OrbaxCheckpoint,directory:@/CANARY}]",
        "trainer.callbacks[0]._target_",
    ),
    attack(
        "a callback that sends",
        "trainer.callbacks=[{_target_:keras.callbacks.RemoteMonitor,root:http://127.0.0.1}]",
        "trainer.callbacks[0]._target_",
    ),
    attack("a function of Keras's", "loss={_target_:keras.losses.deserialize}", "loss._target_"),
    attack(
        "a download",
        "model._target_=keras.utils.get_file",
        "model._target_",
    ),
]

HYDRA = [
    attack(
        "a callback of Hydra's",
        "+hydra.callbacks.x._target_=intruder.Callback",
        "hydra.callbacks.x._target_",
        "--allow intruder",
    ),
    attack(
        "a callback with arguments",
        "+hydra.callbacks.x={_target_:pathlib.Path.touch,_args_:[@/CANARY]}",
        "hydra.callbacks.x._target_",
    ),
    attack(
        "in our own callback",
        "+hydra.callbacks.folders.x={_target_:intruder.touch}",
        "hydra.callbacks.folders.x._target_",
    ),
    configured(
        "a callback by interpolation",
        "bad.yaml",
        "defaults: [train, _self_]\n"
        "published: [{source: a, _target_: intruder.Callback}]\n"
        "hydra: {callbacks: {x: '${published[0]}'}}\n",
        "--config-name bad",
        "hydra.callbacks.x._target_",
    ),
    attack("a launcher", "-m seed=0 hydra.launcher._target_=intruder.touch", "command line"),
    attack("in a launcher", "-m seed=0 +hydra.launcher.x={_target_:os.getcwd}", "hydra.launcher.x"),
    attack(
        "in a sweeper",
        "-m seed=0 +hydra.sweeper.x={_target_:intruder.touch}",
        "hydra.sweeper.x._target_",
    ),
    attack(
        "commands of a launcher",
        "-m seed=0 hydra/launcher=submitit_slurm hydra.launcher.setup=['touch${IFS}CANARY']",
        "hydra.launcher.setup",
        "--allow hydra.launcher",
    ),
    configured(
        "a line in a batch script",
        "hydra/launcher/bad.yaml",
        'defaults: [submitit_slurm]\ncomment: "x\\ntouch CANARY"\n',
        "-m seed=0 hydra/launcher=bad",
        "hydra.launcher.comment",
    ),
    attack(
        "pickles from elsewhere",
        "-m seed=0 hydra/launcher=submitit_local hydra.launcher.submitit_folder=@/theirs",
        "hydra.launcher.submitit_folder",
    ),
    attack(
        "variables of a launcher's workers",
        "-m seed=0 hydra/launcher=ray +hydra.launcher.ray.init.runtime_env={env_vars:{A:b}}",
        "hydra.launcher.ray.init.runtime_env",
    ),
    configured(
        "somebody's cluster",
        "hydra/launcher/bad.yaml",
        "defaults: [ray]\nray: {init: {address: 'ray://evil:10001'}}\n",
        "-m seed=0 hydra/launcher=bad",
        "hydra.launcher.ray.init.address",
        "on the command line",
    ),
    logging("a log handler's factory", "{'()': intruder.Callback}", "handlers.h.()"),
    logging("a log handler's class", "{class: intruder.Callback}", "handlers.h.class"),
    logging(
        "Hydra's own log", "{class: intruder.Callback}", "handlers.h.class", group="hydra_logging"
    ),
    logging(
        "a stream to be imported",
        "{class: logging.StreamHandler, stream: 'ext://intruder.touch'}",
        "handlers.h.stream",
    ),
    logging(
        "a log file elsewhere",
        "{class: logging.FileHandler, filename: '${hydra.runtime.cwd}/CANARY'}",
        "handlers.h.filename",
    ),
    logging(
        "a log file above",
        "{class: logging.FileHandler, filename: '${hydra.runtime.output_dir}/../../CANARY'}",
        "handlers.h.filename",
    ),
    logging(
        "a class that is told later",
        "{class: '${oc.select:hydra.job.num,logging.StreamHandler}'}",
        "handlers.h.class",
    ),
    logging(
        "a formatter",
        "{class: logging.StreamHandler, formatter: f}",
        "formatters.f.()",
        more="formatters: {f: {'()': intruder.touch}}\n",
    ),
    logging(
        "a filter",
        "{class: logging.StreamHandler, filters: [f]}",
        "filters.f.()",
        more="filters: {f: {'()': intruder.touch}}\n",
    ),
    attack(
        "a log file's name",
        "hydra/job_logging=default hydra.job.name=../../CANARY",
        "hydra.job_logging.handlers.file.filename",
    ),
    attack(
        "a package to search",
        "hydra.searchpath=[pkg://intruder]",
        "hydra.searchpath",
        "--allow intruder",
    ),
    configured(
        "a package to search, in a file",
        "bad.yaml",
        "defaults: [train, _self_]\nhydra: {searchpath: ['pkg://intruder']}\n",
        "--config-name bad",
        "hydra.searchpath",
    ),
    attack("a package of configurations", "-cp pkg://intruder", "hydra.searchpath"),
    configured(
        "another primary configuration",
        "train.yaml",
        "model: {_target_: intruder.touch}\nhydra: {callbacks: {x: {_target_: intruder.touch}}}\n",
        "-cp @/mine",
        "hydra.callbacks.x._target_",
    ),
]

ENVIRONMENT = [
    attack(
        "an admission",
        "+hydra.job.env_set.MPT_ALLOW=intruder model=python model.function=intruder:touch",
        "hydra.job.env_set.MPT_ALLOW",
    ),
    attack(
        "a path of Python's",
        "-m seed=0 +hydra.job.env_set.PYTHONPATH=@/site",
        "hydra.job.env_set.PYTHONPATH",
        "in front of the command",
    ),
    attack("a library", "+hydra.job.env_set.LD_PRELOAD=@/x.so", "hydra.job.env_set.LD_PRELOAD"),
    attack("a copy", "hydra.job.env_copy=[TOKEN]", "hydra.job.env_set.TOKEN"),
    attack("in a name", "name=${oc.env:TOKEN}", "${oc.env:TOKEN}", "--allow env:TOKEN"),
    attack("in a figure", "published=[{source:${oc.env:TOKEN}}]", "${oc.env:TOKEN}"),
    attack("in a folder's name", "run_dir=runs/${oc.env:TOKEN}", "${oc.env:TOKEN}"),
    attack("in a sweep's folder", "-m seed=0 hydra.sweep.dir=x/${oc.env:TOKEN}", "${oc.env:TOKEN}"),
    attack("shown", "--cfg job --resolve name=${oc.env:TOKEN}", "${oc.env:TOKEN}"),
    model(
        "decoded",
        '_target_: mpt.models.cnn.build\nname: "${oc.decode:\\"\'\\\\${oc.env:TOKEN}\'\\"}"\n',
        "${oc.env:TOKEN}",
    ),
    model(
        "by a name that is made",
        "_target_: mpt.models.cnn.build\nname: ${oc.${model.e}:TOKEN}\ne: env\n",
        "${oc.env:TOKEN}",
    ),
]

FOLDERS = [
    attack("a name that climbs", "name=../../x", "name", "path separator"),
    attack("an absolute name", "name=/tmp/x", "name", "path separator"),
    attack("a model's name that climbs", "model.name=../../x", "model.name", "path separator"),
    attack("a model's name for a parent", "model.name=..", "model.name"),
    attack("a dataset's name that climbs", "dataset.name=../../x", "dataset.name"),
    model("a NUL in a name", '_target_: mpt.models.cnn.build\nname: "a\\0b"\n', "model.name"),
    model("lines in a name", '_target_: mpt.models.cnn.build\nname: "a\\nb"\n', "model.name"),
    model("colours in a name", '_target_: mpt.models.cnn.build\nname: "a\\e[31m"\n', "model.name"),
    configured(
        "a NUL in a folder",
        "bad.yaml",
        'defaults: [train, _self_]\nrun_dir: "x\\0y"\n',
        "--config-name bad",
        "hydra.run.dir",
    ),
    configured(
        "half a character in a folder",
        "bad.yaml",
        'defaults: [train, _self_]\nhydra: {sweep: {dir: "x\\ud800y"}}\n',
        "--config-name bad -m seed=0",
        "hydra.sweep.dir",
    ),
    attack("a sweep's job that climbs", "-m seed=0 hydra.sweep.subdir=../x", "hydra.sweep.subdir"),
    attack("a job elsewhere", "-m seed=0 hydra.sweep.subdir=@/x", "hydra.sweep.subdir"),
    attack(
        "a job named by its overrides",
        "-m seed=0 init_from=a/../../../../x hydra.sweep.subdir=${hydra.job.override_dirname}",
        "hydra.sweep.subdir",
    ),
    attack("Hydra's files elsewhere", "hydra.output_subdir=../../x", "hydra.output_subdir"),
    attack("another working folder", "hydra.job.chdir=true", "hydra.job.chdir"),
    attack(
        "a recipe from elsewhere",
        "--config-dir mine recipe=../../theirs",
        "recipe",
        "--config-dir",
        files={"mine/x.yaml": "{}", "theirs.yaml": "# @package _global_\nseed: 3\n"},
    ),
    attack(
        "a choice from elsewhere",
        "--config-dir mine model=../../theirs",
        "model",
        files={"mine/x.yaml": "{}", "theirs.yaml": "_target_: mpt.models.cnn.build\nname: x\n"},
    ),
]

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
ECHOES = "_target_: mpt.models.cnn.build\na0: lol\n" + "".join(
    f"a{i}: {f'${{model.a{i - 1}}}' * 10}\n" for i in range(1, 10)
)
LISTS = "_target_: mpt.models.cnn.build\nname: x\na0: [lol]\n" + "".join(
    f"a{i}: {json.dumps([f'${{model.a{i - 1}}}'] * 10)}\n" for i in range(1, 10)
)
YAML = [
    model("a Python object", "x: !!python/object/apply:os.system ['touch CANARY']\n", "", "tag"),
    model("a Python name", "x: !!python/name:intruder.touch\n", "", "tag"),
    model("a Python module", "x: !!python/module:intruder\n", "", "tag"),
    model("a billion laughs", LAUGHS, "bad.yaml", "over 100000 values"),
    model("itself", "x: &x [*x]\n", "bad.yaml", "itself"),
    model("a billion echoes", ECHOES + "name: ${model.a9}\n", "${...}", "multiply"),
    model("a billion lists", LISTS, "${...}", "multiply"),
    model("depths of lists", f"x: {'[' * 5000}{']' * 5000}\n", "bad.yaml", "levels"),
    model("depths of mappings", f"x: {'{a: ' * 300}1{'}' * 300}\n", "bad.yaml", "levels"),
    model("a circle", "_target_: x\na: ${model.b}\nb: ${model.a}\nname: ${model.a}\n", ""),
    attack("depths of an override", f"+model.x={'[' * 1000}{']' * 1000}", "command line", "deep"),
    attack("a number without end", f"seed={'9' * 5000}", "command line"),
    attack(
        "a configuration of two gigabytes",
        "--config-dir mine model=bad",
        "bad.yaml",
        "Larger than",
        plant=lambda folder, _: hole(folder / "mine" / "model" / "bad.yaml"),
    ),
]


# Files of weights, made of the run's own model.
DENSE = "layers/dense/vars/1"


def archive(change):
    """An attack's model.keras, whose description of layers `change` has changed."""

    def plant(folder, kept):
        with (
            zipfile.ZipFile(kept / "run" / "model.keras") as source,
            zipfile.ZipFile(folder / "bad.keras", "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                content = source.read(name)
                if name == "config.json":
                    content = change(json.loads(content))
                target.writestr(name, content)

    return plant


def layer(**spec):
    """`change` that puts a layer into the model."""

    def change(content):
        content["config"]["layers"].insert(-1, {"registered_name": None, **spec})
        return json.dumps(content)

    return archive(change)


def activation(**spec):
    return layer(
        module="keras.layers",
        class_name="Activation",
        config={"activation": {"registered_name": None, **spec}},
    )


def hdf5(change):
    """An attack's bad.weights.h5, of the run's weights and what `change` does to them."""

    def plant(folder, kept):
        import h5py

        with zipfile.ZipFile(kept / "run" / "model.keras") as source:
            (folder / "bad.weights.h5").write_bytes(source.read("model.weights.h5"))
        with h5py.File(folder / "theirs.h5", "w") as theirs:
            theirs["x"] = np.full(10, 42.0, np.float32)
        with h5py.File(folder / "bad.weights.h5", "r+") as file:
            del file[DENSE]
            change(h5py, file, folder)

    return plant


def _virtual(h5py, file, folder):
    layout = h5py.VirtualLayout((10,), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "theirs.h5"), "x", (10,))
    file.create_virtual_dataset(DENSE, layout)


def _pickled_weights(folder, kept):
    content = io.BytesIO()
    gadget = np.array([Gadget(folder / "CANARY")], dtype=object)
    np.savez(content, **{"layers/dense": gadget, "layers/conv2d": gadget})
    with (
        zipfile.ZipFile(kept / "run" / "model.keras") as source,
        zipfile.ZipFile(folder / "bad.keras", "w") as target,
    ):
        for name in ("metadata.json", "config.json"):
            target.writestr(name, source.read(name))
        target.writestr("model.weights.npz", content.getvalue())


def weights(name, plant, *says, file="bad.keras"):
    return attack(name, f"init_from={file}", f"init_from={file}", *says, plant=plant)


def external(h5py, file, folder):
    file[DENSE] = h5py.ExternalLink(str(folder / "theirs.h5"), "/x")


def raw_bytes(h5py, file, folder):
    file.create_dataset(DENSE, (10,), np.float32, external=[(str(folder / "PRECIOUS"), 0, 40)])


WEIGHTS = [
    weights("a module as a layer", layer(module="os", class_name="system", config={})),
    weights("the intruder as a layer", layer(module="intruder", class_name="Callback", config={})),
    weights(
        "a Lambda layer",
        layer(
            module="keras.layers",
            class_name="Lambda",
            config={"function": {"class_name": "__lambda__", "config": {"value": ["", "", ""]}}},
        ),
    ),
    weights("a lambda", activation(class_name="__lambda__", config={"value": ["", "", ""]})),
    weights(
        "a function of Keras's that downloads",
        activation(module="keras.utils", class_name="function", config="get_file"),
    ),
    weights(
        "leave to run code",
        layer(module="keras.config", class_name="enable_unsafe_deserialization", config={}),
        "not a modeling function",
    ),
    weights(
        "a SavedModel",
        layer(module="keras.layers", class_name="TFSMLayer", config={"filepath": "."}),
    ),
    weights(
        "a file of words",
        layer(
            module="keras.layers", class_name="StringLookup", config={"vocabulary": "/etc/passwd"}
        ),
    ),
    weights(
        "a pickled module of PyTorch's",
        layer(module="keras.layers", class_name="TorchModuleWrapper", config={"module": "AAAA"}),
    ),
    weights("depths of layers", archive(lambda _: '{"a":' * 5000 + "1" + "}" * 5000)),
    weights("a description that unpacks", archive(lambda _: b" " * 2**27), "134217728 bytes"),
    weights("pickled weights", _pickled_weights),
    weights("a link to another file", hdf5(external), file="bad.weights.h5"),
    weights("another file's bytes", hdf5(raw_bytes), file="bad.weights.h5"),
    weights("another file's array", hdf5(_virtual), file="bad.weights.h5"),
    weights("a device", lambda folder, _: endless(folder / "bad.keras")),
    weights("a pipe", lambda folder, _: pipe(folder / "bad.keras")),
]


def pickled_npz(folder, _):
    gadgets = np.array([Gadget(folder / "CANARY")] * 64, dtype=object)
    np.savez(folder / "bad.npz", x=gadgets, y=np.arange(64) % 4)


def pickled_npy(folder, _):
    (folder / "bad").mkdir()
    gadgets = np.array([Gadget(folder / "CANARY")] * 64, dtype=object)
    np.save(folder / "bad" / "x.npy", gadgets)
    np.save(folder / "bad" / "y.npy", np.arange(64) % 4)


def wide_npy(folder, _):
    """A header that asks for more memory than there is."""
    (folder / "bad").mkdir()
    for name in ("x.npy", "y.npy"):
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 8, 8, 1)}"
        header += b" " * (117 - len(header)) + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        (folder / "bad" / name).write_bytes(content)


def wide_idx(folder, _):
    (folder / "bad").mkdir()
    for part in ("train", "t10k"):
        for kind, shape in (("images-idx3", (2**31, 2**15, 2**15)), ("labels-idx1", (2**31,))):
            content = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
            (folder / "bad" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))


def pickled_cache(folder, _):
    """Keras's cache of CIFAR-100: an archive of pickles."""
    cache = folder / "keras" / "datasets"
    cache.mkdir(parents=True)
    with tarfile.open(cache / "cifar-100-python-target_archive", "w:gz") as target:
        for name in ("train", "test"):
            content = pickle.dumps(Gadget(folder / "CANARY"))
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            target.addfile(entry, io.BytesIO(content))


def pickled_mnist(folder, _):
    cache = folder / "keras" / "datasets"
    cache.mkdir(parents=True)
    gadgets = np.array([Gadget(folder / "CANARY")] * 4, dtype=object)
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(cache / "mnist.npz", **dict.fromkeys(names, gadgets))


DATA = [
    attack("pickles in .npz", "dataset=arrays dataset.path=bad.npz", "bad.npz", plant=pickled_npz),
    attack("pickles in .npy", "dataset=arrays dataset.path=bad", "x.npy", plant=pickled_npy),
    attack("an array of petabytes", "dataset=arrays dataset.path=bad", "x.npy", plant=wide_npy),
    attack("images of petabytes", "dataset=fashion_mnist dataset.path=bad", "bad", plant=wide_idx),
    attack("a cache of pickles", "dataset=cifar100", "keras", plant=pickled_cache),
    attack("a cache of pickled arrays", "dataset=mnist", "keras", plant=pickled_mnist),
    attack(
        "a pipe of arrays",
        "dataset=arrays dataset.path=bad.npz",
        "bad.npz",
        plant=lambda folder, _: pipe(folder / "bad.npz"),
    ),
]


# A run's folder that is to be resumed, and comes from somebody else.
def resumed(name, change, where, *says, words=""):
    def plant(folder, kept):
        shutil.copytree(kept / "run", folder / "run")
        change(folder / "run")

    return attack(name, f"resume=run trainer.steps=4 {words}", where, *says, plant=plant)


def rewritten(old: str, new: str):
    def change(run):
        file = run / ".hydra" / "config.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def checkpoint(change):
    def plant(run):
        for file in (run / "checkpoints").glob("*.ckpt"):
            change(file)

    return plant


def header(content: bytes):
    """A checkpoint with a right checksum over this header, and no arrays."""
    import hashlib

    def change(file):
        body = b"mpt-checkpoint-1" + len(content).to_bytes(8, "little") + content
        file.write_bytes(body + hashlib.sha256(body).digest())

    return checkpoint(change)


def of_arrays(dtype, shape):
    described = {"about": {}, "state": {"x": {"$array": 0}}}
    return header(json.dumps({**described, "arrays": [{"dtype": dtype, "shape": shape}]}).encode())


RUNS = [
    resumed(
        "a run of other code",
        rewritten("mpt.models.cnn.build", "intruder.touch"),
        "model._target_",
        "--allow intruder",
    ),
    resumed(
        "a run with a callback",
        rewritten("callbacks: []", "callbacks: [{_target_: intruder.Callback}]"),
        "trainer.callbacks[0]._target_",
    ),
    resumed(
        "a run of serialized objects",
        rewritten("loss: auto", "loss: {class_name: X, module: intruder, config: {}}"),
        "loss.class_name",
    ),
    resumed(
        "other code by an override", lambda _: None, "model._target_", words="model._target_=os.abc"
    ),
    resumed(
        "a run of Python objects",
        rewritten("seed: 0", "seed: !!python/object/apply:os.system ['touch CANARY']"),
        "config.yaml",
    ),
    resumed("a run of laughs", rewritten("seed: 0", f"seed: 0\n{LAUGHS}"), "config.yaml", "values"),
    resumed("a run's name", rewritten("name: auto", "name: ../../x"), "name", "path separator"),
    resumed("a pipe of a run", lambda run: pipe(run / ".hydra" / "config.yaml"), "config.yaml"),
    resumed("a run without end", lambda run: endless(run / ".hydra" / "config.yaml"), "config"),
    *(
        resumed(f"{name}: {kind.__name__}", lambda run, n=name, k=kind: k(run / n), "run_dir")
        for name in ("metrics.jsonl", "train.log", ".lock")
        for kind in (link, pipe)
    ),
    *(
        resumed(f"{name} elsewhere", lambda run, n=name: linked(run / n), "run_dir", "no folder")
        for name in ("tensorboard", "checkpoints")
    ),
    resumed("a checkpoint without end", checkpoint(endless), "checkpoints"),
    resumed("a pipe of a checkpoint", checkpoint(pipe), "checkpoints"),
    resumed("depths of a checkpoint", header(b"[" * 10**6 + b"]" * 10**6), "checkpoints"),
    resumed("pickles in a checkpoint", of_arrays("object", [1]), "checkpoints"),
    resumed("a checkpoint of petabytes", of_arrays("float32", [2**40, 2**20]), "checkpoints"),
]


# A sweep's folder that is to be resumed.
PLAN = {"command": ["mpt"], "started_at": "2026-01-01T00:00:00Z", "jobs": [["seed=0"]]}
NOTE = {"index": 0, "overrides": ["seed=0"], "folder": "0", "exit_code": 0, "status": "completed"}


def sweep(name, where, *says, plan=PLAN, note=None, change=None):
    def plant(folder, _):
        jobs = folder / "sweep" / ".jobs"
        jobs.mkdir(parents=True)
        (jobs / "plan.json").write_text(json.dumps(plan))
        (folder / "sweep" / "sweep.json").write_text("{}")
        if note is not None:
            (jobs / "0.json").write_text(json.dumps(note))
        (folder / "other" / ".hydra").mkdir(parents=True)  # a run of the user's, at work
        (folder / "other" / ".hydra" / "config.yaml").write_text("seed: 0\n")
        if change is not None:
            change(jobs)

    return attack(name, "-m seed=0 resume=sweep", where, *says, plant=plant)


SWEEPS = [
    sweep("a plan of nothing", "plan.json", plan={}),
    sweep("a plan that is a list", "plan.json", plan=[1]),
    sweep("a plan of depths", "plan.json", change=lambda jobs: deep(jobs / "plan.json")),
    sweep("a pipe for a plan", "plan.json", change=lambda jobs: pipe(jobs / "plan.json")),
    sweep("a plan without end", "plan.json", change=lambda jobs: endless(jobs / "plan.json")),
    sweep("a job's number that climbs", "0.json", note={**NOTE, "index": "../../../CANARY"}),
    sweep(
        "a job in another run's folder",
        "0.json",
        "outside",
        note={**NOTE, "folder": "../other", "status": "running"},
    ),
    sweep("a job anywhere", "0.json", "outside", note={**NOTE, "folder": "/etc", "status": "oom"}),
    sweep("a note of something else", "0.json", note={"evil": 1}),
    sweep(
        "notes elsewhere",
        ".jobs",
        "a link",
        change=lambda jobs: (
            jobs.rename(jobs.parents[1] / "jobs"),
            jobs.symlink_to(jobs.parents[1] / "jobs"),
        ),
    ),
    sweep("a lock that is a link", "lock", change=lambda jobs: link(jobs / "lock")),
    sweep(
        "Hydra's file as a link",
        "multirun.yaml",
        "a link",
        change=lambda jobs: link(jobs.parent / "multirun.yaml"),
    ),
    sweep(
        "a job's folder that is a link",
        "sweep/0",
        "outside",
        change=lambda jobs: (jobs.parent / "0").symlink_to(jobs.parents[1] / "other"),
    ),
]


# Folders that are to be looked at.
def read(name, change, words="show run", where="report.json", *says):
    def plant(folder, _):
        content = report("float32", 0, folder / "run")
        change(write(folder / "run", content, metrics(content)))

    return attack(name, words, where, *says, plant=plant)


READING = [
    read("a pipe for a report", lambda run: pipe(run / "report.json")),
    read("a report without end", lambda run: endless(run / "report.json")),
    read("a report of 64 GiB", lambda run: hole(run / "report.json")),
    read(
        "a report that is its own link",
        lambda run: (
            (run / "report.json").unlink(),
            (run / "report.json").symlink_to("report.json"),
        ),
    ),
    read("a report of depths", lambda run: deep(run / "report.json")),
    read("a pipe, compared", lambda run: pipe(run / "report.json"), "compare run", "run"),
    read("64 GiB, compared", lambda run: hole(run / "report.json"), "compare run", "run"),
    read("a page elsewhere", lambda _: None, "show run --html absent/../page.html", "--html"),
    read("a board for all", lambda _: None, "board run --host 0.0.0.0", "", "no flag --host"),
]

TABLES = {
    "code": CODE,
    "keras": KERAS,
    "hydra": HYDRA,
    "environment": ENVIRONMENT,
    "folders": FOLDERS,
    "yaml": YAML,
    "weights": WEIGHTS,
    "data": DATA,
    "runs": RUNS,
    "sweeps": SWEEPS,
    "reading": READING,
}
ATTACKS = [
    pytest.param(each, id=f"{table}: {each.name}")
    for table, attacks in TABLES.items()
    for each in attacks
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished `run`, of which attacks make their own."""
    from mpt.cli import main

    folder = tmp_path_factory.mktemp("kept")
    with contextlib.chdir(folder):
        assert main(["train", "-q", "run_dir=run", *TINY]) == 0
    return folder


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module that can be imported, and a file and a secret to lose."""
    (tmp_path / "intruder.py").write_text(INTRUDER)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(INTRUDER)
    (tmp_path / "PRECIOUS").write_text(PRECIOUS)
    monkeypatch.setenv("CANARY", str(tmp_path / "CANARY"))
    monkeypatch.setenv("TOKEN", SECRET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("intruder", None)


class Hangs(BaseException):
    """Not an Exception, which might be caught on its way."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def give_up(*_):
        raise Hangs(f"no answer within {seconds} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def tree(folder: Path) -> dict[str, bytes | int]:
    """What is in a folder: each file's content, or what it is where it is large or none."""
    found: dict[str, bytes | int] = {}
    for path in folder.rglob("*"):
        if "__pycache__" not in path.parts:
            status = path.lstat()
            plain = stat.S_ISREG(status.st_mode) and status.st_size < 2**24
            found[str(path.relative_to(folder))] = path.read_bytes() if plain else status.st_mode
    return found


def assert_refused(result, where="", says=()):
    """Exit code 2, nothing on stdout, one block on stderr, and of the right thing."""
    assert result.code == 2, result.err
    assert result.out == ""
    lines = result.err.splitlines()
    assert re.match(r"error: \S", lines[0]), result.err
    assert all(line.startswith("  ") for line in lines[1:]), result.err
    assert "Traceback" not in result.err
    if where:
        places = [line for line in lines if line.startswith("  where:   ")]
        assert where in "".join(places[:1]), result.err
    for words in says:
        assert words in result.err, result.err


def assert_nothing_happened(scene: Path, before: dict[str, bytes | int], result) -> None:
    after = tree(scene)
    assert "CANARY" not in after
    assert "intruder" not in sys.modules
    assert SECRET not in result.out + result.err
    # Hydra keeps a sweep's configuration in a folder that was there before, and we our notes.
    added = set(after) - set(before) - {"sweep/multirun.yaml"}
    # Keras unpacks an archive in its cache, and then refuses what is in it.
    ours = ("keras/datasets/", "sweep/.jobs/")
    assert {name for name in added if not name.startswith(ours)} == set()
    for name, content in before.items():
        assert after.get(name) == content or name.startswith(ours), name


def skip_without_launcher(words: str) -> None:
    """Skip where Hydra's plugin for a launcher in `words` is not installed: it is an extra."""
    for name in ("joblib", "ray", "submitit"):
        plugin = f"hydra_plugins.hydra_{name}_launcher"
        wanted = re.search(rf"(launcher=|defaults: \[){name}", words)
        if wanted and importlib.util.find_spec(plugin) is None:
            pytest.skip(f"{plugin} is not installed")


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(mpt, scene, kept, monkeypatch, attack):
    skip_without_launcher(f"{attack.words} {attack.files}")
    for name, text in attack.files.items():
        (scene / name).parent.mkdir(parents=True, exist_ok=True)
        (scene / name).write_text(text)
    if attack.plant is not None:
        attack.plant(scene, kept)
    if attack in DATA:
        monkeypatch.setenv("KERAS_HOME", str(scene / "keras"))
        monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(scene / "keras"))
        monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)
        monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", lambda *_, **__: 1 / 0)
    before = tree(scene)
    with within(60):
        result = mpt(*attack.argv(scene))
    assert_nothing_happened(scene, before, result)
    assert_refused(result, attack.where, attack.says)


def test_there_are_attacks_enough():
    names = [param.id for param in ATTACKS]
    assert len(set(names)) == len(names) >= 120


PROCESSES = [
    "code: a file's function",
    "hydra: a package to search",
    "environment: a path of Python's",
]


@pytest.mark.parametrize("attack", [param for param in ATTACKS if param.id in PROCESSES])
def test_the_same_as_a_process(mpt_process, scene, attack):
    before = tree(scene)
    result = mpt_process(*attack.argv(scene))
    assert_nothing_happened(scene, before, result)
    assert_refused(result, attack.where, attack.says)


class TestAdmission:
    """The attacks are ones: what the user admits does run, and only the user can admit it."""

    @pytest.mark.parametrize(
        "words",
        [
            "--allow intruder +hydra.callbacks.x._target_=intruder.Callback",
            "--allow intruder hydra.searchpath=[pkg://intruder]",
            "--allow=os,intruder +hydra.callbacks.x._target_=intruder.Callback",
        ],
    )
    @pytest.mark.filterwarnings("ignore:provider=hydra.searchpath")
    def test_what_is_admitted_runs(self, mpt, runs, scene, words):
        assert mpt("train", *words.split()).code == 0
        assert (scene / "CANARY").exists()
        assert len(runs) == 1

    def test_the_environment_admits_too(self, mpt, runs, scene, monkeypatch):
        monkeypatch.setenv("MPT_ALLOW", "intruder")
        assert mpt("train", "+hydra.callbacks.x._target_=intruder.Callback").code == 0
        assert (scene / "CANARY").exists()
        assert os.environ["MPT_ALLOW"] == "intruder"

    def test_one_admission_is_not_another(self, mpt, scene):
        words = "--allow hydra.job_logging,env:TOKEN,intruders,intrude --allow=intruder.py"
        result = mpt("train", *words.split(), "+hydra.callbacks.x._target_=intruder.Callback")
        assert_refused(result, "hydra.callbacks.x._target_")
        assert not (scene / "CANARY").exists()

    def test_a_variable_that_is_admitted_is_read(self, mpt, runs, scene):
        words = ("--allow", "env:TOKEN", "name=${oc.env:TOKEN}")
        assert mpt("train", *words).code == 0
        assert runs[0].config.name == SECRET

    def test_code_of_the_user_s_own_reads_what_it_likes(self, mpt, runs, scene, monkeypatch):
        from omegaconf import OmegaConf

        found = []

        def run(*_, **__):
            found.append(OmegaConf.create({"a": "${oc.env:TOKEN}"}).a)
            return 0

        monkeypatch.setattr(sys.modules["mpt.runner"], "run", run)
        assert mpt("train").code == 0
        assert found == [SECRET]


@pytest.mark.parametrize(
    "words",
    [
        "+hydra.job.env_set.OMP_NUM_THREADS=2",
        "hydra.job.env_copy=[CUDA_VISIBLE_DEVICES]",
        "hydra.searchpath=[@/mine]",
        "name=${oc.env:HOME}",
        "name=${oc.env:DATA,none}",
        "hydra.output_subdir=asked",
        "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    ],
)
def test_what_is_harmless_goes_on(mpt, runs, scene, monkeypatch, words):
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (scene / "mine").mkdir()
    result = mpt("train", *words.replace("@", str(scene)).split())
    assert result.code == 0, result.err
    assert len(runs) == 1


LOGGING = """
version: 1
root: {handlers: [h]}
handlers: {h: {class: logging.StreamHandler, stream: 'ext://intruder.touch'}}
"""


@pytest.mark.parametrize(
    ("words", "canary"),
    [
        ("hydra/job_logging=default hydra/hydra_logging=default hydra.verbose=true", False),
        ("hydra/job_logging=stdout", False),
        ("--allow hydra.job_logging --config-dir mine hydra/job_logging=bad", True),
    ],
)
def test_logging_as_hydra_has_it_and_as_the_user_admits_it(scene, words, canary):
    """As a process of its own: it takes away pytest's handlers. Its training is a stand-in."""
    (scene / "mine" / "hydra" / "job_logging").mkdir(parents=True)
    (scene / "mine" / "hydra" / "job_logging" / "bad.yaml").write_text(LOGGING)
    paths = (Path(__file__).with_name("launched"), ROOT, scene)
    done = subprocess.run(
        [sys.executable, "-m", "mpt", "train", "run_dir=run", *words.split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (scene / "CANARY").exists() is canary
    assert bool(list((scene / "run").glob("*.log"))) is ("job_logging=default" in words)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--allow hydra.launcher hydra/launcher=submitit_slurm hydra.launcher.setup=[a]", "- a"),
        ("hydra/launcher=submitit_slurm hydra.launcher.name=a", "name: a"),
        ("hydra/launcher=ray hydra.launcher.ray.init.address=head:6379", "address: head:6379"),
        ("hydra/launcher=ray +hydra.launcher.ray.remote.num_gpus=1", "num_gpus: 1"),
        ("hydra/launcher=joblib hydra.launcher.n_jobs=2", "n_jobs: 2"),
    ],
)
def test_launchers_take_what_their_pages_say(mpt, words, shown):
    skip_without_launcher(words)
    result = mpt("train", *words.split(), "--cfg", "hydra", "-p", "hydra.launcher")
    assert result.code == 0, result.err
    assert shown in result.out


def test_what_looks_like_an_interpolation_stays_a_text(mpt, runs, scene):
    assert mpt("train", r"published=[{source:'\${oc.env:TOKEN}'}]").code == 0
    assert runs[0].config.published == [{"source": "${oc.env:TOKEN}"}]
    assert SECRET not in runs[0].arguments["composed"]["config"]


class Elements(HTMLParser):
    """Every element of a page with the names of its attributes, and its text."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(name for name, _ in attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text += data


READ_BY = ("policy", "started_at", "ended_at", "status", "mode", "kind", "exit_code")


def spoken(value, said, key=""):
    """`value` with every text in it replaced by `said`, but for those that a reader goes by."""
    if isinstance(value, dict):
        return {name: spoken(child, said, name) for name, child in value.items()}
    if isinstance(value, list):
        return [spoken(child, said, key) for child in value]
    return said if isinstance(value, str) and key not in READ_BY else value


def told(folder: Path, said: str) -> None:
    """Two groups of runs, each of whose texts is `said`."""
    for policy in ("float32", "mixed_float16"):
        for seed in range(2):
            content = report(policy, seed, folder)
            rows = metrics(content)
            content |= {"warnings": ["w"], "artifacts": {"a": "b"}, "diagnosis": [{"message": "m"}]}
            content["execution"]["choice_reasons"] = {"batch_size": "because"}
            if seed:
                content |= {"status": "failed", "exit_code": 1}
                content["reason"] = {"rule": "error", "step": 3, "message": "m"}
            content = spoken(content, said)
            content["metrics"]["final"][said] = 0.5
            content["config"][said] = said
            write(folder / f"{policy}{seed}", content, [{**row, said: 0.5} for row in rows])


MARKUP = [
    "<script>alert(1)</script>",
    "</title></style></script><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "<a href='javascript:alert(1)'>x</a>",
    "--><iframe src=//evil onload=alert(1)></iframe><!--",
    "]]><svg onload=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]


@pytest.mark.parametrize("words", ["show runs/float321", "compare runs"])
@pytest.mark.parametrize("markup", MARKUP)
def test_no_text_of_a_report_becomes_part_of_a_page(mpt, tmp_path, words, markup):
    pages = {}
    harmless = re.sub("[<>&\"']", "x", markup)  # of the same shape otherwise
    for name, said in (("plain", harmless), ("hostile", markup)):
        shutil.rmtree("runs", ignore_errors=True)
        told(tmp_path / "runs", said)
        assert mpt(*words.split(), "--html", f"{name}.html").code == 0
        pages[name] = Elements((tmp_path / f"{name}.html").read_text())
    assert pages["hostile"].elements == pages["plain"].elements
    assert pages["hostile"].text.count(markup) >= 10


@pytest.mark.parametrize("markup", MARKUP)
def test_no_text_of_a_report_becomes_markup_in_markdown(mpt, tmp_path, markup):
    told(tmp_path / "runs", f"| a | **b** [c](d) `e` {markup} @f\n# g")
    text = mpt("compare", "runs", "--markdown").out
    assert "alert(1)" in text
    assert "<" not in text
    assert "@" not in text
    assert not re.search(r"(?<!\\)(\[c\\?\]\(d|`e|\*\*b)|^# g", text, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1, table


SEEN = [
    "show runs/float320",
    "show runs/float321 -v",
    "show runs/float321 -q",
    "show runs/float321 --json",
    "compare runs",
    "compare runs --json",
    "compare runs --markdown",
    "compare runs --require parity",
    "compare runs --baseline name=\x1b[31m",
    "compare runs\x1b[31m",
    "show runs\x1b[31m",
    "board runs\x1b[31m",
    "train seed\x1b[31m=1",
    "train model=\x1b[31m",
    "train --\x1b[31m",
    "train name='\x1b[31m'",
    "train monitor='\x1b[31m'",
    "train loss='\x1b[31m'",
    "train dataset=arrays dataset.path='\x1b[31m.npz'",
    "train init_from='\x1b[31m.keras'",
    "train resume='\x1b[31m'",
    "train run_dir='/dev/null/\x1b[31m'",
    "train published=[{source:'\x1b[31m'}] --cfg job",
    "\x1b[31m",
]
CONTROL_CODES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("words", SEEN, ids=[words.replace("\x1b", "ESC") for words in SEEN])
def test_no_control_code_reaches_the_console(mpt, tmp_path, words):
    told(tmp_path / "runs", ESCAPES)
    argv = words.split()
    result = mpt(*argv, *(TINY if argv[0] == "train" else ()))
    assert result.code in (0, 2, 5)
    assert result.out + result.err
    assert CONTROL_CODES.findall(result.out + result.err) == []


def test_no_control_code_of_a_sweep_s_notes_reaches_the_console(mpt, scene):
    """Neither of a job that ended before, nor of one whose report says something else."""
    jobs = scene / "sweep" / ".jobs"
    jobs.mkdir(parents=True)
    (scene / "sweep" / "sweep.json").write_text("{}")
    plan = {**PLAN, "jobs": [["seed=-1"], [ESCAPES], [ESCAPES]]}
    (jobs / "plan.json").write_text(json.dumps(plan))
    note = {**NOTE, "index": 1, "folder": "1", "overrides": [ESCAPES], "status": ESCAPES}
    (jobs / "1.json").write_text(json.dumps({**note, "best": ESCAPES}))
    content = report("float32", 0, scene)
    content["metrics"]["best"]["name"] = content["status"] = ESCAPES
    write(scene / "sweep" / "2", content, [])
    result = mpt("train", "-m", "seed=-1", "resume=sweep")
    assert result.out.count("\\x1b[31mred") >= 4
    assert CONTROL_CODES.findall(result.out + result.err) == []


def test_a_report_s_files_are_those_of_its_run(mpt, tmp_path):
    content = report("float32", 0, tmp_path / "run")
    content["artifacts"] = {"x": "../secret", "y": str(tmp_path / "secret"), "z": "report.json"}
    write(tmp_path / "run", content, metrics(content))
    (tmp_path / "secret").write_text("")
    out = mpt("show", "run").out
    assert "secret" not in out
    assert re.search(r"^z +run/report.json$", out, re.MULTILINE)


@pytest.mark.parametrize("change", [pipe, endless, hole])
@pytest.mark.parametrize("words", ["show run", "compare run", "compare sweep", "show run --html x"])
def test_metrics_and_sweeps_that_cannot_be_read_are_passed_over(mpt, scene, change, words):
    content = report("float32", 0, scene / "run")
    for folder in ("run", "sweep/0"):
        write(scene / folder, content, metrics(content))
        change(scene / folder / "metrics.jsonl")
    change(scene / "sweep" / "sweep.json")
    with within(30):
        result = mpt(*words.split())
    assert result.code == 0
    assert "float32" in result.out


def test_a_sweep_s_list_leads_nowhere_else(mpt, scene):
    """`mpt compare` names a job that lies elsewhere, and does not read it."""
    content = report("float32", 0, scene / "sweep" / "0")
    write(scene / "sweep" / "0", content, metrics(content))
    write(scene / "other", report("mixed_float16", 0, scene / "other"), [])
    job = {"index": 1, "folder": "../other", "status": "completed", "overrides": []}
    (scene / "sweep" / "sweep.json").write_text(json.dumps({"jobs": [job]}))
    found = json.loads(mpt("compare", "sweep", "--json", "-q").out)
    assert len(found["groups"]) == 1
