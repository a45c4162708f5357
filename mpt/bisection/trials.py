"""Short trainings, each a child process with a folder of its own."""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpt import errors, report
from mpt.bisection import verdict
from mpt.bisection.verdict import Outcome
from mpt.errors import ConfigurationError
from mpt.isolation import Job, spawn
from mpt.run_folder import METRICS, read_metrics

INTERVALS = 10  # rows of metrics that a short training should have
STATUS = {
    errors.OK: "completed",
    errors.INVALID: "invalid",
    errors.OUT_OF_MEMORY: "oom",
    errors.INTERRUPTED: "interrupted",
}


@dataclass
class Trial:
    """One short training.

    Attributes:
        folder: relative to the bisection's.
        layers: those kept in float32; None: all, by the policy.
        overrides: the rules by which they were.
        outcome: what it came to.
        passed: whether it succeeded.
        why: what it passed or failed by.
        seconds: wall time of its process.
    """

    folder: str
    layers: list[str] | None
    overrides: list[dict[str, str]]
    outcome: Outcome
    exit_code: int
    passed: bool
    why: str
    seconds: float


@dataclass
class Trials:
    """The trainings of one bisection.

    Attributes:
        job: the training to shorten.
        folder: the bisection's.
        steps: length of each.
        tolerance: see `verdict.failure`.
        done: those that have ended.
        tell: called with each as it ends.
        reference: what float32 came to, once it is known.
        trainer: settings that further ones take, as the policy's run chose them.
    """

    job: Job
    folder: Path
    steps: int
    tolerance: float
    tell: Callable[[Trial], None]
    done: list[Trial] = field(default_factory=list)
    reference: Outcome | None = None
    trainer: dict[str, Any] = field(default_factory=dict)

    def run(
        self, name: str, precision: Mapping[str, Any], layers: Sequence[str] | None = ()
    ) -> Trial:
        """Train under `precision` in the folder trials/`name`, and judge what came of it.

        Args:
            precision: the configuration's group.
            layers: paths of what it keeps in float32; None: all.

        Raises:
            KeyboardInterrupt: this process was interrupted, and so was the child.
        """
        folder = Path("trials", name)
        start = time.monotonic()
        code = child(self._short(precision), self.folder / folder)
        result = _outcome(self.folder / folder, code)
        failed = verdict.failure(result, self.reference, self.tolerance)
        trial = Trial(
            folder=folder.as_posix(),
            layers=None if layers is None else list(layers),
            overrides=[dict(rule) for rule in precision["overrides"]],
            outcome=result,
            exit_code=code,
            passed=failed is None,
            why=failed or _why_passed(result, self.reference),
            seconds=round(time.monotonic() - start, 1),
        )
        self.done.append(trial)
        self.tell(trial)
        return trial

    def keep_choices(self, trial: Trial) -> None:
        """Let further trainings run as `trial` did, where it chose by measuring."""
        execution = report.read(self.folder / trial.folder).execution
        chosen = {
            "steps_per_execution": execution.steps_per_execution,
            "jit_compile": execution.jit_compile,
        }
        self.trainer = {key: value for key, value in chosen.items() if value is not None}

    def _short(self, precision: Mapping[str, Any]) -> Job:
        """The job, shortened, without what nobody reads."""
        config = dict(self.job.config)
        config["precision"] = dict(precision)
        config["telemetry"] = {**config["telemetry"], **_telemetry(config["telemetry"])}
        # A run of which every step is skipped is to end as diverged, with its diagnosis.
        scale = config["loss_scale"]
        most = min(scale["max_consecutive_skips"], self.steps)
        config["loss_scale"] = {**scale, "max_consecutive_skips": most}
        config["trainer"] = {
            **config["trainer"],
            "log_every": max(1, round(self.steps / INTERVALS)),
            "eval_every": 2**31 - 1,
            "early_stopping": {"patience": None, "min_delta": 0.0},
            "smoke_checks": False,
            **self.trainer,
        }
        return replace(self.job, config=config, task="train", options={"steps": self.steps})


def child(job: Job, folder: Path) -> int:
    """Run `job` in a child process, in `folder`; what it says goes to output.log there.

    A job that was refused leaves no folder: what it said goes to this process's stderr.

    Returns:
        The child's exit code.
    """
    from omegaconf import OmegaConf

    config = {**job.config, "run_dir": str(folder)}
    composed = {**job.composed, "config": OmegaConf.to_yaml(OmegaConf.create(config))}
    job = replace(job, config=config, run_dir=str(folder), composed=composed, verbosity=-1)
    with tempfile.TemporaryFile("w+", prefix="mpt-output-", errors="backslashreplace") as output:
        code = None
        try:
            code = spawn(job, output=output)
        finally:
            output.seek(0)
            if folder.is_dir():
                (folder / "output.log").write_text(output.read())
            elif code is not None:  # an interrupt needs no words of the child's
                sys.stderr.write(output.read())
    return code


def _telemetry(present: Mapping[str, Any]) -> dict[str, Any]:
    unread = {"tensorboard": False, "gradients": False, "peak": False, "histogram_every": 0}
    return {key: value for key, value in unread.items() if key in present}


def _outcome(folder: Path, code: int) -> Outcome:
    try:
        result = report.read(folder)
    except ConfigurationError:  # it ended before its report
        return Outcome(STATUS.get(code, "killed" if code < 0 else "failed"))
    rows = read_metrics(folder) if (folder / METRICS).exists() else []
    return verdict.outcome(result, rows)


def _why_passed(result: Outcome, reference: Outcome | None) -> str:
    if reference is None:
        return "trains in float32"
    return f"final loss {result.loss:.4g} against {reference.loss:.4g} in float32"
