"""What a comparison says, as tables of text: one content for the console, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpt.comparison.result import Comparison, Group, Pairing, Run
from mpt.pages.cells import (
    BAD,
    GOOD,
    NONE,
    QUIET,
    Cell,
    Column,
    Table,
    interval,
    measured,
    milliseconds,
    plain,
    ratio,
    scale,
    short_tag,
    signed,
    spread,
    times,
)
from mpt.report.numbers import number, rate, size

SPEED_TONES = {"faster": GOOD, "slower": BAD}
PARITY_TONES = {"same": GOOD, "better": GOOD, "worse": BAD, "different": BAD}
PARITY_WORDS = {"not_enough_seeds": "not enough seeds to say"}


def groups(comparison: Comparison) -> Table:
    """What was measured of each group; columns that no group has are named below the table."""
    metric = short_tag(comparison.metric)
    makers: list[tuple[Column, Callable[[Group], Cell]]] = [
        (Column("batch_size", "batch"), _batch),
        (Column("step_time_ms", "step, ms"), lambda g: spread(g.step_time_ms, milliseconds)),
        (Column("throughput", "examples/s"), lambda g: spread(g.throughput, rate)),
        (Column("device_memory", "device memory"), lambda g: spread(g.device_memory, size)),
        (Column("host_memory", "host memory"), lambda g: spread(g.host_memory, size)),
        (Column("final", f"final {metric}"), lambda g: spread(g.final, number)),
        (Column("best", f"best {metric}"), lambda g: spread(g.best, number)),
        (
            Column("seconds_to_target", f"s to {target(comparison)}"),
            lambda g: _to_target(g, tell=comparison.target is None),
        ),
        (Column("wall_seconds", "s in all"), lambda g: spread(g.wall_seconds, rate)),
        (Column("skipped_steps", "skipped steps"), lambda g: spread(g.skipped_steps, number)),
        (Column("loss_scale", "last loss scale"), lambda g: spread(g.loss_scale, scale)),
    ]
    if comparison.metric is None:
        makers = [each for each in makers if each[0].key not in ("final", "best")]
    if comparison.metric is None or all(g.target is None for g in comparison.groups):
        makers = [each for each in makers if each[0].key != "seconds_to_target"]
    cells = {column.key: [make(group) for group in comparison.groups] for column, make in makers}
    present = {key for key, found in cells.items() if any(cell.text != NONE for cell in found)}
    columns = [column for column, _ in makers if column.key in present]
    absent = [column.head for column, _ in makers if column.key not in present]
    rows = [
        [Cell(group.label), _runs(group), *(cells[column.key][index] for column in columns)]
        for index, group in enumerate(comparison.groups)
    ]
    notes = [f"Not measured in any run: {', '.join(absent)}."] if absent and rows else []
    head = [Column("group", "group", numeric=False), Column("runs", "runs")]
    return Table("groups", "What was measured", [*head, *columns], rows, notes)


def pairings(comparison: Comparison) -> Table:
    """Every group against its baseline: ratios and differences with their intervals."""
    columns = [
        Column("group", "group", numeric=False),
        Column("baseline", "against", numeric=False),
        Column("speedup", "speed-up"),
        Column("speed", "speed", numeric=False),
        Column("memory_ratio", "device memory"),
        Column("host_memory_ratio", "host memory"),
        Column("difference", f"{short_tag(comparison.metric)}, difference"),
        Column("p_value", "p of equivalence"),
        Column("parity", "parity", numeric=False),
    ]
    rows = [_pairing(each) for each in comparison.pairings]
    kept = [
        index
        for index, column in enumerate(columns)
        if column.key in ("group", "baseline", "speedup", "speed", "parity")
        or any(row[index].text != NONE for row in rows)
    ]
    return Table(
        "pairings",
        "Against the baseline",
        [columns[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
    )


def _pairing(pairing: Pairing) -> list[Cell]:
    parity = pairing.parity
    p_value = None if parity is None else parity.p_value
    outcome = "not compared" if parity is None else PARITY_WORDS.get(parity.outcome, parity.outcome)
    return [
        Cell(pairing.group.label),
        Cell(pairing.baseline.label),
        interval(pairing.speedup, times),
        Cell(_speed(pairing), pairing.speed, SPEED_TONES.get(pairing.speed, QUIET)),
        ratio(pairing.memory_ratio),
        ratio(pairing.host_memory_ratio),
        interval(None if parity is None else parity.difference, signed),
        _p(p_value),
        Cell(
            outcome,
            None if parity is None else parity.outcome,
            QUIET if parity is None else PARITY_TONES.get(parity.outcome, QUIET),
        ),
    ]


def _p(value: float | None) -> Cell:
    if value is None:
        return Cell(NONE)
    return Cell("<0.0001" if value < 1e-4 else f"{value:.2g}", value)


def _speed(pairing: Pairing) -> str:
    return "no verdict" if pairing.speed == "none" else pairing.speed


def remarks(comparison: Comparison, pairing: Pairing) -> list[tuple[str, str]]:
    """What is to be said of a pairing in words, as (kind, sentence): speed, parity, why, note.

    What a verdict's reasons say already is not said again.
    """
    reasons = [reason for verdict in comparison.verdicts for reason in verdict.reasons]
    found = [("speed", pairing.speed_text)]
    found += [("parity", pairing.parity.text)] if pairing.parity is not None else []
    found += [("why not faster", text) for text in pairing.why_not_faster]
    found += [("note", text) for text in pairing.notes]
    return [
        (kind, text)
        for kind, text in found
        if text and f"{pairing.group.label}: {text}" not in reasons
    ]


def settings(comparison: Comparison) -> Table:
    """The configuration keys in which the groups differ."""
    keys = list(dict.fromkeys(key for group in comparison.groups for key in group.settings))
    columns = [Column("group", "group", numeric=False)]
    columns += [Column(key, key, numeric=False) for key in keys]
    rows = [
        [
            Cell(group.label),
            *(
                Cell(plain(group.settings[key]), group.settings[key])
                if key in group.settings
                else Cell(NONE)
                for key in keys
            ),
        ]
        for group in comparison.groups
    ]
    return Table("settings", "Where the configurations differ", columns, rows if keys else [])


def choices(comparison: Comparison) -> Table:
    """Settings that were chosen by measuring."""
    rows = [
        [Cell(group.label), Cell(name), Cell(value)]
        for group in comparison.groups
        for name, value in group.choices.items()
    ]
    columns = [
        Column("group", "group", numeric=False),
        Column("setting", "setting", numeric=False),
        Column("value", "chosen", numeric=False),
    ]
    return Table("choices", "Settings chosen by measuring", columns, rows)


def failures(comparison: Comparison) -> Table:
    """Failed runs by cause."""
    rows = [
        [Cell(group.label), Cell(str(count), count), Cell(cause, tone=BAD)]
        for group in comparison.groups
        for cause, count in group.failures.items()
    ]
    columns = [
        Column("group", "group", numeric=False),
        Column("failed", "runs"),
        Column("cause", "cause", numeric=False),
    ]
    return Table("failures", "Failures", columns, rows)


def unreadable(comparison: Comparison) -> Table:
    """Folders that hold no report that can be used."""
    rows = [[Cell(str(each.path)), Cell(each.reason)] for each in comparison.unreadable]
    columns = [Column("path", "folder", numeric=False), Column("reason", "reason", numeric=False)]
    return Table("unreadable", "Could not be read", columns, rows)


def requirements(comparison: Comparison) -> Table:
    """Each part of --require, and whether it is met."""
    rows = [
        [
            Cell("met" if each.met else "NOT MET", each.met, GOOD if each.met else BAD),
            Cell(each.text),
            Cell(each.detail),
        ]
        for each in comparison.requirements
    ]
    columns = [
        Column("met", "", numeric=False),
        Column("requirement", "requirement", numeric=False),
        Column("detail", "found", numeric=False),
    ]
    return Table("requirements", "Requirements", columns, rows)


def published(comparison: Comparison) -> Table:
    """Published figures, and below them what was measured here, as far as the names tell."""
    entries = comparison.published
    keys = [key for key in dict.fromkeys(k for each in entries for k in each) if key != "source"]
    columns = [Column("source", "source", numeric=False)]
    columns += [Column(key, key, numeric=False) for key in keys]
    rows = [
        [Cell(plain(each.get("source", "no source"))), *(_published(each, key) for key in keys)]
        for each in entries
    ]
    if rows:
        rows.append([Cell("measured here"), *(Cell(_ours(comparison, key)) for key in keys)])
    return Table("published", "Published figures beside these", columns, rows)


def _published(entry: dict[str, Any], key: str) -> Cell:
    return Cell(plain(entry[key]), entry[key]) if key in entry else Cell(NONE)


def _ours(comparison: Comparison, key: str) -> str:
    """What was measured here for a published figure's key; its unit is said."""
    name = key.lower().replace("-", "_")
    found = []
    for pairing in comparison.pairings:
        if name in ("speedup", "speed_up") and pairing.speedup is not None:
            found.append(f"{pairing.group.label} {times(pairing.speedup.estimate)}")
        if name in ("memory", "memory_ratio") and pairing.memory_ratio is not None:
            found.append(f"{pairing.group.label} {times(pairing.memory_ratio)}")
    for group in comparison.groups:
        if name in (group.policy, group.label) and group.throughput is not None:
            found.append(f"{rate(group.throughput.median)} examples/s")
        if name in (comparison.metric, short_tag(comparison.metric)) and group.final is not None:
            found.append(f"{group.label} {number(group.final.median)}")
    if name == "device":
        found += dict.fromkeys(group.device for group in comparison.groups)
    return "; ".join(found) or NONE


