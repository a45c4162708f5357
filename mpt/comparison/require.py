"""What must hold, as on the command line: "speedup>=1.2,parity,memory<=0.6"."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from mpt.comparison.groups import fails
from mpt.comparison.result import Comparison, Group, Pairing, Requirement
from mpt.comparison.verdict import coverage
from mpt.errors import ConfigurationError
from mpt.report.numbers import number

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
QUANTITIES = ("speedup", "memory", "host_memory", "skipped", "failures")
PARITY = "parity"
GRAMMAR = [*(f"{name}{'>=' if name == 'speedup' else '<='}N" for name in QUANTITIES), PARITY]
_WHERE = "--require"


@dataclass(frozen=True)
class Demand:
    """One part of the expression.

    Attributes:
        text: as it was given.
        label: the group that it is asked of; empty: of every one that has a baseline.
        name: of QUANTITIES, or parity.
        operator, bound: of a quantity.
    """

    text: str
    label: str
    name: str
    operator: str = ""
    bound: float = 0.0


_FORM = re.compile(r"(?:(.+):)?\s*([a-z_]+)\s*(?:(>=|<=|>|<)\s*(\S+))?")


def parse(expression: str | None) -> list[Demand]:
    """The parts of an expression.

    Raises:
        ConfigurationError: it is none.
    """
    if expression is None:
        return []
    return [_demand(part.strip()) for part in _parts(expression)]


def check(demands: list[Demand], comparison: Comparison) -> list[Requirement]:
    """Whether each holds of each pairing it is asked of; what was not measured does not hold.

    Raises:
        ConfigurationError: a label names no group that is held against a baseline.
    """
    found = []
    for demand in demands:
        chosen = [p for p in comparison.pairings if _concerns(demand, p.group)]
        if not chosen and demand.label:
            raise ConfigurationError(
                f"No group {demand.label!r} is held against a baseline",
                where=_WHERE,
                allowed=[p.group.label for p in comparison.pairings] or ["none: one group only"],
                value=demand.label,
            )
        if not chosen:
            detail = "there is one group only, and nothing to hold it against"
            found.append(Requirement(demand.text, False, detail))
        for pairing in chosen:
            met, detail = _holds(demand, pairing, comparison)
            found.append(Requirement(demand.text, met, f"{pairing.group.label}: {detail}"))
    return found


def _parts(expression: str) -> list[str]:
    """The parts between commas; a label may have some of its own: "float32: a, b:speedup>1"."""
    parts: list[str] = []
    label: list[str] = []
    for piece in expression.split(","):
        match = _FORM.fullmatch(piece.strip())
        known = match is not None and match[2] in (*QUANTITIES, PARITY)
        if not known and not re.search("[<>]", piece):
            label.append(piece)
            continue
        labelled = known and match is not None and match[1] is not None
        parts += [",".join([*label, piece])] if labelled else [*label, piece]
        label = []
    return parts + label


def _demand(part: str) -> Demand:
    match = _FORM.fullmatch(part)
    if match is None:
        raise ConfigurationError(
            f"{part!r} is no requirement", where=_WHERE, allowed=GRAMMAR, value=part
        )
    label, name, sign, bound = match.groups()
    if name not in (*QUANTITIES, PARITY):
        raise ConfigurationError(
            f"{name!r} cannot be required",
            where=_WHERE,
            allowed=GRAMMAR,
            value=name if sign is None else f"{name}{sign}N",
        )
    if name == PARITY:
        if sign is not None:
            raise ConfigurationError(
                "parity takes no number: its margin is --margin's",
                where=_WHERE,
                allowed=[PARITY],
            )
        return Demand(part, (label or "").strip(), name)
    try:
        value = float(bound)
        if value != value:  # NaN compares false with everything
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{part!r} needs a comparison with a number",
            where=_WHERE,
            allowed=[each for each in GRAMMAR if each.startswith(name)],
        ) from None
    return Demand(part, (label or "").strip(), name, sign, value)


def _concerns(demand: Demand, group: Group) -> bool:
    return not demand.label or demand.label in (group.label, group.policy)


def _holds(demand: Demand, pairing: Pairing, comparison: Comparison) -> tuple[bool, str]:
    gain = demand.name == PARITY or (demand.name == "speedup" and _claims_gain(demand))
    if gain and fails(pairing.group):  # those that came to their end are no fair sample
        return False, _failed(pairing.group)
    if demand.name == PARITY:
        if pairing.parity is None:
            return False, "the metric was not compared"
        return pairing.parity.outcome in ("same", "better"), pairing.parity.text
    if demand.name == "speedup":
        return _speedup(demand, pairing)
    value, detail = _measured(demand.name, pairing, comparison)
    if value is None:
        return False, detail
    return OPERATORS[demand.operator](value, demand.bound), detail


def _speedup(demand: Demand, pairing: Pairing) -> tuple[bool, str]:
    """The estimate must be there; one that no interval tells from 1 proves no gain."""
    ratio = pairing.speedup
    if ratio is None:
        return False, pairing.speed_text
    met = OPERATORS[demand.operator](ratio.estimate, demand.bound)
    if _claims_gain(demand) and (ratio.low is None or ratio.low <= 1):
        met = False
    return met, pairing.speed_text


def _claims_gain(demand: Demand) -> bool:
    """Whether it asks for more than the baseline's speed."""
    if demand.operator == ">":
        return demand.bound >= 1
    return demand.operator == ">=" and demand.bound > 1


def _measured(name: str, pairing: Pairing, comparison: Comparison) -> tuple[float | None, str]:
    """The value, and what it is; None with the reason where there is none."""
    group = pairing.group
    if name in ("memory", "host_memory"):
        ratio = pairing.memory_ratio if name == "memory" else pairing.host_memory_ratio
        kind = "device memory" if name == "memory" else "host memory"
        if ratio is None:
            return None, f"{kind} was not measured"
        measured, count = coverage(pairing, host=name == "host_memory")
        if 2 * measured < count:
            return None, f"{kind} was measured in {measured} of {count} runs only"
        return ratio, f"{ratio:.2f} of the baseline's {kind}"
    if name == "skipped":
        if group.skipped_steps is None:
            return None, "skipped steps were not counted"
        return group.skipped_steps.high, f"at most {number(group.skipped_steps.high)} skipped steps"
    failed, detail = sum(group.failures.values()), _failed(group)
    theirs = sum(pairing.baseline.failures.values())
    if theirs:
        detail += f"; {_failed(pairing.baseline, f' of {pairing.baseline.label}')}"
    lost = len(comparison.unreadable)
    if lost:
        detail += f"; {lost} without a report that can be read"
    return failed + theirs + lost, detail


def _failed(group: Group, whose: str = "") -> str:
    """ "1 of 6 runs failed (1 oom: exit code 4)"."""
    causes = "; ".join(f"{count} {cause}" for cause, count in group.failures.items())
    failed = sum(group.failures.values())
    return f"{failed} of {len(group.runs)} runs{whose} failed" + (f" ({causes})" if causes else "")
