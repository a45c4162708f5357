"""Where the configuration lies, and what must hold across its fields.

Nothing here imports Hydra or TensorFlow: help and errors must answer at once.
"""

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any

from mpt.argument_types import type_words
from mpt.errors import ConfigurationError
from mpt.rule_text import check_pattern
from mpt.schema import RULE_POLICIES, LossScaleConfig, TrainConfig, TrainerConfig
from mpt.yaml_files import literal

SCHEDULES = ("constant", "cosine", "warmup_cosine", "piecewise")

# What is common to every choice of an open group: (types, bounds). A builder checks its own keys.
OPEN_KEYS: dict[str, tuple[tuple[type, ...], dict[str, Any]]] = {
    "dataset.validation_fraction": ((int, float, type(None)), {"ge": 0, "lt": 1}),
    "dataset.shuffle": ((bool,), {}),
    "dataset.examples": ((int, type(None)), {"ge": 1}),
    "dataset.classes": ((int, type(None)), {"ge": 1}),
    "dataset.path": ((str, type(None)), {}),
    "dataset.on_error": ((str,), {"choices": ("fail", "skip")}),
    "dataset.stall_seconds": ((int, float), {"gt": 0}),
    "optimizer.learning_rate": ((int, float), {"ge": 0}),
    "optimizer.weight_decay": ((int, float), {"ge": 0}),
    "optimizer.global_clipnorm": ((int, float, type(None)), {"gt": 0}),
    "optimizer.gradient_accumulation_steps": ((int,), {"ge": 1}),
    "optimizer.ema": ((bool,), {}),
    "optimizer.schedule.name": ((str,), {"choices": SCHEDULES}),
    "optimizer.schedule.warmup_steps": ((int,), {"ge": 0}),
}

_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*")  # tensorflow/python/framework/ops.py

_COMPARISONS = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "above"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "below"),
}


