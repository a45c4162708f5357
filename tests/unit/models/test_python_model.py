"""A model from the user's own function."""

from typing import Any

import keras
import pytest

from mpt.errors import ConfigurationError, FunctionError
from mpt.models import python


def made(width: int = 4, *, shape: Any = None, classes: Any = None) -> keras.Model:
    units = width if classes is None else classes
    return keras.Sequential([keras.Input(shape or (3,)), keras.layers.Dense(units)], name="mine")


def test_shape_and_classes_are_passed_where_they_are_taken() -> None:
    model = python.build(function=made, shape=[5], classes=7)
    assert (model.input_shape, model.output_shape, model.name) == ((None, 5), (None, 7), "mine")


def test_kwargs_come_first() -> None:
    kwargs = {"width": 9, "classes": None, "shape": (2,)}
    model = python.build(function=made, kwargs=kwargs, shape=(5,), classes=7)
    assert (model.input_shape, model.output_shape) == ((None, 2), (None, 9))


def test_a_function_without_arguments() -> None:
    def build() -> keras.Model:
        return made()

    assert python.build(function=build, shape=None, classes=None).output_shape == (None, 4)


def needs_depth(depth: int) -> keras.Model:
    return made(depth)


@pytest.mark.parametrize(
    ("function", "kwargs", "message", "where"),
    [
        (made, {"widht": 3}, "unexpected keyword argument 'widht'", "model.kwargs"),
        (needs_depth, {}, "missing a required argument", "model.kwargs"),
        (lambda: "model", {}, "returned str, not a keras.Model", "model.function"),
    ],
)
def test_refused(function: Any, kwargs: dict[str, Any], message: str, where: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        python.build(function=function, kwargs=kwargs, shape=(5,), classes=7)
    assert caught.value.where == where


def other_name(input_shape: Any, num_classes: int) -> keras.Model:
    return made(shape=input_shape, classes=num_classes)


def test_an_argument_of_another_name_is_told_how_to_come_by_its_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        python.build(function=other_name, shape=(8, 8), classes=7)
    assert caught.value.remedy == "name it 'shape', or add +model.kwargs.input_shape=[8,8]"
    with pytest.raises(ConfigurationError) as caught:
        python.build(function=other_name, kwargs={"input_shape": (8,)}, shape=(8,), classes=7)
    assert caught.value.remedy == "name it 'classes', or add +model.kwargs.num_classes=7"
    with pytest.raises(ConfigurationError) as caught:
        python.build(function=needs_depth, shape=(8,), classes=7)
    assert caught.value.remedy == "add +model.kwargs.depth=VALUE"


@pytest.mark.parametrize("error", [KeyError("units"), MemoryError("all of it")])
def test_what_a_function_raises_names_it(error: Exception) -> None:
    def fails() -> keras.Model:
        raise error

    with pytest.raises((FunctionError, MemoryError)) as caught:
        python.build(function=fails, shape=(8,), classes=7)
    if isinstance(error, MemoryError):  # ends with 4
        assert caught.value is error
        return
    assert caught.value.where == "model.function"
    assert caught.value.message.endswith("fails raised KeyError: 'units'")
    assert (caught.value.exit_code, caught.value.__cause__) == (1, error)
