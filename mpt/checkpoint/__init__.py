"""What a run goes on from after an interruption: files that are whole, or known not to be.

`write` and `read` are the file format; `Checkpoints` is a run's folder of such files. What goes
into them is up to the parts of a run, each of which has `state` and `restore`.
"""

from mpt.checkpoint.file import BrokenCheckpoint, read, read_header, write
from mpt.checkpoint.store import Checkpoints, Found

__all__ = ["BrokenCheckpoint", "Checkpoints", "Found", "read", "read_header", "write"]