def _shipped(name: str) -> Path:
    """The folder `name` inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def configs_dir() -> Path:
    """The folder that holds train.yaml and the groups."""
    return _shipped("configs")


def recipes_dir() -> Path:
    """The folder that holds one YAML a recipe."""
    return _shipped("recipes")


def default_choices() -> dict[str, str]:
    """Each group's default choice, in the order of train.yaml's defaults list."""
    text = (configs_dir() / "train.yaml").read_text()
    entries = re.findall(r"^  - (\w+): (\w+)\s*$", text, flags=re.MULTILINE)
    return {group: choice for group, choice in entries if group != "recipe"}


def to_config(values: Any) -> TrainConfig:
    """The typed, checked configuration of one run.

    Args:
        values: an OmegaConf node or a plain mapping with the keys of `TrainConfig`.

    Raises:
        ConfigurationError: a key, a type or a value is wrong, or two settings contradict.
        omegaconf.errors.OmegaConfBaseException: an interpolation cannot be resolved, or a
            mandatory value is missing (`mpt.hydra_errors.explain` words these).
    """
    from omegaconf import OmegaConf

    if OmegaConf.is_config(values):  # plain, for a node may admit keys that the schema lacks
        values = OmegaConf.to_container(values, resolve=True)
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), literal(values))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, TrainConfig)
    check(config)
    return config


def check(config: TrainConfig) -> None:
    """Raise `ConfigurationError` where a value is out of range or two settings contradict."""
    _check_fields(config, "")
    _check_name("name", config.name)
    if not config.run_dir.strip():
        raise ConfigurationError(
            "run_dir names no folder", where="run_dir", remedy="leave it out to get a new one"
        )
    for group in ("model", "dataset", "optimizer"):
        node = getattr(config, group)
        if not isinstance(node.get("_target_"), str):
            raise ConfigurationError(
                f"{group} names no builder",
                where=f"{group}._target_",
                remedy=f"choose one of the group's files ({group}=NAME), or give _target_",
            )
        _check_missing(group, node)
        _check_name(f"{group}.name", node.get("name", group))
    if not _SCOPE.fullmatch(config.model.get("name", "model")):
        raise ConfigurationError(
            f"model.name={config.model['name']!r} is no name that TensorFlow takes",
            where="model.name",
            allowed=["ASCII letters and digits, and after the first one also _ . - >"],
            remedy="a run's own name may be any: name=...",
        )
    _check_batch_size(config.batch_size)
    _check_open_keys(config)
    _check_loss_weights(config.loss_weights)
    _check_published(config.published)
    _check_trainer(config.trainer)
    _check_loss_scale(config.loss_scale)
    _check_overrides(config.precision.overrides)
    _check_device(config)


def _check_fields(node: Any, prefix: str) -> None:
    for field in dataclasses.fields(node):
        where = prefix + field.name
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            _check_fields(value, f"{where}.")
        elif value is not None:
            _check_bounds(where, value, field.metadata)


def _check_bounds(where: str, value: Any, bounds: typing.Mapping[str, Any]) -> None:
    choices = bounds.get("choices")
    if choices and value not in choices:
        raise ConfigurationError(
            f"{where}={value} is not a choice", where=where, allowed=choices, value=value
        )
    if not isinstance(value, int | float):  # "auto" beside a number, say: its own check follows
        return
    for name, (holds, words) in _COMPARISONS.items():
        bound = bounds.get(name)
        # Written so that NaN, which compares false with everything, is refused too.
        if bound is not None and not holds(value, bound):
            raise ConfigurationError(
                f"{where}={value} is out of range", where=where, allowed=[f"{words} {bound}"]
            )


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or name in (".", ".."):
        raise ConfigurationError(f"{where}={name!r} is not a name", where=where)
    if not name.isprintable():  # on a console an escape sequence is a command
        raise ConfigurationError(
            f"{where}={name!r} may not contain control characters", where=where
        )
    if any(character in name for character in "/\\"):
        raise ConfigurationError(
            f"{where}={name!r} may not contain a path separator",
            where=where,
            remedy="choose the folder of a run by run_dir",
        )


def _check_missing(where: str, value: Any) -> None:
    if value == "???":
        raise ConfigurationError(
            f"{where} must be given", where=where, remedy=f"add {where}=VALUE to the command"
        )
    if isinstance(value, dict):
        for key, child in value.items():
            _check_missing(f"{where}.{key}", child)


def _check_open_keys(config: TrainConfig) -> None:
    for where, (kinds, bounds) in OPEN_KEYS.items():
        group, *path = where.split(".")
        value: Any = getattr(config, group)
        for part in path:
            value = value.get(part, dataclasses.MISSING) if isinstance(value, dict) else value
        if value is dataclasses.MISSING or (isinstance(value, dict) and "_target_" in value):
            continue  # not a key of this choice, or a node that builds the value
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigurationError(
                f"{where}={value} has the wrong type",
                where=where,
                allowed=[type_words(kinds)],
            )
        if value is not None:
            _check_bounds(where, value, bounds)


def _check_loss_weights(weights: Any) -> None:
    if weights is None:
        return
    if isinstance(weights, dict):
        entries = {f"loss_weights.{name}": value for name, value in weights.items()}
    elif isinstance(weights, list):
        entries = {f"loss_weights[{index}]": value for index, value in enumerate(weights)}
    else:
        entries = {"loss_weights": weights}
    for where, value in entries.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise ConfigurationError(
                f"{where}={value} is not a factor of a loss",
                where=where,
                allowed=["a finite number", "by output: a list or a mapping of them"],
            )


def _check_published(entries: list[Any]) -> None:
    for index, entry in enumerate(entries):
        where = f"published[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("source"), str):
            raise ConfigurationError(
                f"{where}={entry} names no source of its figures",
                where=where,
                allowed=["a mapping with source and further keys, each a text or a number"],
            )
        for key, value in entry.items():
            if not isinstance(value, str | int | float):
                raise ConfigurationError(
                    f"{where}.{key}={value} is no figure",
                    where=f"{where}.{key}",
                    allowed=["a text", "a number"],
                )


def _check_batch_size(size: Any) -> None:
    if size != "max" and (not isinstance(size, int) or isinstance(size, bool)):
        raise ConfigurationError(
            f"batch_size={size} is not a size of a batch",
            where="batch_size",
            allowed=["a whole number of at least 1", "max"],
            value=size,
        )


def _check_trainer(trainer: TrainerConfig) -> None:
    if (trainer.epochs is None) == (trainer.steps is None):
        given = "both set" if trainer.epochs is not None else "both null"
        raise ConfigurationError(
            f"trainer.epochs and trainer.steps are {given}; exactly one is needed",
            where="trainer.steps",
            remedy="give one of them, such as trainer.steps=1000",
        )
    steps_per_execution = trainer.steps_per_execution
    if steps_per_execution != "auto" and (
        not isinstance(steps_per_execution, int) or isinstance(steps_per_execution, bool)
    ):
        raise ConfigurationError(
            f"trainer.steps_per_execution={steps_per_execution} has the wrong type",
            where="trainer.steps_per_execution",
            allowed=["auto", "a whole number of at least 1"],
        )
    if trainer.jit_compile != "auto" and not isinstance(trainer.jit_compile, bool):
        raise ConfigurationError(
            f"trainer.jit_compile={trainer.jit_compile} is not a choice",
            where="trainer.jit_compile",
            allowed=["auto", "true", "false"],
            value=trainer.jit_compile,
        )
    for index, pattern in enumerate(trainer.rematerialize):
        check_pattern(
            pattern,
            where=f"trainer.rematerialize[{index}]",
            remedy="write a regular expression, as 'block\\d+_'",
        )
    for index, callback in enumerate(trainer.callbacks):
        if not isinstance(callback, dict) or not isinstance(callback.get("_target_"), str):
            raise ConfigurationError(
                "a callback is a node with _target_",
                where=f"trainer.callbacks[{index}]",
                remedy="write {_target_: keras.callbacks.CSVLogger, filename: log.csv}",
            )


def _check_loss_scale(scale: LossScaleConfig) -> None:
    if scale.min_scale > scale.max_scale:
        raise ConfigurationError(
            f"loss_scale.min_scale={scale.min_scale} is above max_scale={scale.max_scale}",
            where="loss_scale.min_scale",
        )
    moves = scale.mode in ("auto", "dynamic")
    if moves and not scale.min_scale <= scale.initial_scale <= scale.max_scale:
        raise ConfigurationError(
            f"loss_scale.initial_scale={scale.initial_scale} is outside its own limits",
            where="loss_scale.initial_scale",
            allowed=[f"min_scale {scale.min_scale} to max_scale {scale.max_scale}"],
        )


def _check_overrides(overrides: list[Any]) -> None:
    for index, rule in enumerate(overrides):
        where = f"precision.overrides[{index}]"
        if not isinstance(rule, dict) or not all(
            isinstance(rule.get(key), str) for key in ("match", "policy")
        ):
            raise ConfigurationError(
                f"{rule!r} is not a rule",
                where=where,
                remedy="write {match: 'class:Softmax', policy: float32}",
            )
        unknown = set(rule) - {"match", "policy"}
        if unknown:
            name = sorted(unknown)[0]
            raise ConfigurationError(
                f"a rule has no key {name!r}", where=where, allowed=("match", "policy"), value=name
            )
        if rule["policy"] not in RULE_POLICIES:
            raise ConfigurationError(
                f"{rule['policy']!r} is not a policy of a layer",
                where=f"{where}.policy",
                allowed=RULE_POLICIES,
                value=rule["policy"],
            )


def _check_device(config: TrainConfig) -> None:
    device = config.device
    if device.strategy != "none" and config.trainer.jit_compile is True:
        raise ConfigurationError(
            f"device.strategy={device.strategy} does not run with trainer.jit_compile=true",
            where="trainer.jit_compile",
            remedy="set trainer.jit_compile=false, or device.strategy=none",
        )
    if device.strategy == "multi_worker":
        _check_workers(config)
    if device.accelerator == "gpu" and device.logical_cpus is not None:
        raise ConfigurationError(
            "device.logical_cpus splits the CPU, but device.accelerator=gpu asks for a GPU",
            where="device.logical_cpus",
            remedy="set device.accelerator=cpu, or device.logical_cpus=null",
        )


def _check_workers(config: TrainConfig) -> None:
    device = config.device
    refused = {
        "device.logical_cpus": device.logical_cpus is not None,
        "batch_size": config.batch_size == "max",
        "device.memory_limit_mb": device.memory_limit_mb is not None,
    }
    for key, given in refused.items():
        if given:
            raise ConfigurationError(
                f"device.strategy=multi_worker does not run with {key} set so",
                where=key,
                remedy="find batch_size=max on one worker, with device.strategy=none, and give "
                "the number"
                if key == "batch_size"
                else f"set {key}=null",
            )


def expected_type(where: str) -> str | None:
    """In a user's words, the type that the closed key `where` ("trainer.steps") must have."""
    node: Any = TrainConfig
    for part in where.split("."):
        if not dataclasses.is_dataclass(node):
            return None
        hints = typing.get_type_hints(node)
        if part not in hints:
            return None
        node = hints[part]
    return type_words(node)
