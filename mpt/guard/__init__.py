"""What a configuration may tell Hydra, and how far it may go in what it asks to be read.

Hydra acts on its own part of a configuration before a job has begun: it calls what callbacks, the
launcher and log handlers name, imports where it is told to search, sets variables of the
environment and makes folders. So every configuration is looked at as soon as Hydra has composed
it, and before Hydra acts on it. What the job's part names goes through `mpt.instantiate`.
"""

from mpt.guard.hydra import guarded, install, lifted

__all__ = ["guarded", "install", "lifted"]