def environment(comparison: Comparison) -> Table:
    """Machines and versions, each value with the number of runs that had it where they differ."""
    rows = []
    for name, get in ENVIRONMENT.items():
        counted: dict[str, int] = {}
        for run in comparison.runs:
            value = get(run)
            if value is not None:
                counted[str(value)] = counted.get(str(value), 0) + 1
        whole = len(counted) == 1 and sum(counted.values()) == len(comparison.runs)
        text = "; ".join(
            v if whole else f"{v} ({n} run{'s' if n > 1 else ''})" for v, n in counted.items()
        )
        rows.append([Cell(name), Cell(text or "not recorded", tone="" if text else QUIET)])
    columns = [Column("what", "", numeric=False), Column("value", "", numeric=False)]
    return Table("environment", "Environment", columns, rows)


ENVIRONMENT: dict[str, Callable[[Run], Any]] = {
    "device": lambda run: run.report.device.name,
    "kind": lambda run: run.report.device.kind,
    "driver": lambda run: run.report.device.driver,
    "host": lambda run: run.report.environment.host,
    "operating system": lambda run: run.report.environment.os,
    "python": lambda run: run.report.environment.python,
    "tensorflow": lambda run: run.report.environment.tensorflow,
    "keras": lambda run: run.report.environment.keras,
    "mpt": lambda run: run.report.mpt_version,
    "commit": lambda run: run.report.environment.git_commit,
    "data": lambda run: run.report.data.name,
    "fingerprint of the data": lambda run: (run.report.data.fingerprint or "")[:16] or None,
}


