"""Achieved compute.

Tags:
    compute/model_flops_per_second: model FLOPs a second: three times the forward pass's (once
        forward, twice backward), the usual estimate; recomputation and the optimizer do not count.
    compute/utilization: that, over the matrix-product peak measured on this device, 0 to 1.
"""

import re
import time
from dataclasses import dataclass
from math import prod

import keras
import tensorflow as tf

from mpt.telemetry.window import Window

_SHAPE = re.compile(r"^\s*(?:ROOT )?(%?[\w.\-]+) = (\w+)\[([\d,]*)\]")
_CALL = re.compile(r" (dot|convolution)\(([^)]*)\)(.*)$")
_CONTRACTING = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_OPERATION = re.compile(r'op_name="([^"]*)"')

# What XLA, Keras and the parsing below raise for a model whose FLOPs cannot be counted.
UNCOUNTABLE = (
    tf.errors.OpError,
    ArithmeticError,
    AssertionError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Compute:
    """What relates a rate of examples to a rate of floating-point operations."""

    forward_flops: float | None
    peak: float | None

    def flops_per_second(self, examples_per_second: float | None) -> float | None:
        if not self.forward_flops or examples_per_second is None:
            return None
        return 3 * self.forward_flops * examples_per_second

    def utilization(self, flops_per_second: float | None) -> float | None:
        if not self.peak or flops_per_second is None:
            return None
        return flops_per_second / self.peak

    def tags(self, window: Window) -> dict[str, float]:
        """This module's tags for one window; absent where FLOPs or peak could not be measured."""
        rate = window.examples / window.seconds if window.seconds else None
        achieved = self.flops_per_second(rate)
        values = {
            "compute/model_flops_per_second": achieved,
            "compute/utilization": self.utilization(achieved),
        }
        return {tag: value for tag, value in values.items() if value is not None}


def forward_flops(model: keras.Model, inputs: object) -> float | None:
    """FLOPs of one forward pass on one example: two for each multiply and add.

    Counted over the matrix products and convolutions of the HLO that XLA makes of the model; a
    loop's body counts once.

    Args:
        inputs: the model's inputs as `tf.TensorSpec`s, batch first.

    Returns:
        None where XLA cannot lower the model.
    """
    specs = [tf.TensorSpec([1, *spec.shape[1:]], spec.dtype) for spec in tf.nest.flatten(inputs)]

    @tf.function(jit_compile=True)
    def forward(*tensors: tf.Tensor) -> object:
        return model(tf.nest.pack_sequence_as(inputs, tensors), training=False)

    try:
        return count_flops(forward.experimental_get_compiler_ir(*specs)(stage="hlo"))
    except UNCOUNTABLE:
        return None  # the number is an extra: no run fails for it


@dataclass(frozen=True)
class Product:
    """A matrix product or a convolution of an HLO module.

    Attributes:
        operation: name of the TensorFlow operation that it comes from; empty where not said.
        dtype: HLO's name of its first operand's: f32, f16, bf16, ...
        flops: two for each multiply and add.
    """

    operation: str
    dtype: str
    flops: float


def count_flops(hlo: str) -> float:
    """FLOPs of the `dot` and `convolution` instructions in an HLO module's text."""
    return sum((product.flops for product in products(hlo)), 0.0)


def products(hlo: str) -> list[Product]:
    """The `dot` and `convolution` instructions in an HLO module's text, in their order."""
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, str] = {}
    found = []
    for line in hlo.splitlines():
        defined = _SHAPE.match(line)
        if not defined:
            continue
        name, dtype, dims = defined.groups()
        name = name.lstrip("%")
        shapes[name] = output = [int(d) for d in dims.split(",") if d]
        dtypes[name] = dtype
        call = _CALL.search(line)
        if not call:
            continue
        operation, text, attributes = call.groups()
        operands = [o.split()[-1].lstrip("%") for o in _split_operands(text)]
        lhs, rhs = (shapes[operand] for operand in operands)
        if operation == "dot":
            contracting = _CONTRACTING.search(attributes)
            dimensions = contracting.group(1) if contracting else ""
            depth = prod(lhs[int(d)] for d in dimensions.split(",") if d)
        else:
            labels = _LABELS.search(attributes)
            assert labels, line
            depth = prod(
                size for size, label in zip(rhs, labels.group(1), strict=True) if label != "o"
            )
        source = _OPERATION.search(attributes)
        found.append(
            Product(
                source.group(1) if source else "",
                dtypes[operands[0]],
                2.0 * prod(output) * depth,
            )
        )
    return found


def _split_operands(operands: str) -> list[str]:
    """Operands of a call; commas inside shapes and layouts do not separate them."""
    return re.split(r",\s*(?![^\[{]*[\]}])", operands.strip())


def matmul_peak(dtype: str) -> float | None:
    """Highest rate of a square matrix product on the default device, FLOP/s.

    Sizes double until one product takes 10 ms (or 8192 is reached); the fastest of four
    repetitions counts. None where `dtype` has no matrix product there.
    """
    try:
        return _highest_rate(tf.as_dtype(dtype))
    except (tf.errors.OpError, TypeError):
        return None


def _highest_rate(dtype: tf.DType) -> float:
    @tf.function(input_signature=[tf.TensorSpec([None, None], dtype)])
    def product(a: tf.Tensor) -> tf.Tensor:
        # The whole product must be made, and one number of it brought to the host.
        return tf.reduce_max(tf.linalg.matmul(a, a))

    best, size, shortest = 0.0, 128, 0.0
    while size <= 8192 and shortest < 0.01:
        a = tf.cast(tf.fill((size, size), 1e-3), dtype)
        product(a).numpy()
        times = []
        for _ in range(4):
            start = time.perf_counter()
            product(a).numpy()
            times.append(time.perf_counter() - start)
        shortest = min(times)
        best = max(best, 2.0 * size**3 / shortest)
        size *= 2
    return best
