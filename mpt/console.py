"""What a run says: results on stdout; notes, warnings and errors on stderr.

On a terminal one live line follows the training. Elsewhere each logged step is a plain line, and
nothing written holds a control code, whatever FORCE_COLOR says.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from mpt.errors import ConfigurationError
from mpt.printable import printable
from mpt.report import RunReport, render
from mpt.report.numbers import duration, number, rate, size

SPEED = "throughput/examples_per_second"
WAIT = "throughput/data_wait_fraction"
SCALE = "loss_scale/scale"
SKIPPED = "loss_scale/skipped_steps"
DEVICE_MEMORY = "memory/device_in_use_bytes"
HOST_MEMORY = "memory/host_rss_bytes"
REFRESHES_PER_SECOND = 2.0
OF_A_MEMBER = -2
"""Verbosity of a worker that is not the chief: errors, and how it ended."""


class Console:
    """The console of one run.

    Args:
        verbosity: -1 says only where the run lies, and warnings and errors; 0 is the normal;
            1 adds all tags to each step's line, and details; OF_A_MEMBER says errors only.
        stdout: takes results; None: the process's own.
        stderr: takes notes, warnings and errors; None: the process's own.
    """

    def __init__(
        self, verbosity: int = 0, stdout: TextIO | None = None, stderr: TextIO | None = None
    ):
        self.verbosity = verbosity
        self._out = rich_console(Lasting(stdout or sys.stdout, partial(self._lost, "stdout")))
        self._err = rich_console(Lasting(stderr or sys.stderr, partial(self._lost, "stderr")))
        self._log: Callable[[str], None] | None = None
        self._unlogged: list[str] = []
        self._live: Live | None = None
        self._line = LiveLine()

    def attach(self, log: Callable[[str], None]) -> None:
        """Have every line logged too, those said so far included."""
        self._log = log
        for line in self._unlogged:
            log(line)
        self._unlogged.clear()

    def header(self, report: RunReport, *, total_steps: int | None = None) -> None:
        """Say what is about to run and, on stderr, the report's warnings."""
        for label, text in render.header(report, total_steps=total_steps):
            self._result(f"{label:<13}{text}")
        for text in report.warnings:
            self.warning(text)
        self._line.total = total_steps
        self._show_live()

    def step(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """A logged step: `values` are its tags. Absent ones are left out."""
        self._line.update(step, total, live_parts(values))
        line = " ".join([f"step {step}/{total}", *step_parts(values)])
        if self._live is not None:
            self._live.refresh()
            self._record(line)
            if self.verbosity < 1:
                return
        more = more_parts(values) if self.verbosity > 0 else []
        self._result(" ".join([line, *more]), logged=self._live is None)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """An evaluation after `step`: its `validation/*` tags. The live line shows the last."""
        total = "" if self._line.total is None else f"/{self._line.total}"
        parts = metric_parts(values, "validation")
        line = " ".join([f"step {step}{total} validation", *parts])
        if self._live is None or self.verbosity > 0:
            self._result(line)
            return
        self._line.validation = parts
        self._record(line)

    def note(self, text: str) -> None:
        """Say something in passing, on stderr."""
        self._message(text, shown=self.verbosity >= 0)

    def detail(self, text: str) -> None:
        """Say something in passing that only -v shows."""
        self._message(text, shown=self.verbosity >= 1)

    def warning(self, text: str) -> None:
        """Warn on stderr, with -q too."""
        self._message(f"warning: {text}", shown=self.verbosity > OF_A_MEMBER, style="yellow")

    def error(self, error: BaseException | str) -> None:
        """Say on stderr what went wrong, in one block, without a traceback."""
        self.stop()
        if isinstance(error, BaseException) and not isinstance(error, ConfigurationError):
            error = f"{type(error).__name__}: {error}"
        self._message(f"error: {error}", style="red")

    def close(self, report: RunReport, folder: str | Path) -> None:
        """Say what came of the run, what to look at next and, last, where the run lies."""
        self.stop()
        folder = Path(folder)
        if self.verbosity >= 0:
            self._print_table(report)
            for name, path in render.next_paths(report, folder):
                self._result(f"{name:<13}{path}")
        self._record(f"run: {folder}")
        if self.verbosity > OF_A_MEMBER:
            self._print(self._out, f"run: {folder}")

    def nothing_left(self, text: str, folder: str | Path) -> None:
        """Say that the run in `folder` is at its end already."""
        self._result(text)
        if self.verbosity > OF_A_MEMBER:
            self._print(self._out, f"run: {folder}")

    def stop(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show_live(self) -> None:
        if self._live is None and self.verbosity >= 0 and self._out.is_terminal:
            self._line.ascii = not self._out.encoding.lower().startswith("utf")
            self._live = Live(
                self._line,
                console=self._out,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def _print_table(self, report: RunReport) -> None:
        for label, text in render.closing_rows(report):
            self._record(f"{label:<13}{text}")
        if self._out.is_terminal:
            self._out.print()
            self._out.print(render.closing_table(report))
        else:  # not wrapped: the lines are for files and for other programs
            for label, text in render.closing_rows(report):
                self._print(self._out, f"{label:<13}{text}")

    def _result(self, line: str, *, logged: bool = True) -> None:
        if logged:
            self._record(line)
        if self.verbosity >= 0:
            self._print(self._out, line)

    def _message(self, text: str, *, shown: bool = True, style: str = "") -> None:
        self._record(text)
        if not shown:
            return
        # The live line is on the same screen as stderr: out of the way while that is written.
        paused = self._live if self._err.is_terminal else None
        if paused is not None:
            paused.stop()
        self._print(self._err, text, style)
        if paused is not None:
            paused.start(refresh=True)

    def _record(self, text: str) -> None:
        for line in text.splitlines():
            if self._log is None:
                self._unlogged.append(line)
            else:
                self._log(line)

    def _lost(self, name: str, error: OSError) -> None:
        self._record(f"{name} cannot be written any more: {error.strerror}")

    @staticmethod
    def _print(console: RichConsole, text: str, style: str = "") -> None:
        console.print(Text(printable(text, console.encoding), style), soft_wrap=True)
        console.file.flush()


class Lasting:
    """A text stream that a run outlives: once it cannot be written, what would be is dropped.

    Its reader may have ended (`mpt train | head`), its terminal been closed, its disk be full.

    Args:
        lost: told once, of the error.
    """

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None]):
        self._stream, self._lost = stream, lost
        self._gone = False

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._gone = True
        with suppress(OSError, ValueError):  # what else writes there, a user's print(), goes on too
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        self._lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class LiveLine:
    """One line: a bar, steps, the time left, and the last logged values.

    Attributes:
        total: steps of the whole run, where known.
        validation: what the last evaluation said.
        ascii: draw with ASCII only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.total: int | None = None
        self.validation: list[str] = []
        self.ascii = False
        self._clock = clock
        self._step = 0
        self._parts: list[str] = []
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def update(self, step: int, total: int, parts: list[str]) -> None:
        """Show `parts` at `step` of `total`."""
        self._step, self.total, self._parts = step, total, parts
        self._last = self._clock()
        if self._first is None:
            self._first = (self._last, step)

    def seconds_left(self) -> float | None:
        """Time to the last step at the pace so far, evaluations included; None: not known yet."""
        if self._first is None or self.total is None or self._step == self._first[1]:
            return None
        started, first = self._first
        pace = (self._last - started) / (self._step - first)
        return max(0.0, pace * (self.total - self._step) - (self._clock() - self._last))

    def text(self) -> str:
        """The line."""
        if not self.total:
            return "starting"
        full = 10 * min(self._step, self.total) // self.total
        done, open_ = ("#", ".") if self.ascii else ("━", "╌")
        if not self._parts:
            return f"{open_ * 10} 0/{self.total} first steps"
        left = self.seconds_left()
        eta = "ETA -:--" if left is None else f"ETA {duration(left)}"
        bar = done * full + open_ * (10 - full)
        evaluated = ["validation", *self.validation] if self.validation else []
        return " ".join([bar, f"{self._step}/{self.total}", eta, *self._parts, *evaluated])

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        # Where the terminal is too narrow the line goes on below: nothing is left out.
        yield Text(printable(self.text(), console.encoding), overflow="fold")


def step_parts(values: Mapping[str, float]) -> list[str]:
    """What a plain step line tells, in order; a value that is absent is left out."""
    parts = metric_parts(values, "train") + _speed(values)
    if WAIT in values:
        parts.append(f"data_wait {100 * values[WAIT]:.0f}%")
    return parts + _scale(values)


def live_parts(values: Mapping[str, float]) -> list[str]:
    """What the live line tells: as the plain line, with the memory for the wait."""
    short = [part.removeprefix("memory ") for part in _memory(values)]
    return metric_parts(values, "train") + _speed(values) + short + _scale(values)


def more_parts(values: Mapping[str, float]) -> list[str]:
    """What -v adds: the memory, and all other tags by their full names."""
    shown = {SPEED, WAIT, SCALE, SKIPPED, DEVICE_MEMORY, HOST_MEMORY}
    rest = [
        f"{tag} {number(value)}"
        for tag, value in values.items()
        if tag not in shown and not tag.startswith(("train/", "validation/"))
    ]
    return _memory(values) + rest


def metric_parts(values: Mapping[str, float], part: str) -> list[str]:
    """The `part`/* tags as "name value", the loss first."""
    prefix = f"{part}/"
    named = {tag[len(prefix) :]: v for tag, v in values.items() if tag.startswith(prefix)}
    names = sorted(named, key=lambda name: name != "loss")
    return [f"{name} {number(named[name])}" for name in names]


def _speed(values: Mapping[str, float]) -> list[str]:
    return [f"{rate(values[SPEED])} ex/s"] if SPEED in values else []


def _scale(values: Mapping[str, float]) -> list[str]:
    if values.get(SCALE) == 1 and not values.get(SKIPPED):
        return []  # as good as no loss scaling
    parts = [f"scale {number(values[SCALE])}"] if SCALE in values else []
    return parts + ([f"skipped {number(values[SKIPPED])}"] if SKIPPED in values else [])


def _memory(values: Mapping[str, float]) -> list[str]:
    """The device's memory in use, or the host's where the device does not tell."""
    for tag in (DEVICE_MEMORY, HOST_MEMORY):
        if tag in values:
            return [f"memory {size(values[tag])}"]
    return []


def rich_console(stream: Any) -> RichConsole:
    """A console that sends control codes to terminals only, and takes all text literally."""
    terminal = stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return RichConsole(
        file=stream,
        force_terminal=terminal,
        force_interactive=terminal,
        force_jupyter=False,
        color_system="auto" if terminal else None,
        markup=False,
        highlight=False,
        emoji=False,
    )
