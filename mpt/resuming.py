"""Whether there is a run in a folder that can go on, and whether it is this one.

A run goes on where its folder holds its configuration and it did not come to its end. What shapes
the result must be as it was: only `FREE` may change. Nothing here imports TensorFlow.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from mpt import yaml_files
from mpt.checkpoint import BrokenCheckpoint, Checkpoints, Found
from mpt.errors import ConfigurationError
from mpt.report import open_regular
from mpt.run_folder import HYDRA, METRICS, MODEL, REPORT, RunFolder, read_metrics
from mpt.schema import LAYER_POLICIES, TrainConfig
from mpt.state_fields import Fields, whole

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
ENDED = {"completed": 0, "stopped_early": 0, "diverged": 3}
LONGEST_REPORT = 2**26
_ABSENT = object()


@dataclass(frozen=True)
class Ended:
    """A run that came to its end before: there is nothing left to do."""

    exit_code: int
    message: str


@dataclass(frozen=True)
class Resumption:
    """A run that is to go on.

    Attributes:
        found: the checkpoint that it goes on from; None: none was written yet.
        warnings: newer checkpoints that are broken.
    """

    found: Found | None
    warnings: tuple[str, ...] = ()

    def check(self, fingerprint: str, total_steps: int) -> None:
        """Refuse to go on with other data, or to a step that is passed already.

        Raises:
            ConfigurationError: that is what is asked for.
        """
        if self.found is None:
            return
        if self.run.get("fingerprint") != fingerprint:
            raise ConfigurationError(
                "The data is not what this run has been trained on: its fingerprint differs.",
                where="dataset",
                remedy="bring the data back, or start a new run with init_from",
            )
        if self.found.step > total_steps:
            raise ConfigurationError(
                f"The run has come to step {self.found.step} already, and is to end at "
                f"{total_steps}.",
                where="trainer.steps",
                remedy="give more steps, or more trainer.epochs",
            )

    def begin_anew(self, folder: RunFolder) -> bool:
        """Remove what a run without a checkpoint left, where it is such a run: it begins anew."""
        if self.found is not None:
            return False
        Checkpoints(folder.path).go_on_from(None)
        folder.cut(folder.path / METRICS, 0)
        for path in [folder.path / REPORT, *folder.tensorboard.glob("events.out.tfevents.*")]:
            path.unlink(missing_ok=True)
        return True

    @property
    def state(self) -> dict[str, Any] | None:
        """What the parts of the run go on from."""
        return None if self.found is None else self.found.state

    @property
    def run(self) -> dict[str, Any]:
        """What the run had chosen: batch_size, policy, jit; empty where nothing was saved."""
        return {} if self.found is None else self.found.state["run"]


class FolderState:
    """The folder of a run that goes on: what it holds of a later time than the checkpoint's.

    Args:
        composed: YAML texts for `.hydra/`: what may change has changed, perhaps.
        begun: called once the run goes on, and the folder is its own.
    """

    def __init__(
        self,
        folder: RunFolder,
        resumed: Resumption | None,
        config: TrainConfig,
        composed: dict[str, str],
        begun: Callable[[], None],
    ):
        self._folder = folder
        self._resumed = resumed if resumed is not None and resumed.found is not None else None
        self._limits = _limits(config)
        self._composed = composed
        self._begun = begun

    def state(self) -> dict[str, Any]:
        """How far the run was to go; the folder itself is what it is.

        Raises:
            FolderGone: somebody took it away: no checkpoint is to be written there.
        """
        self._folder.check()
        return {"limits": self._limits}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing: what the run may go to is what it is told now."""

    def apply(self) -> None:
        """Put later checkpoints aside, and take away the report of how the run ended before.

        In this order: whatever a kill leaves of it, the run goes on from the same checkpoint.
        """
        if self._resumed is None:
            return
        Checkpoints(self._folder.path).go_on_from(self._resumed.found)
        (self._folder.path / REPORT).unlink(missing_ok=True)
        self._folder.write_hydra(**self._composed)
        self._resumed = None  # a rollback is not a resumption
        self._begun()


