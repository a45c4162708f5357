"""What a bisection did and found: bisect.json, and the lines for the console."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mpt import __version__
from mpt.bisection.ranking import Ranked
from mpt.bisection.trials import Trial
from mpt.printable import columns
from mpt.report.numbers import number

SCHEMA_VERSION = 1
SETTLING_SHARE = 0.05  # of the steps, above which those that settle the loss scale are told
NAMED = 2  # layers that a row of the table names; more are counted


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass
class Found:
    """A set of layers with which the training passed.

    Attributes:
        layers: paths; those below a named one are meant too.
        minimal: it was tried, and fails, without each single one of them.
        precision: the configuration's group that keeps them in float32.
        file: its YAML, relative to the bisection's folder.
        command: the command line that trains with it; None: none composes to it.
    """

    layers: list[str]
    minimal: bool
    precision: dict[str, Any]
    file: str
    command: str | None


@dataclass
class Record:
    """bisect.json.

    Attributes:
        status: running, found, nothing_to_find, fails_in_float32, not_found, interrupted; refused
            or failed where one of the first two ended for another cause than precision.
        message: what came of it, in words.
        policy: the policy that fails, resolved.
        ranking: the layers in the order in which they were tried, with the reasons.
        notes: what a reader should know of how it was done.
    """

    command: list[str]
    steps: int
    trials_limit: int
    tolerance: float
    started_at: str = field(default_factory=now)
    ended_at: str | None = None
    status: str = "running"
    message: str = ""
    policy: str | None = None
    ranking: list[Ranked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    found: Found | None = None
    schema_version: int = SCHEMA_VERSION
    mpt_version: str = __version__


def settled(trials: list[Trial]) -> str | None:
    """What to say where much of a training was spent to settle the loss scale; else None."""
    counted = [
        (min(trial.outcome.skipped, trial.outcome.settling), trial.outcome.steps)
        for trial in trials
        if trial.layers is not None and trial.outcome.status == "completed"
    ]
    most, steps = max(counted, default=(0, 0))
    if most <= SETTLING_SHARE * steps:
        return None
    return (
        f"{most} of {steps} steps were skipped while the scale settled: --steps {10 * steps} would "
        "tell the layers apart better"
    )


def table(trials: list[Trial]) -> list[str]:
    """The trials as lines of text, in columns."""
    rows = [["trial", "in float32", "status", "loss", "steps", "skipped", "seconds", "verdict"]]
    for trial in trials:
        outcome = trial.outcome
        rows.append(
            [
                trial.folder,
                in_float32(trial),
                outcome.status,
                "-" if outcome.loss is None else number(outcome.loss),
                str(outcome.steps),
                str(outcome.skipped),
                f"{trial.seconds:.0f}",
                verdict(trial),
            ]
        )
    return columns(rows)


def in_float32(trial: Trial) -> str:
    """What a trial kept in float32, in a few words."""
    return "all" if trial.layers is None else names(trial.layers)


def names(layers: list[str]) -> str:
    """Some paths, or how many there are."""
    if not layers:
        return "none"
    return ", ".join(layers) if len(layers) <= NAMED else f"{len(layers)} layers"


def verdict(trial: Trial) -> str:
    """Passed or failed, and by what."""
    return f"{'passed' if trial.passed else 'FAILED'}: {trial.why}"
