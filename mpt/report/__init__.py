"""The report of a run: dataclasses, their JSON, its JSON Schema, and the closing table.

Nothing here imports TensorFlow, so that a report is read in milliseconds.
"""

from mpt.report.environment import environment
from mpt.report.hashes import config_hash, group_hash
from mpt.report.json_values import decode, encode, timestamp
from mpt.report.read import from_json, read
from mpt.report.regular_file import open_regular, read_regular
from mpt.report.run_report import (
    BOUND_BY_DATA,
    SCHEMA_VERSION,
    STATUSES,
    Best,
    Compute,
    Data,
    Device,
    Environment,
    Execution,
    LossScale,
    Memory,
    Metrics,
    Model,
    Precision,
    Reason,
    RunReport,
    StepTime,
    Throughput,
    Training,
    WallSeconds,
)

__all__ = [
    "BOUND_BY_DATA",
    "SCHEMA_VERSION",
    "STATUSES",
    "Best",
    "Compute",
    "Data",
    "Device",
    "Environment",
    "Execution",
    "LossScale",
    "Memory",
    "Metrics",
    "Model",
    "Precision",
    "Reason",
    "RunReport",
    "StepTime",
    "Throughput",
    "Training",
    "WallSeconds",
    "config_hash",
    "decode",
    "encode",
    "environment",
    "from_json",
    "group_hash",
    "open_regular",
    "read",
    "read_regular",
    "timestamp",
]
