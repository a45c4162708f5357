"""Several processes that train one model together, as on several machines.

`cluster` says who they are, `channel` carries messages between two of them, by `meeting` they come
together, and `team` is what a run sees: the members, in lock step, and what became of one that has
gone. No TensorFlow but where Slurm's variables are read.
"""

from mpt.workers.cluster import Cluster, from_environment
from mpt.workers.meeting import assemble
from mpt.workers.team import ALONE, Team, WorkerLost

__all__ = ["ALONE", "Cluster", "Team", "WorkerLost", "assemble", "from_environment"]
