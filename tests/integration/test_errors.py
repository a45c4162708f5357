"""What a user can get wrong: exit 2, one block on stderr, no traceback, nothing left behind."""

import gzip
import struct
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class Case:
    """A command line, the files that it needs, and what its one message must say."""

    name: str
    words: str
    says: tuple[str, ...]
    where: str

    @property
    def argv(self):
        return self.words.split()


def case(name, words, where, *says):
    return Case(name, words, says, where)


CONFIGURATION = [
    case("unknown choice", "precision=mixd_float16", "precision", "did you mean 'mixed_float16'?"),
    case("unknown model", "model=resnt", "model", "did you mean 'resnet'?"),
    case("unknown dataset", "dataset=digit", "dataset", "did you mean 'digits'?"),
    case("unknown recipe", "recipe=seed_cn", "recipe", "did you mean 'seed_cnn'?"),
    case("unknown key", "trainer.epoch=3", "trainer.epoch", "did you mean 'trainer.epochs'?"),
    case("unknown group", "precisionn=float32", "precisionn", "did you mean 'precision'?"),
    case("key of another place", "learning_rate=1", "learning_rate", "'optimizer.learning_rate'"),
    case("key by its initials", "lr=0.1", "lr", "did you mean 'optimizer.learning_rate'?"),
    case("unknown key in a mapping", "loss_scale={inital_scale:8}", "loss_scale.inital_scale"),
    case("unknown key of a model", "model.filter=3", "model.filter", "'model.filters'"),
    case("unknown added key of a model", "+model.paddding=1", "model.paddding", "filters"),
    case("unknown added key", "+seeed=1", "seeed", "did you mean 'seed'?"),
    case("unknown key of Hydra", "hydra.run.folder=x", "hydra.run.folder", "--cfg hydra"),
    case("text for a number", "trainer.steps=many", "trainer.steps", "a whole number or null"),
    case("text for a truth", "telemetry.tensorboard=maybe", "telemetry.tensorboard", "true or"),
    case("fraction for a count", "batch_size=1.5", "batch_size", "a whole number"),
    case("null for a number", "batch_size=null", "batch_size"),
    case("number for a list", "precision.overrides=3", "precision.overrides"),
    case("wrong type in a model", "model.filters=many", "model.filters", "a whole number"),
    case("wrong type in a dataset", "dataset.shuffle=7", "dataset.shuffle", "true or false"),
    case("wrong type in an optimizer", "optimizer.learning_rate=x", "optimizer.learning_rate"),
    case("batch of none", "batch_size=0", "batch_size", "at least 1"),
    case("negative seed", "seed=-1", "seed", "at least 0"),
    case("growth below one", "loss_scale.growth_factor=0.5", "loss_scale.growth_factor", "above 1"),
    case(
        "backoff above one", "loss_scale.backoff_factor=2", "loss_scale.backoff_factor", "below 1"
    ),
    case("scale that is no number", "loss_scale.initial_scale=nan", "loss_scale.initial_scale"),
    case("all for validation", "dataset.validation_fraction=1", "dataset.validation_fraction"),
    case("negative rate", "optimizer.learning_rate=-1", "optimizer.learning_rate", "at least 0"),
    case("no steps", "trainer.steps=0", "trainer.steps", "at least 1"),
    case("unknown policy", "precision.policy=half", "precision.policy", "mixed_float16"),
    case("unknown mode", "loss_scale.mode=dynamical", "loss_scale.mode", "'dynamic'"),
    case(
        "unknown schedule", "optimizer.schedule.name=cosin", "optimizer.schedule.name", "'cosine'"
    ),
    case("steps and epochs", "trainer.steps=3 trainer.epochs=3", "trainer.steps", "both set"),
    case("neither steps nor epochs", "trainer.epochs=null", "trainer.steps", "both null"),
    case("limits crossed", "loss_scale.min_scale=8 loss_scale.max_scale=4", "loss_scale.min_scale"),
    case("scale over its limit", "loss_scale.max_scale=4", "loss_scale.initial_scale", "max_scale"),
    case("XLA when mirrored", "device=mirrored trainer.jit_compile=true", "trainer.jit_compile"),
    case("split CPU on a GPU", "device=gpu device.logical_cpus=2", "device.logical_cpus"),
    case("rule without a policy", "precision.overrides=[{match:a}]", "precision.overrides[0]"),
    case(
        "rule with an unknown policy",
        "precision.overrides=[{match:a,policy:float7}]",
        "precision.overrides[0].policy",
    ),
    case("name with a separator", "name=a/b", "name", "path separator"),
    case("name that climbs", "model.name=..", "model.name"),
    case("name that TensorFlow cannot take", "model.name=a+b", "model.name", "ASCII letters"),
    case("key not given", "dataset=arrays", "dataset.path", "dataset.path=VALUE"),
    case("group taken away", "~optimizer", "optimizer"),
    case("several values without -m", "seed=0,1", "seed", "add -m"),
    case("addition of what is there", "+seed=1", "seed", "leave out the +"),
    case("no override", "smoke", "command line", "trainer=smoke"),
    case("broken override", "seed=[1", "command line"),
    case("broken interpolation", "init_from=${nowhere}", "init_from", "nowhere"),
    case("unknown flag", "--mutlirun seed=0,1", "command line", "did you mean '--multirun'?"),
    case(
        "group as a flag",
        "--precision=float32",
        "command line",
        "did you mean 'precision=float32'?",
    ),
    case("end of a key as a flag", "--steps 50", "command line", "mean 'trainer.steps=50'?"),
    case("key as a flag", "--batch-size -q", "command line", "did you mean 'batch_size=VALUE'?"),
    case("flag of nothing", "--policies=x", "command line", "allowed: --allow"),
    case("a part without --cfg", "--package trainer", "command line", "add --cfg job"),
    case("unknown value of a flag", "--cfg jobs", "command line", "did you mean 'job'?"),
    case("flags that exclude each other", "-m --cfg job", "command line"),
    case("folder of configurations missing", "--config-dir absent", "command line", "absent"),
    case("code not admitted", "model._target_=os.system", "model._target_", "runs programs"),
    case("nested code not admitted", "+loss={_target_:os.getcwd}", "loss"),
    case(
        "function not admitted",
        "model=python model.function=mine.py:build",
        "model.function",
        "--allow mine.py",
    ),
    case("folder that cannot be made", "run_dir=/dev/null/run", "run_dir", "written"),
    case("folder of one run for many", "-m seed=0,1 run_dir=mine", "run_dir", "hydra.sweep.dir"),
    case("a sweep with a wrong value", "-m seed=0,x", "seed", "a whole number"),
]

