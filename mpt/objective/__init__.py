"""Loss and metrics: chosen from labels and outputs, or as given, and computed in float32.

`compile_model` compiles a model for training, `check_shapes` refuses data that it cannot take, and
`monitored` tells in which direction a metric improves.
"""

from mpt.objective.compiling import compile_model
from mpt.objective.monitored import monitored
from mpt.objective.shapes import check_shapes

__all__ = ["check_shapes", "compile_model", "monitored"]
