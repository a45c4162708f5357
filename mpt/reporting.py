"""Fills a run's report from the run's parts."""

import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpt import report
from mpt.datasheets import datasheet_peak
from mpt.execution import Execution
from mpt.preparation import Prepared
from mpt.progress import epochs
from mpt.report import RunReport
from mpt.state_fields import Fields
from mpt.stopping import Best
from mpt.telemetry.compute import Compute
from mpt.training import Training
from mpt.tuning import StepsPerExecution
from mpt.variables import parameters

WORTH_SAYING_SECONDS = 5.0
"""Of waiting; a shorter run has more to gain elsewhere."""


class Clock:
    """A run's wall time, which goes on evenly where the system's clock is put back.

    Attributes:
        started: when the run's process began, seconds since the epoch.
    """

    def __init__(self, started: float):
        self.started = started
        self._before = max(0.0, time.time() - started)
        self._made = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since `started`, and what was added."""
        return self._before + time.monotonic() - self._made

    def add(self, seconds: float) -> None:
        """Count what earlier processes spent, too."""
        self._before += seconds


class EarlierProcesses:
    """A run that goes on after an interruption: what each process adds to the one report.

    What an earlier process spent after its last checkpoint is not known, and not counted.
    """

    def __init__(
        self, result: RunReport, clock: Clock, prepared: Prepared, execution: Execution
    ) -> None:
        self._result = result
        self._clock = clock
        self._chosen = {
            "batch_size": prepared.batch_size,
            "policy": prepared.choice.policy,
            "jit": {"enabled": execution.jit.enabled, "reason": execution.jit.reason},
            "fingerprint": prepared.data.fingerprint,
        }
        self._earlier = {"total": 0.0, "startup": 0.0, "tuning": 0.0}
        self._name = secrets.token_hex(8)  # of this session
        self._resumed = False

    def state(self) -> dict[str, Any]:
        """What was chosen, found and spent so far."""
        spent = self._result.wall_seconds
        return {
            **self._chosen,
            "session": self._name,
            "started_at": self._result.started_at,
            "diagnosis": report.encode(self._result.diagnosis),
            "warnings": list(self._result.warnings),
            "seconds": {
                "total": self._earlier["total"] + self._clock.elapsed,
                "startup": self._earlier["startup"] + (spent.startup or 0.0),
                "tuning": self._earlier["tuning"] + (spent.tuning or 0.0),
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Add to the report what earlier sessions found; once, for a rollback changes nothing.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        own = ("session", "started_at", "diagnosis", "warnings", "seconds")
        kept = Fields(state, *self._chosen, *own)
        session, started_at = kept.text("session"), kept.text("started_at")
        diagnosis, warnings = kept.items("diagnosis"), kept.items("warnings")
        spent = Fields(kept.part("seconds"), *self._earlier)
        earlier = {name: spent.seconds(name) for name in self._earlier}
        if not all(isinstance(each, dict) for each in diagnosis):
            raise ValueError("a diagnosis is a mapping")
        if not all(isinstance(text, str) for text in warnings):
            raise ValueError("a warning is a text")
        json.dumps(diagnosis)  # what no report can hold is a TypeError
        if self._resumed or session == self._name:
            return
        self._resumed = True
        result = self._result
        result.started_at = started_at
        result.diagnosis[:0] = diagnosis
        result.warnings[:0] = [text for text in warnings if text not in result.warnings]
        self._earlier = earlier

    def add_up(self) -> None:
        """Add what earlier processes spent to the report's times."""
        spent = self._result.wall_seconds
        spent.startup = (spent.startup or 0.0) + self._earlier["startup"]
        spent.tuning = (spent.tuning or 0.0) + self._earlier["tuning"]
        self._clock.add(self._earlier["total"])


