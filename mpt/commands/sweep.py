"""A sweep's jobs, one child process each, and what became of them: sweep.json and a table."""

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpt import errors
from mpt.errors import ConfigurationError
from mpt.isolation import Job, report, spawn

SCHEMA_VERSION = 1
STATUS = {
    errors.OK: "completed",
    errors.INVALID: "invalid",
    errors.DIVERGED: "diverged",
    errors.OUT_OF_MEMORY: "oom",
    errors.INTERRUPTED: "interrupted",
}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Outcome:
    """What became of one job.

    Attributes:
        index: its number in the sweep, and its folder's name.
        overrides: what sets it apart.
        exit_code: the run's; negative where a signal killed it.
        status: as in its report.json; `invalid` where nothing ran.
        best: value of the monitored metric at its best step.
        examples_per_second: steady-state throughput.
    """

    index: int
    overrides: list[str]
    folder: str
    exit_code: int
    status: str
    monitor: str | None = None
    best: float | str | None = None
    examples_per_second: float | None = None


@dataclass
class Sweep:
    """The jobs of one `mpt train -m`, run one after the other."""

    command: list[str]
    folder: Path | None = None
    started_at: str = field(default_factory=_now)
    outcomes: list[Outcome] = field(default_factory=list)

    def add(self, job: Job, overrides: list[str]) -> None:
        """Run `job` in a child, note the outcome, and go on whatever it is."""
        self._announce(job.run_dir, overrides, quiet=job.verbosity < 0)
        try:
            code = spawn(job)
        except KeyboardInterrupt:
            self._note(job.run_dir, overrides, errors.INTERRUPTED)
            raise
        self._note(job.run_dir, overrides, code)

    def refuse(self, error: ConfigurationError, run_dir: str, overrides: list[str]) -> None:
        """Note a job whose configuration is wrong; `error` is printed."""
        self._announce(run_dir, overrides, quiet=False)
        report(error, debug=False)
        self._note(run_dir, overrides, error.exit_code)

    def exit_code(self) -> int:
        """0 if all jobs ended with 0, the common code if all failures agree, else 1."""
        failures = {outcome.exit_code for outcome in self.outcomes} - {errors.OK}
        if not failures:
            return errors.OK
        code = failures.pop()
        return code if not failures and code > 0 else errors.FAILED

    def close(self) -> None:
        """Print the table of outcomes on stdout."""
        if self.folder is None or not self.folder.is_dir():
            return
        for line in table(self.outcomes):
            print(line)
        print(f"sweep: {self.folder}")

    def _announce(self, run_dir: str, overrides: list[str], *, quiet: bool) -> None:
        self.folder = Path(run_dir).parent
        if not quiet:
            print(f"job {len(self.outcomes)}: {' '.join(overrides)}", file=sys.stderr)

    def _note(self, run_dir: str, overrides: list[str], code: int) -> None:
        folder = Path(run_dir)
        outcome = Outcome(
            index=len(self.outcomes),
            overrides=overrides,
            folder=folder.name,
            exit_code=code,
            status=STATUS.get(code, "killed" if code < 0 else "failed"),
        )
        try:
            _read_report(outcome, json.loads((folder / "report.json").read_text()))
        except (OSError, ValueError):  # nothing ran, or it was killed before its report
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.outcomes.append(outcome)
        if any(other.status != "invalid" for other in self.outcomes):
            self._write()

    def _write(self) -> None:
        assert self.folder is not None
        content = {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "started_at": self.started_at,
            "updated_at": _now(),
            "jobs": [asdict(outcome) for outcome in self.outcomes],
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / ".sweep.json.part"
        with part.open("w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.folder / "sweep.json")


def _read_report(outcome: Outcome, content: dict[str, Any]) -> None:
    outcome.status = content.get("status") or outcome.status
    best = (content.get("metrics") or {}).get("best") or {}
    outcome.monitor, outcome.best = best.get("name"), best.get("value")
    throughput = content.get("throughput") or {}
    outcome.examples_per_second = throughput.get("examples_per_second")


def table(outcomes: list[Outcome]) -> list[str]:
    """The outcomes as lines of text, in columns, with the overrides that set the jobs apart."""
    common = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    monitor = next((outcome.monitor for outcome in outcomes if outcome.monitor), "best")
    rows = [["job", "overrides", "status", "exit", monitor, "examples/s"]]
    for outcome in outcomes:
        rows.append(
            [
                outcome.folder,
                " ".join(o for o in outcome.overrides if o not in common) or "-",
                outcome.status,
                str(outcome.exit_code),
                _number(outcome.best, ".4f"),
                _number(outcome.examples_per_second, ".0f"),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _number(value: float | str | None, form: str) -> str:
    if isinstance(value, int | float):
        return format(value, form)
    return value if value is not None else "-"
