"""The configuration of a run that was begun before, and what of it may be another one now.

A run goes on where its folder holds its configuration. What shapes the result must be as it was:
only `FREE` may change. Nothing here imports TensorFlow.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpt import yaml_files
from mpt.dotted_names import flat, within
from mpt.errors import ConfigurationError
from mpt.run_folder import HYDRA
from mpt.schema import TrainConfig

# What a run may go on with another value of; a whole group by its name.
FREE = (
    *("name", "run_dir", "resume", "recipe", "published", "init_from"),
    *("trainer.steps", "trainer.epochs", "trainer.stop", "trainer.early_stopping"),
    *("trainer.on_divergence", "trainer.max_rollbacks"),
    *("trainer.checkpoint_every", "trainer.checkpoint_minutes", "trainer.keep"),
    *("trainer.keep_best", "trainer.smoke_checks", "dataset.stall_seconds", "telemetry.peak"),
    *("device.memory_growth", "device.memory_limit_mb", "device.accelerator"),
    "device.tuning_cache",
)
# Of those, what a run that came to its end can go on with after all.
FURTHER = (
    *("trainer.steps", "trainer.epochs", "trainer.stop", "trainer.early_stopping"),
    *("trainer.on_divergence", "trainer.max_rollbacks"),
)
_ABSENT = object()


def allowed_differences(run_dir: Path, config: TrainConfig) -> list[str] | None:
    """Keys with another value than the run in `run_dir` had; None where there is no run."""
    earlier = find(run_dir)
    if earlier is None:
        return None
    different = _differences(earlier, asdict(config))
    changed = [key for key in different if not within(key, FREE)]
    if changed:
        raise ConfigurationError(
            f"The run in this folder has another configuration: {', '.join(changed[:5])}"
            + (", ..." if len(changed) > 5 else ""),
            where=f"run_dir={run_dir}",
            remedy="give it the same configuration, or name another folder; a new run can start "
            "from its weights by init_from",
        )
    return different


def read(run_dir: Path, *, resuming: bool) -> dict[str, Any]:
    """The configuration of the run in `run_dir`: the keys of `TrainConfig`, resolved.

    Args:
        resuming: it is named by `resume=`.

    Raises:
        ConfigurationError: there is no run.
    """
    found = find(run_dir)
    if found is None and not resuming:
        raise ConfigurationError(
            "There is no run in this folder: no .hydra/config.yaml, as a run has."
            if run_dir.is_dir()
            else "There is no such folder.",
            where=str(run_dir),
            remedy="name the folder that the run's last line gave, runs/DATE/TIME_MODEL_PRECISION",
        )
    if found is None:
        raise ConfigurationError(
            "There is nothing to resume in this folder: no .hydra/config.yaml, as a run has, and "
            "no sweep.json.",
            where=f"resume={run_dir}",
            remedy="name the folder that the run's last line gave, runs/DATE/TIME_MODEL_PRECISION",
        )
    return found


def overrides(run_dir: Path) -> list[str]:
    """What the run in `run_dir` was asked for; empty where that cannot be read."""
    try:
        found = yaml_files.plain(run_dir / HYDRA / "overrides.yaml")
    except ConfigurationError:
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def find(run_dir: Path) -> dict[str, Any] | None:
    """The like; None where there is no run."""
    from omegaconf import OmegaConf

    file = run_dir / HYDRA / "config.yaml"
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # what reads it says why it cannot be read
    # It was resolved when it was written: whatever it holds now is a text.
    written = yaml_files.literal(yaml_files.plain(file))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), written)
        config: Any = OmegaConf.to_object(merged)
        return asdict(config)
    except Exception as error:  # OmegaConf's
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigurationError(
            f"The run's configuration cannot be read: {said}.", where=str(file)
        ) from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys, dotted, whose values differ."""
    flat_before, flat_now = dict(flat(before)), dict(flat(now))
    return sorted(
        key
        for key in {*flat_before, *flat_now}
        if not _is_same(flat_before.get(key, _ABSENT), flat_now.get(key, _ABSENT))
    )


def _is_same(before: Any, now: Any) -> bool:
    return before == now or repr(before) == repr(now)  # NaN is not equal to itself


def limits(config: TrainConfig) -> dict[str, Any]:
    """What says how far a run goes: `FURTHER` and its values."""
    return {key: value for key, value in flat(asdict(config)) if within(key, FURTHER)}