def find(run_dir: Path, config: TrainConfig) -> Ended | Resumption | None:
    """What `config` would go on with in `run_dir`; None: no run is there.

    Raises:
        ConfigurationError: the run there is another one, or nothing of it can be used.
    """
    different = _allowed_differences(run_dir, config)
    if different is None:
        return None
    end = _end(run_dir)
    if end is not None and not any(_is_one_of(key, FURTHER) for key in different):
        return end
    bad = end is not None and end.exit_code != 0
    try:
        found = _checkpoint(run_dir, healthy=bad)
    except ConfigurationError:
        # The rule that stopped it may have been wrong, and the run as good as ever.
        if not bad or not any(_is_one_of(key, ("trainer.stop",)) for key in different):
            raise
        found = _checkpoint(run_dir, healthy=False)
    if found.found is not None:
        _go_further(found.found.state, config)
    return found


def ended(run_dir: Path, config: TrainConfig) -> Ended | None:
    """How the run in `run_dir` ended, where it did; as `find`, but no checkpoint is read.

    Raises:
        ConfigurationError: the run there is another one.
    """
    different = _allowed_differences(run_dir, config)
    if different is None or any(_is_one_of(key, FURTHER) for key in different):
        return None
    return _end(run_dir)


def _allowed_differences(run_dir: Path, config: TrainConfig) -> list[str] | None:
    """Keys with another value than the run in `run_dir` had; None where there is no run."""
    earlier = _configuration(run_dir)
    if earlier is None:
        return None
    different = _different(earlier, asdict(config))
    changed = [key for key in different if not _is_one_of(key, FREE)]
    if changed:
        raise ConfigurationError(
            f"The run in this folder has another configuration: {', '.join(changed[:5])}"
            + (", ..." if len(changed) > 5 else ""),
            where=f"run_dir={run_dir}",
            remedy="give it the same configuration, or name another folder; a new run can start "
            "from its weights by init_from",
        )
    return different


def batch_size(run_dir: Path) -> int | None:
    """The size that batch_size=max came to in the run that is to go on; None: there is none.

    Raises:
        ConfigurationError: no checkpoint of it can be used.
    """
    resumption = _checkpoint(run_dir, healthy=False)
    return resumption.run.get("batch_size")


def configuration(run_dir: Path) -> dict[str, Any]:
    """The configuration of the run in `run_dir`: the keys of `TrainConfig`, resolved.

    Raises:
        ConfigurationError: there is no run.
    """
    found = _configuration(run_dir)
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


