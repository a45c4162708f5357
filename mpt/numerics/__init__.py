"""What the numbers do in one step of training, layer by layer.

`tapped_step` runs a step and shows every tensor between its layers. `Capture` keeps the batch and
the state of a step that was not finite, and `Watch` has it replayed and says what broke it.
"""

from mpt.numerics.capture import Capture, Captured
from mpt.numerics.diagnosis import Diagnosis, diagnose
from mpt.numerics.replay import replaying
from mpt.numerics.state import restored
from mpt.numerics.tap import TappedCall, TappedStep, tapped_step, weight_names
from mpt.numerics.watch import Watch

__all__ = [
    "Capture",
    "Captured",
    "Diagnosis",
    "TappedCall",
    "TappedStep",
    "Watch",
    "diagnose",
    "replaying",
    "restored",
    "tapped_step",
    "weight_names",
]
