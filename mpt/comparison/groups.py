"""Runs that differ in nothing but the seed, as groups with their figures."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mpt.comparison import settings as settings_of
from mpt.comparison.result import Group, Run, Spread
from mpt.comparison.settings import Settings, flatten, text
from mpt.comparison.statistics import spread
from mpt.report.run_report import RunReport
from mpt.schema import FLOAT8

# From wide to narrow: the default baseline is the widest.
WIDTH = (
    "float64",
    "float32",
    "tf32",
    "mixed_bfloat16",
    "mixed_float16",
    "bfloat16",
    "float16",
    FLOAT8,
)
NOT_RECORDED = "not recorded"
AS_CONFIGURED = "as configured"  # the reason of a choice that the user made

# What makes a run of a group: its settings' hash, device, data and number of parameters; "" where
# one is not recorded.
Identity = tuple[str, str, str, str]

# Key of a group -> its flat settings, as text.
Full = dict[str, dict[str, str]]


def grouped(runs: Sequence[Run]) -> tuple[list[Group], Full]:
    """The groups in the order of their first runs, and all settings of each by its key, as text.

    A run that ended before it knew its device, data or model joins the group of its configuration.
    """
    flat = {id(run): flatten(run.report.config) for run in runs}
    by_key: dict[Identity, list[Run]] = {}
    partial: list[Run] = []
    for run in runs:
        if not all(_identity(run, flat[id(run)])):
            partial.append(run)
        else:
            by_key.setdefault(_identity(run, flat[id(run)]), []).append(run)
    for run in partial:
        mine = _identity(run, flat[id(run)])
        same = [key for key in by_key if _fits(mine, key)]
        by_key.setdefault(max(same, key=lambda k: len(by_key[k])) if same else mine, []).append(run)
    position = {id(run): index for index, run in enumerate(runs)}
    members = [sorted(each, key=lambda run: position[id(run)]) for each in by_key.values()]
    members.sort(key=lambda each: position[id(each[0])])
    all_settings = [flat[id(each[0])] for each in members]
    varied = settings_of.differing(all_settings)
    policies = [_policy(each) for each in members]
    groups: list[Group] = []
    full: Full = {}
    for each, own, policy in zip(members, all_settings, policies, strict=True):
        group = _group(each, policy, {key: own.get(key) for key in varied})
        groups.append(group)
        full[group.key] = {key: text(value) for key, value in own.items()}
    _name(groups, settings_of.labels(all_settings, policies))
    return groups, full


def width(group: Group) -> int:
    """Place of the group's policy from wide to narrow; one unknown comes last."""
    return WIDTH.index(group.policy) if group.policy in WIDTH else len(WIDTH)


def describe_metric(group: Group, metric: str) -> None:
    """Fill what a group says of the compared metric."""
    group.final = spread([value for _, value in final_values(group, metric)])
    bests = [run.report.metrics.best for run in succeeded(group)]
    values = (best.value for best in bests if best is not None and best.name == metric)
    group.best = spread([value for value in values if value is not None and math.isfinite(value)])


def final_values(group: Group, metric: str) -> list[tuple[int, float]]:
    """(seed, value after the last step) of the runs that succeeded and have a finite one."""
    found = []
    for run in succeeded(group):
        value = run.report.metrics.final.get(metric)
        if value is not None and math.isfinite(value):
            found.append((run.seed, value))
    return found


def throughputs(group: Group) -> list[tuple[int, float]]:
    """(seed, examples a second) of the runs that succeeded and measured it."""
    measured = [(r.seed, r.report.throughput.examples_per_second) for r in succeeded(group)]
    return [(seed, v) for seed, v in measured if v is not None and math.isfinite(v) and v > 0]


def succeeded(group: Group) -> list[Run]:
    """The runs that came to their end."""
    return [run for run in group.runs if run.succeeded]


