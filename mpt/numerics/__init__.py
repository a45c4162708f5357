"""What the numbers do in one step of training, layer by layer."""

from mpt.numerics.state import restored
from mpt.numerics.tap import TappedCall, TappedStep, tapped_step, weight_names

__all__ = ["TappedCall", "TappedStep", "restored", "tapped_step", "weight_names"]
