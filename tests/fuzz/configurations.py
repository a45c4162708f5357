"""Configurations, drawn from the schema's types, choices and bounds, and from beyond them."""

import dataclasses
import math
import operator
import typing
from typing import Any

from hypothesis import strategies as st
from mutations import odd, plain

from mpt.config import OPEN_KEYS
from mpt.schema import LAYER_POLICIES, TrainConfig

GROUPS = {
    "model": ("cnn", "mlp", "resnet", "application"),
    "dataset": ("digits", "synthetic"),
    "precision": (
        *("auto", "float32", "tf32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"),
        "float64",
    ),
    "loss_scale": ("auto", "dynamic", "fixed", "none"),
    "optimizer": ("adam", "adamw", "lamb", "lion", "sgd"),
    "trainer": ("default", "smoke", "long"),
    "device": ("auto", "cpu", "gpu", "mirrored"),
    "telemetry": ("default", "minimal"),
    "recipe": ("null", "seed_cnn", "needs_scaling", "four_policies", "fp32_vs_bf16"),
}


def _fields(node: Any, prefix: str = "") -> dict[str, tuple[Any, dict[str, Any]]]:
    """Each closed key, dotted: its type, and its choices and bounds."""
    found = {}
    hints = typing.get_type_hints(node)
    for field in dataclasses.fields(node):
        if dataclasses.is_dataclass(hints[field.name]):
            found |= _fields(hints[field.name], f"{prefix}{field.name}.")
        elif field.name not in ("model", "dataset", "optimizer"):
            found[f"{prefix}{field.name}"] = (hints[field.name], dict(field.metadata))
    return found


CLOSED = _fields(TrainConfig)


HOLDS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


def _number(kinds: tuple[type, ...], bounds: dict[str, Any], sound: bool) -> Any:
    """At a bound, near it, and far from it, on both of its sides; or `sound` ones alone."""
    ends = [bounds[name] for name in ("ge", "gt", "le", "lt") if name in bounds]
    near = {end + step for end in ends or [0] for step in (-1, 0, 1, 2, 7)}
    choices: list[Any] = sorted(near)
    if float in kinds:
        choices += [end + step for end in ends or [0] for step in (-0.5, 0.5, 1e-6)]
        choices += [0.1, 1.0, 1e4, 1e30, 1e-30, math.inf, math.nan]
    tests = [(HOLDS[name], bounds[name]) for name in HOLDS if name in bounds]
    if sound:
        choices = [value for value in choices if all(holds(value, end) for holds, end in tests)]
    return st.sampled_from(choices)


def _of_type(hint: Any, metadata: dict[str, Any], sound: bool = False) -> Any:
    return _of_types(typing.get_args(hint) or (hint,), metadata, sound)


def _of_types(kinds: tuple[Any, ...], metadata: dict[str, Any], sound: bool = False) -> Any:
    choices = []
    if "choices" in metadata:
        choices.append(st.sampled_from(metadata["choices"]))
    elif str in kinds:
        choices.append(st.sampled_from(("auto", "x", "train/loss", "validation/loss", "a b")))
    if int in kinds or float in kinds:
        choices.append(_number(kinds, metadata, sound))
    if bool in kinds:
        choices.append(st.booleans())
    if type(None) in kinds:
        choices.append(st.none())
    return st.one_of(choices) if choices else st.none()


