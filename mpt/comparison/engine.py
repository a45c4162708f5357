"""The comparison, step by step."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpt.comparison import baseline as baselines
from mpt.comparison import parity, targets
from mpt.comparison.collect import collect, config_of
from mpt.comparison.curves import read_curves
from mpt.comparison.groups import converted, describe_metric, grouped
from mpt.comparison.machines import mark_shared
from mpt.comparison.pairing import compare_metric, mixed, pair
from mpt.comparison.require import check, parse
from mpt.comparison.result import Comparison, Group, Run
from mpt.comparison.settings import text
from mpt.comparison.verdict import verdict
from mpt.comparison.why import why_not_faster
from mpt.errors import ConfigurationError
from mpt.schema import MAIN_KEYS

MARGIN = 0.5


def compare(
    paths: Sequence[str | Path],
    *,
    baseline: str | None = None,
    margin: float = MARGIN,
    metric: str | None = None,
    target: float | None = None,
    require: str | None = None,
) -> Comparison:
    """Hold runs against one another.

    Args:
        paths: runs' folders, reports, sweeps' folders, folders above those, or globs.
        baseline: "precision=float32", say; None: the widest policy there is.
        margin: largest difference of the metric that counts as none, in points (hundredths of a
            share), or percent of the baseline where the metric is no share.
        metric: tag to compare; None: the one that most runs monitored.
        target: value of the metric whose time is told; None: what counts as the baseline's best.
        require: what must hold, "speedup>=1.2,parity".

    Raises:
        ConfigurationError: an argument is wrong, or there is no run that can be read.
    """
    _check_finite({"--margin": margin, "--target": target})
    demands = parse(require)
    selector = baselines.parse(baseline)
    found = collect(paths)
    groups, full = grouped(found.runs)
    mark_shared(groups)
    assigned = baselines.assign(groups, full, selector)
    tag = _metric(found.runs, metric)
    higher = None if tag is None else parity.direction(tag, _mode(found.runs, tag))
    notes = _notes(found.runs, groups, tag, metric)
    result = Comparison(
        groups=[each for each, _ in assigned] + [g for _, others in assigned for g in others],
        pairings=[],
        verdicts=[],
        metric=tag,
        higher_is_better=higher,
        target=None,
        target_source="",
        unreadable=found.unreadable,
        published=_published(found.runs),
        notes=notes,
    )
    for reference, others in assigned:
        if tag is not None:
            _describe([reference, *others], tag, target, margin, higher)
        pairings = [pair(group, reference, full, selector) for group in others]
        for pairing in pairings:
            if tag is not None:
                compare_metric(pairing, tag, margin, higher)
            pairing.why_not_faster = why_not_faster(pairing)
        result.pairings += pairings
        scope = _scope(reference, [each for each, _ in assigned], selector)
        result.verdicts.append(verdict(reference, pairings, scope, len(found.unreadable)))
    _note_target(result, [each for each, _ in assigned], target)
    result.requirements = check(demands, result)
    return result


def _check_finite(flags: dict[str, float | None]) -> None:
    for flag, value in flags.items():
        if value is not None and not math.isfinite(value):
            raise ConfigurationError(f"{value} is no finite number", where=flag, value=str(value))


def _notes(
    runs: Sequence[Run], groups: list[Group], tag: str | None, asked: str | None
) -> list[str]:
    """What holds of runs and groups by themselves. Reads the runs' curves."""
    notes = [problem for run in runs if (problem := read_curves(run, tag))]
    notes += [note for group in groups for note in (*mixed(group), *converted(group))]
    return notes + (_other_metrics(runs, tag) if asked is None else [])


def _describe(
    groups: list[Group], tag: str, target: float | None, margin: float, higher: bool | None
) -> None:
    """The metric of a baseline, the first, and of those held against it."""
    for group in groups:
        describe_metric(group, tag)
    reached = targets.default_target(groups[0], tag, margin, higher) if target is None else target
    if reached is not None:
        for group in groups:
            targets.measure(group, tag, reached, higher)


def _note_target(result: Comparison, references: list[Group], target: float | None) -> None:
    if target is not None:
        result.target, result.target_source = target, "--target"
        return
    found = {group.target for group in references if group.target is not None}
    if found:
        result.target_source = "the baseline's median best, less the margin"
    if len(found) == 1:
        (result.target,) = found


def _metric(runs: Sequence[Run], asked: str | None) -> str | None:
    """The tag to compare: one asked for, or the one that most runs monitored and recorded."""
    tags = {tag for run in runs for tag in run.report.metrics.final}
    if asked is not None:
        for tag in (asked, f"validation/{asked}", f"train/{asked}"):
            if tag in tags:
                return tag
        raise ConfigurationError(
            f"No run recorded {asked}",
            where="--metric",
            allowed=sorted(tags) or ["none: no run recorded a metric"],
            value=asked,
        )
    monitored = [name for run in runs if (name := _monitored(run)) is not None and name in tags]
    return Counter(monitored).most_common(1)[0][0] if monitored else None


def _monitored(run: Run) -> str | None:
    """The tag by which a run chose its best step."""
    best = run.report.metrics.best
    name = best.name if best is not None else config_of(run, "monitor")
    return name if isinstance(name, str) else None


def _other_metrics(runs: Sequence[Run], tag: str | None) -> list[str]:
    others = Counter(each for run in runs if (each := _monitored(run)) not in (tag, None))
    return [
        f"{count} of {len(runs)} runs monitored {other}, not {tag}: --metric chooses"
        for other, count in others.items()
        if tag is not None
    ]


def _mode(runs: Sequence[Run], tag: str) -> str:
    """The direction that the runs that monitored `tag` were given."""
    for run in runs:
        best = run.report.metrics.best
        if best is not None and best.name == tag:
            return str(config_of(run, "monitor_mode"))
    return "auto"


def _scope(reference: Group, references: list[Group], selector: baselines.Selector) -> str:
    """What holds of this baseline and not of all."""
    if len(references) < 2:
        return ""
    others = [each for each in references if each is not reference]
    said = []
    for key, value in reference.settings.items():
        if selector.admits(key):
            continue
        if any(other.settings.get(key) != value for other in others):
            said.append((key, value))
    return _shortest(said) or reference.label


def _shortest(said: list[tuple[str, Any]]) -> str:
    """Of a section whose choice has a name, the name: "model=cnn"."""
    words = []
    named = {key.split(".")[0] for key, _ in said if key in MAIN_KEYS.values()}
    for key, value in said:
        name = key.split(".")[0]
        if MAIN_KEYS.get(name) == key:
            words.append(f"{name}={text(value)}")
        elif name not in named:
            words.append(f"{key}={text(value)}")
    return " ".join(words)


def _published(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The figures that the runs' configurations name, each once."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        entries = run.report.config.get("published")
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict):
                found.setdefault(json.dumps(entry, sort_keys=True), entry)
    return list(found.values())
