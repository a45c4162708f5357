"""Achieved compute.

Tags:
    compute/model_flops_per_second: model FLOPs a second: three times the forward pass's (once
        forward, twice backward), the usual estimate; recomputation and the optimizer do not count.
    compute/utilization: that, over the matrix-product peak measured on this device, 0 to 1.
"""

from dataclasses import dataclass, field

import keras
import tensorflow as tf

from mpt.telemetry.hlo import WIDE, cast_bytes, products
from mpt.telemetry.window import Window

# What XLA, Keras and mpt.telemetry.hlo raise for a model whose FLOPs cannot be counted.
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
class ForwardPass:
    """The forward pass on one example, in inference; None: it could not be counted.

    Attributes:
        flops: of its matrix products and convolutions: two for each multiply and add.
        float32_flops_fraction: share of those whose operands are float32 or wider, 0 to 1.
        cast_bytes: what casts between 16 and 32 bits (or other widths) write, those of weights
            left out. XLA may put a cast into its neighbours, and then writes less.
    """

    flops: float | None = None
    float32_flops_fraction: float | None = None
    cast_bytes: int | None = None


@dataclass
class Compute:
    """What relates a rate of examples to a rate of floating-point operations.

    Attributes:
        peak: of the matrix product, FLOP/s; None until it is measured, or where it cannot be.
    """

    forward: ForwardPass = field(default_factory=ForwardPass)
    peak: float | None = None

    def flops_per_second(self, examples_per_second: float | None) -> float | None:
        if not self.forward.flops or examples_per_second is None:
            return None
        return 3 * self.forward.flops * examples_per_second

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


def forward_pass(model: keras.Model, inputs: object) -> ForwardPass:
    """Count what one forward pass on one example does, in the HLO that XLA makes of the model.

    A loop's body counts once. Nothing is known where XLA cannot lower the model.

    Args:
        inputs: the model's inputs as `tf.TensorSpec`s, batch first.
    """
    specs = [tf.TensorSpec([1, *spec.shape[1:]], spec.dtype) for spec in tf.nest.flatten(inputs)]

    @tf.function(jit_compile=True)
    def forward(*tensors: tf.Tensor) -> object:
        return model(tf.nest.pack_sequence_as(inputs, tensors), training=False)

    try:
        hlo = forward.experimental_get_compiler_ir(*specs)(stage="hlo")
        found = products(hlo)
        total = sum((product.flops for product in found), 0.0)
        wide = sum(product.flops for product in found if product.dtype in WIDE)
        return ForwardPass(total, wide / total if total else None, cast_bytes(hlo, len(specs)))
    except UNCOUNTABLE:
        return ForwardPass()  # the numbers are an extra: no run fails for them
