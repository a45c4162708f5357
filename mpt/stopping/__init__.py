"""Rules that end a run before its last step, and the best evaluation so far.

A rule that counts over steps has `state` and `restore`: a run that goes on from a checkpoint is
stopped at the same step as one that was never interrupted.
"""

from mpt.stopping.best import Best
from mpt.stopping.divergence import DivergenceRules
from mpt.stopping.reason import Cause, Reason

__all__ = ["Best", "Cause", "DivergenceRules", "Reason"]
