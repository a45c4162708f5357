"""Any architecture of keras.applications, by name, with fresh weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError
from mpt.models.inputs import head, image_shape

if TYPE_CHECKING:
    import keras


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    architecture: str = "MobileNetV2",
    include_top: bool = True,
    include_preprocessing: bool = False,
    arguments: Mapping[str, Any] | None = None,
    name: str = "application",
) -> keras.Model:
    """The architecture of that name, without pretrained weights.

    The data come scaled to [0, 1]. Architectures that can rescale their own input (MobileNetV3,
    EfficientNetV2, ConvNeXt) are therefore built without that part unless `include_preprocessing`;
    those that always do (EfficientNetB0 to B7, which divide by 255) get the factor 255 in front.

    Args:
        shape: of one example, (height, width, channels).
        classes: units of the softmax output; None makes a linear output of `outputs` units.
        architecture: a name of keras.applications, as ResNet50, MobileNetV2, EfficientNetB0.
        include_top: the architecture's own classifier; false puts average pooling and one dense
            layer named `head` in its place.
        include_preprocessing: keep the architecture's rescaling of its input, for pixels in
            [0, 255], where it can be left out.
        arguments: further arguments of the architecture's function, as {alpha: 0.5}.
        name: of the Keras model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, classes or outputs).

    Raises:
        ConfigurationError: an unknown name (with the nearest), an argument that the function does
            not take, a shape that the architecture refuses.
    """
    import keras

    function = _named(architecture)
    given = _arguments(architecture, function, arguments or {}, include_preprocessing)
    image = keras.Input(image_shape(shape, architecture), name="image")
    source = image
    if architecture.startswith("EfficientNetB") and not include_preprocessing:
        source = keras.layers.Rescaling(255.0, name="to_pixels")(image)
    try:
        if include_top:
            own = {
                "classes": outputs if classes is None else classes,
                "classifier_activation": "linear" if classes is None else "softmax",
            }
        else:
            own, given = {}, {"pooling": "avg", **given}
        base = function(include_top=include_top, weights=None, input_tensor=source, **own, **given)
        output = base.outputs[0] if include_top else head(classes, outputs)(base.outputs[0])
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{architecture} cannot be built for examples of shape {tuple(shape)}: {error}",
            where="model.architecture",
            remedy="take larger images or another architecture",
        ) from error
    return keras.Model(image, output, name=name)


def _arguments(
    architecture: str,
    function: Callable[..., keras.Model],
    asked: Mapping[str, Any],
    include_preprocessing: bool,
) -> dict[str, Any]:
    """What the function is given besides input and output. ConfigurationError: it takes it not."""
    parameters = inspect.signature(function).parameters
    for key in asked:
        if key not in parameters or key in ("weights", "classes", "include_top", "input_tensor"):
            raise ConfigurationError(
                f"{architecture} takes no argument {key!r} here",
                where=f"model.arguments.{key}",
                value=key,
                allowed=[p for p in parameters if p not in ("weights", "input_tensor")],
            )
    if "include_preprocessing" not in parameters:
        return dict(asked)
    return {"include_preprocessing": include_preprocessing, **asked}


def architectures() -> list[str]:
    """The names that keras.applications offers, sorted."""
    import keras

    return sorted(
        name
        for name, value in vars(keras.applications).items()
        if name[0].isupper() and inspect.isfunction(value)
    )


def _named(architecture: str) -> Callable[..., keras.Model]:
    import keras

    names = architectures()
    if architecture not in names:
        raise ConfigurationError(
            f"keras.applications has no {architecture!r}",
            where="model.architecture",
            value=architecture,
            allowed=names,
        )
    return getattr(keras.applications, architecture)
