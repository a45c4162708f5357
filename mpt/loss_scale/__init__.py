"""Loss scaling in three modes, and the step that can be skipped whole.

`LossScaleOptimizer` multiplies the loss before the backward pass and divides the gradients after
it, so that float16 gradients do not vanish (Micikevicius et al., "Mixed Precision Training", 2018,
arXiv:1710.03740). It applies a step only where every gradient is finite. `guarded` completes that:
a skipped step also leaves BatchNormalization statistics, random seeds and metrics as they were.
"""

from mpt.loss_scale.guard import guarded
from mpt.loss_scale.optimizer import LossScaleOptimizer

__all__ = ["LossScaleOptimizer", "guarded"]
