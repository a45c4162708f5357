"""What a shell may complete on mpt's command line, and the scripts by which it asks.

The shell calls `mpt -sc query=SHELL` with the line up to the cursor in COMP_LINE, as Hydra's own
completion does, and gets one candidate a line. No Hydra is imported, so that a press of Tab takes a
fifth of a second.
"""

from mpt.completion.candidates import SHELLS, Candidate, candidates
from mpt.completion.scripts import answer, script

__all__ = ["SHELLS", "Candidate", "answer", "candidates", "script"]