def begin(prepared: Prepared, run_dir: Path, command: list[str], clock: Clock) -> RunReport:
    """The report of a run that has not begun to train."""
    config, choice, data = prepared.config, prepared.choice, prepared.data
    device = asdict(prepared.device)
    result = RunReport(
        run_id=run_dir.name,
        name=f"{prepared.model.name}_{choice.requested}" if config.name == "auto" else config.name,
        command=command,
        started_at=report.timestamp(clock.started),
        config=asdict(config),
    )
    result.environment = report.environment()
    result.device = report.Device(
        kind=device["kind"],
        name=device["name"],
        count=prepared.strategy.num_replicas_in_sync,
        compute_capability=device["compute_capability"] and list(device["compute_capability"]),
        driver=device["driver"],
        bfloat16_units=device["bfloat16_units"],
        float16_units=device["float16_units"],
        concurrent_jobs=None,
    )
    result.precision = report.Precision(
        requested=choice.requested,
        policy=choice.policy,
        reason=choice.reason,
        tf32=choice.tf32,
        fused_batch_norm=config.precision.fused_batch_norm,
        table=prepared.table,
    )
    result.execution.strategy = config.device.strategy
    result.execution.rematerialized = [b.name for _, own in prepared.blocks for b in own]
    result.model.parameters = parameters(prepared.model.weights)
    result.data = report.Data(
        name=data.name,
        train_examples=data.train_examples,
        validation_examples=data.validation_examples,
        bad_rows=data.bad_rows,
        bad_row_names=list(data.bad_row_names),
        fingerprint=data.fingerprint,
    )
    result.training.batch_size = prepared.batch_size
    optimizer = prepared.optimizer
    result.loss_scale.mode = optimizer.mode
    result.loss_scale.initial = float(optimizer.dynamic_scale.numpy())
    result.warnings = list(prepared.warnings)
    return result


def describe_execution(
    result: RunReport, prepared: Prepared, execution: Execution, steps: StepsPerExecution
) -> None:
    """How steps are run, and why so."""
    jit = execution.jit
    result.execution.steps_per_execution = steps.value
    result.execution.jit_compile = jit.enabled
    result.execution.fused_kernels = list(execution.kernels)
    result.execution.choice_reasons |= {
        "steps_per_execution": steps.reason,
        "jit_compile": jit.reason,
    }
    result.precision.fused_batch_norm = bool(execution.fused)
    result.wall_seconds.tuning = jit.seconds


def describe_outcome(
    result: RunReport, prepared: Prepared, training: Training, compute: Compute
) -> None:
    """What training came to."""
    outcome = training.outcome
    tf32 = prepared.choice.tf32 and prepared.compute_dtype == "float32"
    result.status = outcome.status
    if outcome.reason is not None:
        result.reason = report.Reason(**asdict(outcome.reason))
        if outcome.status == "diverged":
            reason = outcome.reason
            result.diagnosis.append({"message": reason.message, "step": reason.step})
    result.training.steps = outcome.steps
    result.training.rollbacks = outcome.rollbacks
    result.training.epochs = epochs(outcome.steps, prepared.data.steps_per_epoch)
    result.throughput = training.throughput.summary()
    result.diagnosis += _bound_by_data(result, outcome.seconds["train"])
    result.loss_scale = training.history.summary()
    achieved = compute.flops_per_second(result.throughput.examples_per_second)
    datasheet = datasheet_peak(prepared.device, "tf32" if tf32 else prepared.compute_dtype)
    result.compute = report.Compute(
        model_flops_per_second=achieved,
        utilization=compute.utilization(achieved),
        peak_flops_per_second=compute.peak,
        datasheet_flops_per_second=datasheet and datasheet * prepared.processors,
        float32_flops_fraction=compute.forward.float32_flops_fraction,
        cast_bytes_per_example=compute.forward.cast_bytes,
    )
    result.model.forward_flops_per_example = compute.forward.flops
    trained = outcome.steps > training.history.skipped_steps  # else it has measured nothing
    result.metrics.final = {
        tag: value
        for tag, value in outcome.final.items()
        if trained or not tag.startswith("train/")
    }
    result.metrics.best = _best(prepared.best)
    result.wall_seconds.train = outcome.seconds["train"]
    result.wall_seconds.evaluate = outcome.seconds["evaluate"]
    result.wall_seconds.diagnose = outcome.seconds["diagnose"] or None
    result.wall_seconds.save = outcome.seconds["save"]


def _bound_by_data(result: RunReport, train_seconds: float) -> list[dict[str, Any]]:
    """What to say of a run that ended well, but waited for its data."""
    share = result.throughput.data_wait_fraction
    if result.status not in ("completed", "stopped_early") or share is None:
        return []
    if share <= report.BOUND_BY_DATA or share * train_seconds < WORTH_SAYING_SECONDS:
        return []
    message = (
        f"Training waited for its data {share:.0%} of the time. "
        "How fast they come without training: mpt doctor data RUN"
    )
    return [{"message": message, "data_wait_fraction": share}]


def end(result: RunReport, clock: Clock) -> None:
    """The end of the run, and its whole time."""
    result.ended_at = report.timestamp(time.time())
    result.wall_seconds.total = clock.elapsed


def _best(best: Best) -> report.Best | None:
    if best.value is None:
        return None
    return report.Best(value=best.value, step=best.step, name=best.tag)
