"""What a user did wrong, said in one block: what, where, what is allowed, what to do."""

import difflib
from collections.abc import Iterable

OK = 0
FAILED = 1
INVALID = 2
DIVERGED = 3
OUT_OF_MEMORY = 4
NOT_MET = 5
SAVED = 75  # interrupted, with a checkpoint: EX_TEMPFAIL of sysexits.h, "try again"
INTERRUPTED = 130


def ended_by(number: int) -> int:
    """The exit code where the signal `number` ended it, as a shell has it."""
    return 128 + number


def of_process(code: int) -> int:
    """A process's exit code, which is negative where a signal ended it, as a shell has it."""
    return code if code >= 0 else ended_by(-code)


class LauncherError(RuntimeError):
    """A launcher gave up, as when a worker of its own was killed; its jobs may be at work yet."""


class ConfigurationError(ValueError):
    """A configuration or an input that cannot be used; the command ends with exit code 2.

    Args:
        message: what is wrong, in one sentence.
        where: the configuration key, file or row that is wrong.
        allowed: the values that would be accepted.
        value: what was given; the nearest of `allowed` is then suggested.
        remedy: what to do about it.
    """

    exit_code = INVALID

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        allowed: Iterable[object] = (),
        value: object = None,
        remedy: str | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.where = where
        self.allowed = [str(choice) for choice in allowed]
        self.suggestion = nearest(str(value), self.allowed) if value is not None else None
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            where = self.where.replace("\n", "\\n")  # a path may hold what looks like our lines
            lines.append(f"  where:   {where}")
        if self.allowed:
            lines.append(f"  allowed: {', '.join(self.allowed)}")
        if self.suggestion:
            lines.append(f"  did you mean {self.suggestion!r}?")
        if self.remedy:
            lines.append(f"  to do:   {self.remedy}")
        return "\n".join(lines)


class FunctionError(ConfigurationError):
    """A function of the user's own raised something; exit code 1, as other failures have."""

    exit_code = FAILED


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The choice spelled most like `value`, or None where none is close."""
    found = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None
