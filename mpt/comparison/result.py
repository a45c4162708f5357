"""What a comparison of runs found: plain data, from which every output is made.

A *group* holds the runs that differ in nothing but seed, name and folder. A *pairing* holds one
group against its baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpt.report import RunReport
from mpt.report.json_values import encode

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Curve:
    """One tag of one run over training.

    Attributes:
        steps: training steps, ascending.
        seconds: wall time since training began, s; None where the run did not record it.
        values: finite or not, as recorded.
    """

    steps: Sequence[float]
    seconds: Sequence[float] | None
    values: Sequence[float]


@dataclass
class Run:
    """One run that was read.

    Attributes:
        curves: by tag: train/loss, validation/loss, the monitored tag and loss_scale/scale, as far
            as metrics.jsonl has them.
        skips: logged steps at which the count of skipped steps had risen.
    """

    path: Path
    report: RunReport
    curves: dict[str, Curve] = field(default_factory=dict)
    skips: list[int] = field(default_factory=list)

    @property
    def seed(self) -> int:
        seed = self.report.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0  # a page shows any report that can be read

    @property
    def succeeded(self) -> bool:
        return self.report.status in ("completed", "stopped_early")


@dataclass(frozen=True)
class Unreadable:
    """A folder that holds no report that can be used; `reason` is one sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Spread:
    """A quantity over the runs of a group; `values` are in the order of the runs that have one."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `low` and `high` are None with one value.

    Attributes:
        level: confidence, 0 to 1.
        count: pairs, or the smaller group's runs.
        paired: by seed.
        left_out: runs of both that have no partner with their seed.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float
    count: int
    paired: bool
    left_out: int = 0


@dataclass(frozen=True)
class Parity:
    """Whether a metric is the same as the baseline's.

    Attributes:
        tag: the metric compared, after the last step.
        difference: group minus baseline, in the metric's own unit.
        margin: largest difference that counts as none, in the metric's own unit.
        p_value: of the equivalence test (TOST), the larger of its two; None where there are too
            few pairs for one.
        outcome: same, better, worse, different (its direction has no better), unclear, or
            not_enough_seeds.
        text: the outcome as a sentence without its full stop.
        within: what it is the same within: "seed noise" where the interval holds 0 and the margin
            is the one asked for, else the margin; empty of another outcome.
    """

    tag: str
    difference: Interval
    margin: float
    p_value: float | None
    outcome: str
    text: str
    within: str = ""


@dataclass
class Group:
    """Runs that differ in seed, name and folder only, on one kind of device, with the same data.

    A file of code that was edited between them may have made other models of the same settings:
    such runs are of one group only where the number of parameters is the same.

    Attributes:
        key: identity within the comparison.
        label: what sets it apart, short: "mixed_float16".
        settings: configuration keys in which the groups differ, flattened, with this one's values.
        policy: precision policy as it was used; "tf32" where float32 ran with TensorFloat-32.
        device: kind, name and count, as text.
        batch_size: None where the runs' differ.
        largest_batch: the batch size was searched for (batch_size=max).
        step_time_ms, throughput: over runs, of each run's median step and of examples a second.
        device_memory, host_memory: peaks, bytes.
        final, best: the compared metric.
        target: its value that `seconds_to_target` waits for; None where there is none.
        seconds_to_target: wall time of training until the metric reached the target, s; of the
            runs that reached it.
        wall_seconds: of the whole run.
        skipped_steps, loss_scale: over runs; the last scale.
        failures: cause -> runs that failed of it.
        choices: settings chosen by measuring, "steps_per_execution": "16, 8".
        concurrent: some of its runs shared their machine with another job.
        parameters: of the model; None where no run recorded them.
    """

    key: str
    label: str
    settings: dict[str, Any]
    policy: str
    device: str
    batch_size: int | None
    largest_batch: bool
    runs: list[Run]
    step_time_ms: Spread | None = None
    throughput: Spread | None = None
    device_memory: Spread | None = None
    host_memory: Spread | None = None
    final: Spread | None = None
    best: Spread | None = None
    target: float | None = None
    seconds_to_target: Spread | None = None
    wall_seconds: Spread | None = None
    skipped_steps: Spread | None = None
    loss_scale: Spread | None = None
    failures: dict[str, int] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    concurrent: bool = False
    parameters: int | None = None


@dataclass
class Pairing:
    """A group against its baseline.

    Attributes:
        speedup: ratio of examples a second, above 1 is faster; None where it was not measured or
            must not be told.
        speed: faster, slower, same, unclear or none (no verdict).
        speed_text: that as a sentence without its full stop, with the reason of `none`.
        memory_ratio, host_memory_ratio: of the median peaks.
        parity: None where the metric cannot be compared.
        why_not_faster: reasons from what was measured, most important first.
        notes: what a reader must know of this pairing: other device, data, batch, settings.
        differs_in: what sets the two apart besides that which is compared: keys of the
            configuration, "device", "data", "host", "TensorFlow", "Keras", "commit".
    """

    group: Group
    baseline: Group
    speedup: Interval | None = None
    speed: str = "none"
    speed_text: str = ""
    memory_ratio: float | None = None
    host_memory_ratio: float | None = None
    parity: Parity | None = None
    why_not_faster: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    differs_in: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """The answer: `sentence` and the reasons behind it.

    Attributes:
        scope: what the verdict holds for, where the runs vary in more than the precision
            ("model=resnet"); empty for all.
        recommended: label of the group to use; None where the evidence does not tell.
    """

    sentence: str
    reasons: list[str] = field(default_factory=list)
    scope: str = ""
    recommended: str | None = None


@dataclass(frozen=True)
class Requirement:
    """One part of --require, and whether it is met, by which pairing."""

    text: str
    met: bool
    detail: str


@dataclass
class Comparison:
    """The whole comparison.

    Attributes:
        metric: tag that is compared; None where no run has one.
        higher_is_better: of `metric`; None where unknown.
        target: value of `metric` that `seconds_to_target` waits for; None where it is not the same
            for all groups, which then have their own.
        target_source: where it comes from.
        groups: baselines first, then from wide to narrow.
        pairings: every group that is not a baseline, in the order of `groups`.
        published: figures named by a recipe: source, and what it says, as rows of text.
    """

    groups: list[Group]
    pairings: list[Pairing]
    verdicts: list[Verdict]
    metric: str | None
    higher_is_better: bool | None
    target: float | None
    target_source: str
    unreadable: list[Unreadable] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    def to_json(self) -> dict[str, Any]:
        """JSON's own types; runs by path, seed, status and exit code, without their curves."""

        def group(each: Group) -> dict[str, Any]:
            content = {k: v for k, v in vars(each).items() if k != "runs"}
            runs = [
                {
                    "path": str(run.path),
                    "seed": run.seed,
                    "status": run.report.status,
                    "exit_code": run.report.exit_code,
                }
                for run in each.runs
            ]
            return {**content, "runs": runs}

        def pairing(each: Pairing) -> dict[str, Any]:
            labels = {"group": each.group.label, "baseline": each.baseline.label}
            return {**vars(each), **labels, "key": each.group.key}

        content = {
            **vars(self),
            "groups": [group(each) for each in self.groups],
            "pairings": [pairing(each) for each in self.pairings],
        }
        return {"schema_version": SCHEMA_VERSION, **encode(content)}
