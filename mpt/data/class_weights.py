"""Weights of the classes, as a weight of each training example."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.examples import Data

WHERE = "class_weight"
BALANCED = "balanced"
ALLOWED = ("a list of a number for each class", "a mapping from classes to numbers", BALANCED)


def weighted(data: Data, class_weight: Any) -> Data:
    """`data` whose training batches are (x, y, sample_weight), as Keras's `fit(class_weight=...)`.

    sample_weight is float32 of the shape of y: the weight of the class of each label. Validation
    stays as it is. Places that the data ignore keep their weight of 0.

    Args:
        data: whose labels are one tensor of classes.
        class_weight: a list of a number for each class; a mapping from classes to numbers, 1 for
            those that it leaves out; `balanced`, which is examples / (classes * examples of the
            class), over the classes that there are, as in King and Zeng, "Logistic Regression in
            Rare Events Data", 2001; or None.

    Raises:
        ConfigurationError: it fits no such labels, or the data have weights of their own.
    """
    if class_weight is None:
        return data
    classes = _classes(data)
    if class_weight == BALANCED:
        weights = _balanced(data)
    elif isinstance(class_weight, dict):
        weights = _by_class(class_weight, classes)
    elif isinstance(class_weight, list | tuple):
        weights = _listed(class_weight, classes)
    else:
        raise ConfigurationError(
            f"class_weight={class_weight} weighs no class",
            where=WHERE,
            value=class_weight,
            allowed=ALLOWED,
        )
    return _with_weights(data, weights)


def _classes(data: Data) -> int:
    """The number of classes; refuses labels that are none."""
    spec = data.element_spec
    if len(spec) > 2 and not data.ignores:
        raise ConfigurationError(
            f"the examples of {data.name} have weights of their own",
            where=WHERE,
            allowed=["null"],
            remedy="weigh the classes in the dataset's function",
        )
    label = spec[1]
    if isinstance(label, dict | list | tuple):
        raise ConfigurationError(
            f"an example of {data.name} has several labels, and a class one",
            where=WHERE,
            allowed=["null"],
            remedy="weigh the examples in the dataset's function",
        )
    if data.classes is None or not label.dtype.is_integer:
        raise ConfigurationError(
            f"the labels of {data.name} are {label.dtype.name} {tuple(label.shape)[1:]}: "
            "mixtures, or no classes",
            where=WHERE,
            allowed=["null"],
            remedy="give integer labels, and no dataset.mixup or dataset.cutmix",
        )
    return data.classes


def _balanced(data: Data) -> np.ndarray:
    if data.class_counts is None:
        raise ConfigurationError(
            f"the classes of {data.name} are not counted before they are read",
            where=WHERE,
            value=BALANCED,
            allowed=ALLOWED[:2],
        )
    counts = data.class_counts()
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def _by_class(given: dict[Any, Any], classes: int) -> np.ndarray:
    weights = np.ones(classes)
    for key, value in given.items():
        if not re.fullmatch("[0-9]+", str(key)) or int(key) >= classes:  # JSON's keys are texts
            raise ConfigurationError(
                f"there is no class {key}",
                where=f"{WHERE}.{key}",
                allowed=[f"0 to {classes - 1}"],
            )
        weights[int(key)] = _factor(value, f"{WHERE}.{key}")
    return weights


def _listed(given: list[Any] | tuple[Any, ...], classes: int) -> np.ndarray:
    if len(given) != classes:
        raise ConfigurationError(
            f"{len(given)} weights for {classes} classes",
            where=WHERE,
            remedy="give one for each class, or a mapping of those that are not 1",
        )
    return np.array([_factor(value, f"{WHERE}[{index}]") for index, value in enumerate(given)])


def _factor(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"{value} is no weight of a class", where=where, allowed=["a number of 0 or more"]
        )
    return float(value)


def _with_weights(data: Data, weights: np.ndarray) -> Data:
    import tensorflow as tf

    def add(x: Any, y: tf.Tensor, *counted: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        weight = tf.gather(tf.constant(weights, tf.float32), y)
        return x, y, weight * counted[0] if counted else weight

    train, jump = data.train.map(add), data.jump
    return replace(
        data,
        train=train,
        element_spec=train.element_spec,
        jump=None if jump is None else lambda *place: jump(*place).map(add),
    )