RULES = st.fixed_dictionaries(
    {
        "match": st.sampled_from(("class:Dense", "*", "dense", "re:.*", "nothing", "class:", "[")),
        "policy": st.sampled_from((*LAYER_POLICIES, "policy", "float8")),
    }
)
LOSSES = (
    *("auto", "mse", "sparse_categorical_crossentropy", "categorical_crossentropy", "nothing"),
    {"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": True},
    {"_target_": "keras.losses.Huber", "delta": -1},
    {"_target_": "os.system", "command": "true"},
)
METRICS = (
    *("auto", "accuracy", [], ["accuracy"], ["mse", "mae"], ["nothing"], ["accuracy", "accuracy"]),
    [{"_target_": "keras.metrics.SparseTopKCategoricalAccuracy", "k": 3}],
    [{"_target_": "keras.metrics.Mean"}],
)
CALLBACKS = (
    *([], [{"_target_": "keras.callbacks.TerminateOnNaN"}], [{"_target_": "keras.callbacks.X"}]),
    [{"_target_": "keras.callbacks.EarlyStopping", "monitor": "loss", "patience": 0}],
    [{"_target_": "keras.callbacks.LearningRateScheduler", "schedule": 3}],
    [{"_target_": "keras.callbacks.ReduceLROnPlateau", "monitor": "loss", "factor": 0.1}],
    [{}],
)
# Keys whose type is not all there is to them.
SPECIAL = {
    "precision.overrides": st.lists(RULES, max_size=2),
    "trainer.callbacks": st.sampled_from(CALLBACKS),
    "trainer.steps_per_execution": st.sampled_from(("auto", 1, 2, 16, 0, 1.5, True)),
    "trainer.jit_compile": st.sampled_from(("auto", True, False, "yes", 1)),
    "batch_size": st.sampled_from((1, 3, 8, 32, 0, -1, 1.5, 10**9, True, "maximum")),
    "loss": st.sampled_from(LOSSES),
    "loss_weights": st.sampled_from((None, 2, 0, -1, 0.5, [1], {"a": 1}, math.nan, "x")),
    "metrics": st.sampled_from(METRICS),
    "monitor": st.sampled_from(
        ("validation/accuracy", "train/loss", "validation/loss", "x", "train/", "gradients/norm")
    ),
    "published": st.sampled_from(([], [{"source": "x", "accuracy": 1}], [{}], ["x"])),
    "name": st.sampled_from(("auto", "a b", "\N{SNOWMAN}", "x" * 300, ".", "", "a/b", "-")),
    "init_from": st.sampled_from((None, "nowhere", "/dev/null", "")),
}
closed = {
    key: SPECIAL[key] if key in SPECIAL else _of_type(*about) for key, about in CLOSED.items()
}
open_keys = {
    **{key: _of_types(kinds, bounds) for key, (kinds, bounds) in OPEN_KEYS.items()},
    "model.hidden": st.sampled_from(([], [4], [3, 2], [0], [-1], [1.5], "x", None, 8)),
    "model.activation": st.sampled_from(("relu", "softmax", "nothing", "", None)),
    "model.dropout": st.sampled_from((0, 0.5, 1, 1.5, -1, "x")),
    "model.filters": st.sampled_from((1, 4, 0, -1, 2.5)),
    "model.kernel_size": st.sampled_from((1, 3, 9, 0, -1)),
    "model.name": st.sampled_from(("mlp", "a b", "a/b", "\N{SNOWMAN}", 3)),
    "model.outputs": st.sampled_from((1, 3, 0)),
    "dataset.shape": st.sampled_from(
        ([4], [4, 4, 1], [8, 8, 3], [], [0], [-1], [2, 2, 2, 2], "x", [1.5], [[4]])
    ),
    "dataset.vocabulary": st.sampled_from((None, 5, 0, -1)),
    "dataset.length": st.sampled_from((None, 4, 0, -1)),
    "dataset.outputs": st.sampled_from((1, 3, 0)),
    "optimizer.momentum": st.sampled_from((0, 0.9, 1, -1, 2)),
    "optimizer.nesterov": st.sampled_from((True, False, 1)),
    "optimizer.schedule.boundaries": st.sampled_from(([1], [1, 2], [2, 1], [], [-1], "x")),
    "optimizer.schedule.factors": st.sampled_from(([1, 0.1], [1, 0.5, 0.1], [1], [], "x")),
}
# Values that no check of a single key refuses, where there are such checks.
sound = {key: _of_types(kinds, bounds, sound=True) for key, (kinds, bounds) in OPEN_KEYS.items()}
sound |= {key: _of_type(*about, sound=True) for key, about in CLOSED.items() if key not in SPECIAL}

# Where the process, and not the run, would bear it: elsewhere, or never in a test.
LEFT_OUT = ("run_dir", "resume", "recipe", "device.memory_limit_mb", "device.logical_cpus")


def written(value: Any) -> str:
    """A value as an override has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{quoted}'"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)


@st.composite
def settings_of(draw: Any, keys: dict[str, Any], most: int, beyond: bool = True) -> dict[str, Any]:
    """Values for some of `keys`; with `beyond` those of any type and size, too."""
    chosen = draw(
        st.lists(st.sampled_from(sorted(set(keys) - set(LEFT_OUT))), max_size=most, unique=True)
    )
    found = {}
    for key in chosen:
        other = beyond and draw(st.integers(0, 9)) == 0
        own = keys[key] if beyond else sound.get(key, keys[key])
        found[key] = draw(odd | plain if other else own)
    return found


choices = st.fixed_dictionaries(
    {}, optional={group: st.sampled_from(names) for group, names in GROUPS.items()}
)