INPUT = [
    case("no such file", "dataset=arrays dataset.path=absent.npz", "absent.npz"),
    case("empty file", "dataset=arrays dataset.path=empty.npz", "empty.npz"),
    case("truncated file", "dataset=arrays dataset.path=cut.npz", "cut.npz"),
    case("no file of that kind", "dataset=arrays dataset.path=text.npz", "text.npz"),
    case("array missing", "dataset=arrays dataset.path=only_x.npz", "only_x.npz", "no y, it has x"),
    case(
        "arrays of other names",
        "dataset=arrays dataset.path=names.npz",
        "names.npz",
        "no x, it has x_train, y_train",
        "name the examples x",
    ),
    case("name too long", f"dataset=arrays dataset.path={'a' * 300}.npz", "dataset.path (aaa"),
    case("pickled objects", "dataset=arrays dataset.path=objects.npz", "objects.npz"),
    case("lengths differ", "dataset=arrays dataset.path=lengths.npz", "lengths.npz", "rows"),
    case("NaN", "dataset=arrays dataset.path=nan.npz", "nan.npz", "2 of 64 rows", "3, 17"),
    case(
        "label out of range", "dataset=arrays dataset.path=good.npz dataset.classes=2", "good.npz"
    ),
    case("batch too large", "dataset=arrays dataset.path=good.npz batch_size=65", "batch_size"),
    case("truncated IDX", "dataset=fashion_mnist dataset.path=idx", "t10k"),
    case("no IDX", "dataset=fashion_mnist dataset.path=absent", "dataset.path"),
    case("one class", "dataset=synthetic dataset.classes=1", "dataset.classes", "softmax"),
    case(
        "loss that the labels do not fit",
        "loss=categorical_crossentropy model=mlp model.hidden=[4] dataset.examples=64 batch_size=8",
        "loss",
        "must have the same rank",
    ),
    case(
        "shape the model cannot take", "dataset=arrays dataset.path=flat.npz batch_size=8", "model"
    ),
    case(
        "depth there is not",
        "dataset=arrays dataset.path=good.npz batch_size=8 model=resnet model.depth=21",
        "model.depth",
    ),
    case(
        "rule that matches nothing",
        "batch_size=8 dataset.examples=80 precision.overrides=[{match:absent,policy:float32}]",
        "precision.overrides[0]",
    ),
    case("GPU absent", "device=gpu", "device.accelerator", "device.accelerator=auto"),
    case("unknown loss", "batch_size=8 dataset.examples=80 loss=mean_squared_eror", "loss"),
    case(
        "two that set the learning rate",
        "batch_size=8 dataset.examples=80 optimizer.schedule.name=cosine"
        " trainer.callbacks=[{_target_:keras.callbacks.ReduceLROnPlateau}]",
        "trainer.callbacks[0]",
        "leave out optimizer.schedule",
    ),
    case("unknown monitor", "batch_size=8 dataset.examples=80 monitor=accurracy", "monitor"),
    case("weights missing", "batch_size=8 dataset.examples=80 init_from=absent.keras", "init_from"),
    case(
        "function of one's own missing",
        "--allow mine.py dataset.examples=80 batch_size=8 model=python model.function=mine.py:buld",
        "model.function",
        "did you mean 'build'?",
    ),
]