def converted(group: Group) -> list[str]:
    """Which layers have their products in float8, in one sentence; empty where none has."""
    for run in group.runs:
        table = run.report.precision.table
        rows = [row for row in table if row.get("quantization") == FLOAT8]
        if rows:
            kinds = Counter(str(row.get("class")) for row in rows)
            named = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
            return [
                f"{group.label}: products of {named} of {len(table)} layers are in float8, "
                f"{rows[0].get('path')} first; all else is in {run.report.precision.policy}"
            ]
    return []


def fails(group: Group) -> bool:
    """Whether a run failed of itself; one interrupted by hand says nothing of its settings."""
    return any(not (run.succeeded or run.report.status == "interrupted") for run in group.runs)


def device_text(report: RunReport) -> str:
    """Kind, name and count: "cpu AMD EPYC", "gpu NVIDIA A100 x 4"."""
    device = report.device
    if device.kind is None and device.name is None:
        return NOT_RECORDED
    times = f" x {device.count}" if device.count and device.count > 1 else ""
    return f"{device.kind or ''} {device.name or ''}".strip() + times


def fingerprint(group: Group) -> str | None:
    """Hash of the group's data; None where no run recorded it."""
    found = [run.report.data.fingerprint for run in group.runs]
    return next((each for each in found if each is not None), None)


def other_data(group: Group, baseline: Group) -> str | None:
    """How the data are not known to be the same; None where they are, or neither recorded them."""
    ours, theirs = fingerprint(group), fingerprint(baseline)
    if ours == theirs:
        return None
    if ours is None or theirs is None:
        return f"the data of {(group if ours is None else baseline).label} are not recorded"
    return "other data"


def parameters_text(group: Group) -> str:
    """How large its model is: "11,850 parameters"."""
    return (
        f"{NOT_RECORDED if group.parameters is None else format(group.parameters, ',')} parameters"
    )


def batch_text(group: Group) -> str:
    """The batch size; a group's own runs may differ in it."""
    if group.batch_size is not None:
        return str(group.batch_size)
    known = any(run.report.training.batch_size is not None for run in group.runs)
    return "varied" if known else NOT_RECORDED


def cause(runs: Sequence[Run]) -> str:
    """Why these runs, which failed alike, failed: "diverged: loss_not_finite at step 120"."""
    report = runs[0].report
    reason = report.reason
    if reason is None:
        return f"{report.status}: exit code {report.exit_code}"
    steps = sorted(
        run.report.reason.step
        for run in runs
        if run.report.reason is not None and run.report.reason.step is not None
    )
    what = report.status if reason.rule == report.status else f"{report.status}: {reason.rule}"
    if not steps:
        return what
    if steps[0] == steps[-1]:
        return f"{what} at step {steps[0]}"
    return f"{what} at steps {steps[0]} to {steps[-1]}"


def _identity(run: Run, flat: Settings) -> Identity:
    canonical = json.dumps({k: text(v) for k, v in flat.items()}, sort_keys=True)
    hashed = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    device, parameters = device_text(run.report), run.report.model.parameters
    return (
        hashed,
        "" if device == NOT_RECORDED else device,
        run.report.data.fingerprint or "",
        "" if parameters is None else str(parameters),
    )


def _fits(partial: Identity, whole: Identity) -> bool:
    """Whether a run that lacks its device, data or model may belong to a group."""
    return all(mine in ("", its) for mine, its in zip(partial, whole, strict=True))


def _policy(runs: Sequence[Run]) -> str:
    """The precision as it was used, by the first run that knows."""
    for run in runs:
        precision = run.report.precision
        name = precision.name
        if name is None:
            continue
        if precision.policy == "float32" and (
            precision.requested == "tf32" or (precision.tf32 and run.report.device.kind == "gpu")
        ):
            return "tf32"
        return name
    configured = runs[0].report.config.get("precision")
    policy = configured.get("policy") if isinstance(configured, dict) else None
    return runs[0].report.precision.requested or (policy if isinstance(policy, str) else "unknown")


