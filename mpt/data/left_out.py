"""What is left out of a dataset as broken: counted, and the first of it named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

OnError = Literal["fail", "skip"]

NAMED_IN_WARNING = 3
NAMED = 20


@dataclass
class LeftOut:
    """What is left out of a dataset.

    Attributes:
        count: rows.
        of: rows that there were.
        names: the first of them, with what is wrong with each.
    """

    count: int = 0
    of: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str, rows: int = 1) -> None:
        """Count what `name` tells of, and keep the name while there are few."""
        self.count += rows
        if len(self.names) < NAMED:
            self.names.append(name)

    @property
    def summary(self) -> tuple[str, ...]:
        """At most 20 names, and then how many rows have none here."""
        return self._first(NAMED)

    @property
    def warning(self) -> str:
        """One sentence for the console; empty where nothing was left out."""
        if not self.count:
            return ""
        share = f"{100 * self.count / self.of:.3g}%"
        named = "; ".join(self._first(NAMED_IN_WARNING))
        return f"{self.count} of {self.of} rows ({share}) are left out: {named}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warning, if there is one."""
        return (self.warning,) if self.count else ()

    def _first(self, most: int) -> tuple[str, ...]:
        unnamed = self.count - min(most, len(self.names))
        more = [f"... and {unnamed} more"] if unnamed and len(self.names) >= most else []
        return (*self.names[:most], *more)
