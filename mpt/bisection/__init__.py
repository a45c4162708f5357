"""Which layers must stay in float32 for a training to succeed; nothing here imports TensorFlow.

Every training, and the probe, is a child process with a folder of its own below the bisection's:

    bisect.json                what was tried, what came of it, and what was found
    precision/bisected.yaml    the find, as a choice of the group `precision`
    trials/00_float32, 01_policy, 02_..., probe/
"""

from mpt.bisection.bisect import Settings, run

__all__ = ["Settings", "run"]