def _files(folder):
    """The faulty inputs, made with a fixed seed."""
    random = np.random.default_rng(0)
    x = random.random((64, 8, 8, 1), np.float32)
    y = np.arange(64) % 4
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "flat.npz", x=x[:, 0, :, 0], y=y)
    np.savez(folder / "only_x.npz", x=x)
    np.savez(folder / "names.npz", x_train=x, y_train=y)
    np.savez(folder / "lengths.npz", x=x, y=y[:-1])
    np.savez(folder / "objects.npz", x=np.array([object()] * 64), y=y)
    broken = x.copy()
    broken[[3, 17], 0] = np.nan
    np.savez(folder / "nan.npz", x=broken, y=y)
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npz").touch()
    (folder / "text.npz").write_text("x,y\n1,2\n")
    (folder / "mine.py").write_text("def build():\n    return None\n")
    idx = folder / "idx"
    idx.mkdir()
    for part in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 64, 8, 8) + bytes(64 * 64)
        labels = struct.pack(">4BI", 0, 0, 8, 1, 64) + bytes(64)
        if part == "t10k":
            images = images[:-100]
        (idx / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (idx / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def _tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _check(result, case):
    assert result.code == 2, result.err
    assert result.out == ""
    lines = result.err.splitlines()
    assert lines[0].startswith("error: ")
    # One block: what is wrong, and below it only lines that are indented.
    assert all(line.startswith("  ") for line in lines[1:]), result.err
    assert "Traceback" not in result.err
    places = [line.removeprefix("  where:").strip() for line in lines if "  where:" in line]
    assert places, result.err
    assert case.where in places[0], result.err
    for words in case.says:
        assert words in result.err, result.err


@pytest.mark.parametrize("case", CONFIGURATION, ids=lambda case: case.name)
def test_a_wrong_configuration(mpt, tmp_path, case):
    _check(mpt("train", *case.argv), case)
    assert _tree(tmp_path) == []


@pytest.mark.parametrize("case", INPUT, ids=lambda case: case.name)
def test_a_wrong_input(mpt, tmp_path, case):
    if case.name == "GPU absent":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            pytest.skip("there is a GPU")
    _files(tmp_path)
    before = _tree(tmp_path)
    _check(mpt("train", *case.argv), case)
    assert [path for path in _tree(tmp_path) if "__pycache__" not in path] == before


@pytest.mark.parametrize(
    "name",
    ["unknown choice", "steps and epochs", "function not admitted", "NaN", "GPU absent"],
)
def test_the_same_as_a_process(mpt_process, tmp_path, name):
    case = next(case for case in [*CONFIGURATION, *INPUT] if case.name == name)
    _files(tmp_path)
    before = _tree(tmp_path)
    _check(mpt_process("train", *case.argv), case)
    assert _tree(tmp_path) == before


def test_a_run_is_not_written_over(mpt, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "report.json").write_text("{}")
    result = mpt("train", "run_dir=old", "batch_size=8", "dataset.examples=80", "trainer.steps=1")
    assert result.code == 2
    assert "run_dir" in result.err
    assert _tree(tmp_path) == ["old", "old/report.json"]
