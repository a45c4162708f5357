"""Whether there is a run in a folder that can go on, and whether it is this one.

A run goes on where its folder holds its configuration and it did not come to its end. Nothing here
imports TensorFlow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mpt import run_configuration
from mpt.checkpoint import BrokenCheckpoint, Checkpoints, Found
from mpt.dotted_names import within
from mpt.errors import ConfigurationError
from mpt.report import open_regular
from mpt.run_configuration import FURTHER, allowed_differences, limits
from mpt.run_folder import METRICS, MODEL, REPORT, RunFolder, read_metrics
from mpt.schema import LAYER_POLICIES, TrainConfig
from mpt.state_fields import Fields, whole

ENDED = {"completed": 0, "stopped_early": 0, "diverged": 3}
LONGEST_REPORT = 2**26


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
        self._limits = limits(config)
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
    different = allowed_differences(run_dir, config)
    if different is None:
        return None
    end = _end(run_dir)
    if end is not None and not any(within(key, FURTHER) for key in different):
        return end
    bad = end is not None and end.exit_code != 0
    try:
        found = _checkpoint(run_dir, healthy=bad)
    except ConfigurationError:
        # The rule that stopped it may have been wrong, and the run as good as ever.
        if not bad or not any(within(key, ("trainer.stop",)) for key in different):
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
    different = allowed_differences(run_dir, config)
    if different is None or any(within(key, FURTHER) for key in different):
        return None
    return _end(run_dir)


def batch_size(run_dir: Path) -> int | None:
    """The size that batch_size=max came to in the run that is to go on; None: there is none.

    Raises:
        ConfigurationError: no checkpoint of it can be used.
    """
    resumption = _checkpoint(run_dir, healthy=False)
    return resumption.run.get("batch_size")


def _go_further(state: dict[str, Any], config: TrainConfig) -> None:
    """Where a run stopped early in a checkpoint, and its limits are others now, it goes on."""
    training, folder = state.get("training"), state.get("folder")
    if not isinstance(training, dict) or not isinstance(folder, dict):
        return
    if folder.get("limits") != limits(config):
        training["stopped"] = None


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
        way = "No checkpoint of it is good; with other values of trainer.stop it can go on."
        if rule == "all_skipped":
            way = "None of them changed the model: train anew, by what its diagnosis tells to do."
        elif good:
            way = (
                "It can go on from its last good checkpoint with trainer.on_divergence=rollback, "
                "or other values of trainer.stop."
            )
        return Ended(code, f"This run diverged after {steps} steps ({rule}). {way}")
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
    """The last step in metrics.jsonl, where one was written before; else None."""
    if Checkpoints(run_dir).none_yet:  # for want of room
        return None
    earlier = run_configuration.find(run_dir) or {}
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