def _configuration(run_dir: Path) -> dict[str, Any] | None:
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


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys, dotted, whose values differ."""
    flat_before, flat_now = dict(flat(before)), dict(flat(now))
    return sorted(
        key
        for key in {*flat_before, *flat_now}
        if not _is_same(flat_before.get(key, _ABSENT), flat_now.get(key, _ABSENT))
    )


def _is_same(before: Any, now: Any) -> bool:
    return before == now or repr(before) == repr(now)  # NaN is not equal to itself


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _limits(config: TrainConfig) -> dict[str, Any]:
    """What says how far a run goes: `FURTHER` and its values."""
    return {key: value for key, value in flat(asdict(config)) if _is_one_of(key, FURTHER)}


def _go_further(state: dict[str, Any], config: TrainConfig) -> None:
    """Where a run stopped early in a checkpoint, and its limits are others now, it goes on."""
    training, folder = state.get("training"), state.get("folder")
    if not isinstance(training, dict) or not isinstance(folder, dict):
        return
    if folder.get("limits") != _limits(config):
        training["stopped"] = None


def _is_one_of(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _end(run_dir: Path) -> Ended | None:
    """How the run came to its end, by its report; None where it did not."""
    content = _report(run_dir)
    try:
        status, steps = content["status"], content["training"]["steps"]
        code = ENDED.get(status)
    except (KeyError, TypeError):
        return None
    if code is None or content.get("exit_code") != code or type(steps) is not int:
        return None
    if status == "diverged":
        reason = content.get("reason")
        rule = reason.get("rule") if isinstance(reason, dict) else "for a reason not told"
        artifacts = content.get("artifacts")
        good = isinstance(artifacts, dict) and "last_good_checkpoint" in artifacts
        way = "trainer.on_divergence=rollback, or other values of trainer.stop"
        return Ended(
            code,
            f"This run diverged after {steps} steps ({rule}). "
            + (
                f"It can go on from its last good checkpoint with {way}."
                if good
                else "No checkpoint of it is good; with other values of trainer.stop it can go on."
            ),
        )
    return Ended(
        code,
        f"This run is done: {status.replace('_', ' ')} after {steps} steps. Nothing is left to do.",
    )


def _report(run_dir: Path) -> dict[str, Any]:
    """What the run's report says; nothing where it cannot be read."""
    try:
        with open_regular(run_dir / REPORT) as file:
            content = orjson.loads(file.read(LONGEST_REPORT))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _checkpoint(run_dir: Path, *, healthy: bool) -> Resumption:
    try:
        found = Checkpoints(run_dir).newest(healthy=healthy)
    except BrokenCheckpoint as error:
        raise ConfigurationError(
            f"No checkpoint of this run can be used: {error}.",
            where=str(run_dir / "checkpoints"),
            remedy="nothing was changed; start a new run in another folder",
        ) from error
    if found is None:
        _refuse_lost(run_dir)
        return Resumption(None, ("No checkpoint was written yet: it begins at the first step.",))
    try:
        _check_state(found)
    except ValueError as error:
        raise ConfigurationError(
            f"{found.path.name} is no checkpoint of a run: {error}.", where=str(found.path)
        ) from error
    return Resumption(
        found,
        tuple(
            f"{path.name} is broken: {what}. {found.path.name} is used instead."
            for path, what in found.broken
        ),
    )


def _refuse_lost(run_dir: Path) -> None:
    """ConfigurationError where the run had a checkpoint, by what else it left, and has none."""
    content, sign = _report(run_dir), None
    artifacts = content.get("artifacts")
    named = artifacts.get("checkpoint") if isinstance(artifacts, dict) else None
    if named is not None:
        sign = f"its report names {named}"
    elif (run_dir / MODEL).exists():
        sign = f"it saved {MODEL}"
    elif not content and (step := _beyond_a_checkpoint(run_dir)) is not None:
        sign = f"it came to step {step}"
    if sign is not None:
        raise ConfigurationError(
            f"The checkpoints of this run are gone: {sign}, and there is none.",
            where=f"run_dir={run_dir}",
            remedy="bring the folder back, or start a new run in another one; nothing was changed",
        )


def _beyond_a_checkpoint(run_dir: Path) -> int | None:
    """The last step in metrics.jsonl, where one was to be written before; else None."""
    earlier = _configuration(run_dir) or {}
    every = earlier["trainer"]["checkpoint_every"] if earlier else None
    try:
        steps = [row.get("step") for row in read_metrics(run_dir)]
    except ConfigurationError:
        return None
    last = max((step for step in steps if isinstance(step, int | float)), default=0)
    return int(last) if every is not None and last > every else None


def _check_state(found: Found) -> None:
    """ValueError where a checkpoint does not say what the run is built with again."""
    run, training = found.state.get("run"), found.state.get("training")
    if not isinstance(run, dict) or not isinstance(training, dict):
        raise ValueError("it does not say what the run is")
    whole(run.get("batch_size"), "batch_size", least=1)
    if run.get("policy") not in LAYER_POLICIES:
        raise ValueError("it names no policy of precision")
    jit = Fields(run.get("jit"), "enabled", "reason")
    jit.flag("enabled")
    jit.text("reason")
    if training.get("step") != found.step:
        raise ValueError("its state is that of another step")
