"""What every layer of a model computes in, what that costs, and what to change; before training.

`run` is the task of `mpt inspect`. It prepares the run as `mpt train` would, traces one training
step and the forward pass, computes nothing and writes no file.
"""

from mpt.inspection.run import run

__all__ = ["run"]
