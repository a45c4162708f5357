"""Names for configurations: equal ones get equal names."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mpt.report.json_values import encode


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of a whole configuration but `run_dir`, which no two runs share; 12 hex digits."""
    return _hash(config, leave_out=("run_dir",))


def group_hash(config: Mapping[str, Any]) -> str:
    """Hash that runs share where they differ in seed, name and run_dir only; 12 hex digits."""
    return _hash(config, leave_out=("seed", "name", "run_dir"))


def _hash(config: Mapping[str, Any], leave_out: tuple[str, ...]) -> str:
    kept = {key: value for key, value in config.items() if key not in leave_out}
    text = json.dumps(encode(kept), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
