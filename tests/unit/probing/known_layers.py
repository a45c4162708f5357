"""Layers with numbers that are known, as a probe would have measured them."""

import numpy as np

from mpt.probing.measures import AtScale, Layer
from mpt.probing.recommendation import SCALES
from mpt.schema import HALF

TYPES = {"float16": np.float16, "float32": np.float32}


def layer(
    path,
    *,
    gradients=(1.0,),
    weights=(),
    dtype="float16",
    scales=SCALES,
    entered=0.0,
    left=0.0,
    finite=True,
    inputs_finite=True,
    movable=True,
    innermost=True,
    arrival=0,
):
    """A layer with these true gradients, rounded to its dtype at every scale.

    `entered` and `left` are the relative errors of its inputs and outputs.
    """
    made = Layer(path, "Dense", dtype, innermost, movable, arrival)
    for distance, error, good in (
        (made.inputs, entered, inputs_finite),
        (made.outputs, left, finite),
    ):
        distance.difference, distance.reference, distance.elements = error**2, 1.0, 1
        distance.finite = good
    for scale in scales:
        at = made.scales.setdefault(scale, AtScale())
        for part, values in ((at.activations, gradients), (at.weights, weights)):
            true = np.array(values, "float32")
            with np.errstate(over="ignore"):
                narrow = (true * np.float32(scale)).astype(TYPES[dtype])
            part.add(narrow, true, scale, dtype)
    if dtype in HALF:
        made.activation_exponents.add(np.array(gradients, "float32"))
        made.weight_exponents.add(np.array(weights, "float32"))
    return made