def _group(runs: list[Run], policy: str, varied: Settings) -> Group:
    first = runs[0].report
    device = next((t for r in runs if (t := device_text(r.report)) != NOT_RECORDED), NOT_RECORDED)
    sizes = {run.report.training.batch_size for run in runs} - {None}
    identities = [_identity(run, flatten(run.report.config)) for run in runs]
    identity = "|".join(next(filter(None, values), "") for values in zip(*identities, strict=True))
    group = Group(
        key=hashlib.sha256(identity.encode()).hexdigest()[:12],
        label="",
        settings=varied,
        policy=policy,
        device=device,
        parameters=next((n for r in runs if (n := r.report.model.parameters) is not None), None),
        batch_size=sizes.pop() if len(sizes) == 1 else None,
        largest_batch=first.config.get("batch_size") == "max",
        runs=runs,
    )
    _describe(group)
    return group


def _describe(group: Group) -> None:
    """The figures of the runs that succeeded, and the causes of those that did not."""

    def over(value: Callable[[RunReport], float | int | None]) -> Spread | None:
        return _spread(value(run.report) for run in succeeded(group))

    group.step_time_ms = over(
        lambda r: r.throughput.step_time_ms.median if r.throughput.step_time_ms else None
    )
    group.throughput = over(lambda r: r.throughput.examples_per_second)
    group.device_memory = over(lambda r: r.memory.device_peak_bytes)
    group.host_memory = over(lambda r: r.memory.host_rss_peak_bytes)
    group.wall_seconds = over(lambda r: r.wall_seconds.total)
    group.loss_scale = over(lambda r: r.loss_scale.final)
    # A run that was stopped for its skips is the one that tells of them.
    group.skipped_steps = _spread(r.report.loss_scale.skipped_steps for r in group.runs)
    failed: dict[tuple[str, str], list[Run]] = {}
    for run in group.runs:
        if not run.succeeded:
            rule = run.report.reason.rule if run.report.reason else ""
            failed.setdefault((run.report.status, rule), []).append(run)
    for alike in failed.values():
        group.failures[cause(alike)] = len(alike)
    group.choices = _choices(group)
    group.concurrent = any((r.report.device.concurrent_jobs or 1) > 1 for r in group.runs)


def _spread(values: Any) -> Spread | None:
    return spread([float(v) for v in values if v is not None and math.isfinite(v)])


def _choices(group: Group) -> dict[str, str]:
    """Settings that mpt chose, with the values it came to: the most frequent first."""
    found = {}
    for name in ("steps_per_execution", "jit_compile", "batch_size"):
        reasons = [(run, run.report.execution.choice_reasons.get(name)) for run in group.runs]
        chosen = [run for run, reason in reasons if reason not in (None, AS_CONFIGURED)]
        source = "training" if name == "batch_size" else "execution"
        values = [getattr(getattr(run.report, source), name) for run in chosen]
        counted = Counter(text(value) for value in values if value is not None)
        if counted:
            found[name] = ", ".join(value for value, _ in counted.most_common())
    return found


def _name(groups: list[Group], labels: list[str]) -> None:
    """Set the labels; where settings are the same, by what else is different."""
    for group, label in zip(groups, labels, strict=True):
        group.label = label
    tellers: tuple[Callable[[Group], str], ...] = (
        lambda g: f"with {parameters_text(g)}",
        lambda g: f"on {g.device}",
        lambda g: f"with data {(fingerprint(g) or NOT_RECORDED)[:8]}",
    )
    for tell in tellers:
        for alike in _same_label(groups):
            if len({tell(group) for group in alike}) > 1:
                for group in alike:
                    group.label = f"{group.label} {tell(group)}"
    for alike in _same_label(groups):
        for number, group in enumerate(alike, start=1):
            group.label = f"{group.label} ({number})"


def _same_label(groups: list[Group]) -> list[list[Group]]:
    by_label: dict[str, list[Group]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group)
    return [alike for alike in by_label.values() if len(alike) > 1]
