"""Runs held against one another: groups, statistics and a verdict.

Nothing here imports TensorFlow, so that hundreds of runs are compared in seconds.
"""

from mpt.comparison.engine import MARGIN, compare
from mpt.comparison.result import (
    Comparison,
    Curve,
    Group,
    Interval,
    Pairing,
    Parity,
    Requirement,
    Run,
    Spread,
    Unreadable,
    Verdict,
)

__all__ = [
    "MARGIN",
    "Comparison",
    "Curve",
    "Group",
    "Interval",
    "Pairing",
    "Parity",
    "Requirement",
    "Run",
    "Spread",
    "Unreadable",
    "Verdict",
    "compare",
]
