"""`mpt probe`: real batches through the same weights in float32 and under the policy.

Method: P. Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740, sections
3.2 and figure 3.
"""

from mpt.probing.run import run

__all__ = ["run"]