def runs(comparison: Comparison) -> Table:
    """One row a run."""
    tag = comparison.metric
    columns = [
        Column("group", "group", numeric=False),
        Column("seed", "seed"),
        Column("status", "status", numeric=False),
        Column("throughput", "examples/s"),
        Column("final", f"final {short_tag(tag)}"),
        Column("skipped_steps", "skipped"),
        Column("path", "folder", numeric=False),
    ]
    rows = [
        [
            Cell(group.label),
            Cell(str(run.seed), run.seed),
            Cell(run.report.status, tone="" if run.succeeded else BAD),
            measured(run.report.throughput.examples_per_second, rate),
            measured(run.report.metrics.final.get(tag) if tag else None, number),
            measured(run.report.loss_scale.skipped_steps, number),
            Cell(str(run.path)),
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    return Table("runs", "Every run", columns, rows)


def target(comparison: Comparison) -> str:
    """The target as a text: "accuracy 0.97"."""
    if comparison.target is None:
        return "target"
    return f"{short_tag(comparison.metric)} {number(comparison.target)}"


def _batch(group: Group) -> Cell:
    if group.batch_size is None:
        return Cell("differs" if group.runs else NONE)
    found = " (largest)" if group.largest_batch else ""
    return Cell(f"{group.batch_size}{found}", group.batch_size)


def _runs(group: Group) -> Cell:
    good = sum(run.succeeded for run in group.runs)
    whole = good == len(group.runs) and not group.failures
    failed = max(len(group.runs) - good, sum(group.failures.values()))
    return Cell(str(good) if whole else f"{good}, {failed} failed", good, "" if whole else BAD)


def _to_target(group: Group, *, tell: bool) -> Cell:
    """Seconds; with `tell` to which value, which is not the same for all groups."""
    reached = group.seconds_to_target
    good = sum(run.succeeded for run in group.runs)
    if reached is None:
        return Cell("not reached", tone=QUIET) if good else Cell(NONE)
    cell = spread(reached, rate)
    if tell and group.target is not None:
        cell = Cell(f"{cell.text} (to {number(group.target)})", cell.value, cell.tone)
    if reached.count >= good:
        return cell
    return Cell(f"{cell.text}, {reached.count} of {good} runs", cell.value, cell.tone)
