"""Which group is held against which: the baselines, and every other group's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpt.comparison.groups import Full, fingerprint, width
from mpt.comparison.result import Group
from mpt.comparison.settings import section
from mpt.errors import ConfigurationError
from mpt.schema import MAIN_KEYS

ABSENT = "null"


@dataclass
class Selector:
    """What a baseline must be, and the settings that are compared and so may differ from it.

    Attributes:
        wanted: flat key -> value as text; empty: the widest policy.
        compared: sections and keys in which a group may differ from its baseline.
    """

    wanted: dict[str, str] = field(default_factory=dict)
    compared: frozenset[str] = frozenset({"precision"})

    def admits(self, key: str) -> bool:
        return key in self.compared or section(key) in self.compared


def parse(given: str | None) -> Selector:
    """The selector that `--baseline` asks for: KEY=VALUE[,KEY=VALUE].

    Raises:
        ConfigurationError: it is none.
    """
    if given is None:
        return Selector()
    wanted: dict[str, str] = {}
    for part in given.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise ConfigurationError(
                f"{part.strip()!r} does not say which group is the baseline",
                where="--baseline",
                allowed=["KEY=VALUE[,KEY=VALUE]"],
                remedy="for instance --baseline precision=float32",
            )
        if MAIN_KEYS.get(key, key) in wanted:
            raise ConfigurationError(
                f"It names {key} twice, and a group has one",
                where="--baseline",
                allowed=["KEY=VALUE[,KEY=VALUE]"],
            )
        wanted[MAIN_KEYS.get(key, key)] = value
    compared = {section(key) if key in MAIN_KEYS.values() else key for key in wanted}
    return Selector(wanted, frozenset(compared))


def differences(group: Group, other: Group, full: Full, selector: Selector) -> list[str]:
    """What sets two groups apart besides that which is compared: keys, "device" and "data".

    And "parameters", where the same settings made another model: its code was edited.
    """
    mine, theirs = full[group.key], full[other.key]
    found = sorted({key for key, _ in mine.items() ^ theirs.items() if not selector.admits(key)})
    if group.device != other.device:
        found.append("device")
    if fingerprint(group) != fingerprint(other):
        found.append("data")
    same = _of_the_model(mine) == _of_the_model(theirs)
    if same and None not in (sizes := {group.parameters, other.parameters}) and len(sizes) > 1:
        found.append("parameters")
    return found


def assign(
    groups: Sequence[Group], full: Full, selector: Selector
) -> list[tuple[Group, list[Group]]]:
    """Each baseline with the groups that are held against it, widest first.

    Groups that agree in all that is not compared have a baseline among themselves: the one that
    the selector wants, or else the widest. Where they have none, it is the one that differs from
    the group in the fewest settings.

    Raises:
        ConfigurationError: the selector matches nothing.
    """
    candidates = [group for group in groups if _is_wanted(group, full, selector)]
    if not candidates:
        _refuse(groups, full, selector)
    scopes: dict[object, list[Group]] = {}
    sizes: dict[object, set[int | None]] = {}
    for group in groups:
        sizes.setdefault(_of_the_model(full[group.key]), set()).add(group.parameters)
    for group in groups:
        kept = frozenset(each for each in full[group.key].items() if not selector.admits(each[0]))
        edited = len(sizes[_of_the_model(full[group.key])] - {None}) > 1
        size = group.parameters if edited else None
        scopes.setdefault((kept, group.device, fingerprint(group), size), []).append(group)
    baselines, rest = _within_scopes(list(scopes.values()), candidates, selector)
    held: dict[str, list[Group]] = {baseline.key: [] for baseline in baselines}
    for group in rest:
        nearest = min(baselines, key=lambda b: len(differences(group, b, full, selector)))
        held[nearest.key].append(group)
    order = {group.key: index for index, group in enumerate(groups)}
    return [
        (baseline, sorted(held[baseline.key], key=lambda g: (width(g), order[g.key])))
        for baseline in baselines
    ]


def _of_the_model(settings: dict[str, str]) -> frozenset[tuple[str, str]]:
    """What the number of parameters follows from, unless code was edited."""
    return frozenset(each for each in settings.items() if section(each[0]) in ("model", "dataset"))


def _within_scopes(
    scopes: list[list[Group]], candidates: list[Group], selector: Selector
) -> tuple[list[Group], list[Group]]:
    """Baselines, and the groups that are none."""
    if not selector.wanted:
        several = [scope for scope in scopes if len(scope) > 1]
        widest = min(map(width, candidates))
        if several:
            # A group that stands alone is a baseline only where it could be another's.
            fit = [scope for scope in scopes if len(scope) > 1 or width(scope[0]) == widest]
        else:
            fit = [next(scope for scope in scopes if width(scope[0]) == widest)]
    else:
        keys = {group.key for group in candidates}
        fit = [scope for scope in scopes if any(group.key in keys for group in scope)]
    baselines = []
    for scope in fit:
        able = [g for g in scope if any(g is c for c in candidates)]
        rank = {g.key: (0 if selector.wanted else width(g), -len(g.runs)) for g in able}
        baselines.append(min(able, key=lambda g: rank[g.key]))
    chosen = {baseline.key for baseline in baselines}
    return baselines, [g for scope in scopes for g in scope if g.key not in chosen]


def _is_wanted(group: Group, full: Full, selector: Selector) -> bool:
    return all(value in _values(group, full, key) for key, value in selector.wanted.items())


def _values(group: Group, full: Full, key: str) -> list[str]:
    """What a group may be called by; its policy as it was asked for and as it was used."""
    values = [full[group.key].get(key, ABSENT)]
    if key == MAIN_KEYS["precision"] and group.policy not in values:
        values.append(group.policy)
    return values


def _refuse(groups: Sequence[Group], full: Full, selector: Selector) -> None:
    short = {main: name for name, main in MAIN_KEYS.items()}
    for key, value in selector.wanted.items():
        there = sorted({each for group in groups for each in _values(group, full, key)})
        if value in there:
            continue
        name = short.get(key, key)
        if there == [ABSENT]:
            keys = sorted({short.get(k, k) for group in groups for k in group.settings})
            raise ConfigurationError(
                f"No run has the key {name}",
                where=f"--baseline {name}={value}",
                allowed=keys or ["precision"],
                value=name,
            )
        raise ConfigurationError(
            f"No run has {name}={value}",
            where="--baseline",
            allowed=[f"{name}={each}" for each in there],
            value=f"{name}={value}",
        )
    asked = " and ".join(f"{short.get(k, k)}={v}" for k, v in selector.wanted.items())
    raise ConfigurationError(
        f"No run has {asked} together",
        where="--baseline",
        allowed=[group.label for group in groups],
    )
