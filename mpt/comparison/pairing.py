"""One group against its baseline."""

from collections import Counter

from mpt.comparison import parity, speed
from mpt.comparison.baseline import ABSENT, Selector, differences
from mpt.comparison.groups import (
    Full,
    batch_text,
    fingerprint,
    other_data,
    parameters_text,
    succeeded,
)
from mpt.comparison.result import Group, Pairing, Run, Spread
from mpt.comparison.settings import section
from mpt.schema import MAIN_KEYS

SURROUNDINGS = {
    "TensorFlow": "tensorflow",
    "Keras": "keras",
    "host": "host",
    "commit": "git_commit",
}


def pair(group: Group, baseline: Group, full: Full, selector: Selector) -> Pairing:
    """Speed and memory, and what a reader must know; the metric is `compare_metric`'s."""
    pairing = Pairing(group, baseline)
    speed.judge(pairing)
    pairing.memory_ratio = _ratio(group.device_memory, baseline.device_memory)
    pairing.host_memory_ratio = _ratio(group.host_memory, baseline.host_memory)
    others = _named(differences(group, baseline, full, selector))
    if other_data(group, baseline) != "other data":  # not known to be other
        others = [each for each in others if each != "data"]
    pairing.notes = _notes(pairing, others, full)
    if not _compares(group, baseline, full, selector):  # then they are what is compared
        others = [each for each in others if each in ("device", "data", "parameters")]
    pairing.differs_in = others + [what for what, *_ in _surroundings(group, baseline)]
    return pairing


def compare_metric(
    pairing: Pairing, tag: str, points: float, higher_is_better: bool | None
) -> None:
    """Fill `parity`, or note why there is none."""
    pairing.parity, obstacle = parity.judge(
        pairing.group, pairing.baseline, tag, points, higher_is_better
    )
    if obstacle:
        pairing.notes.append(obstacle)


def mixed(group: Group) -> list[str]:
    """In what surroundings a group's own runs differ, and which seeds ran more than once."""
    counted = Counter(run.seed for run in succeeded(group))
    repeated = _ranges(sorted(seed for seed, count in counted.items() if count > 1))
    word = "seed" if repeated.lstrip("-").isdecimal() else "seeds"
    notes = [f"{group.label}: {word} {repeated} ran more than once"] if repeated else []
    return notes + [
        f"{group.label}: its runs differ in {what}: {values}"
        for what, key in SURROUNDINGS.items()
        if ", " in (values := _environment(group.runs, key))
    ]


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers, three or more in a row as a range: "1, 3 to 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(
        f"{span[0]} to {span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans
    )


def _ratio(ours: Spread | None, theirs: Spread | None) -> float | None:
    if ours is None or theirs is None or not theirs.median:
        return None
    return ours.median / theirs.median


def _named(keys: list[str]) -> list[str]:
    """The keys; of a section whose choice differs, that alone: its settings are others anyway."""
    named = {section(key) for key in keys if key in MAIN_KEYS.values()}
    return [key for key in keys if section(key) not in named or key in MAIN_KEYS.values()]


def _compares(group: Group, baseline: Group, full: Full, selector: Selector) -> bool:
    """Whether the two differ in something that the selector is about."""
    changed = full[group.key].items() ^ full[baseline.key].items()
    return any(selector.admits(key) for key, _ in changed)


def _notes(pairing: Pairing, others: list[str], full: Full) -> list[str]:
    group, baseline = pairing.group, pairing.baseline
    notes = []
    for key in others:
        if key == "device":
            notes.append(f"other device: {group.device}, the baseline on {baseline.device}")
        elif key == "data":
            hashes = [(fingerprint(each) or "")[:8] for each in (group, baseline)]
            notes.append(f"other data: fingerprint {hashes[0]}, the baseline's {hashes[1]}")
        elif key == "parameters":
            ours, theirs = parameters_text(group), parameters_text(baseline)
            notes.append(f"another model of the same settings: {ours}, the baseline's {theirs}")
        else:
            ours, theirs = (full[each.key].get(key, ABSENT) for each in (group, baseline))
            notes.append(f"other settings: {key}={ours}, the baseline's {theirs}")
    if group.batch_size != baseline.batch_size:
        sizes = [batch_text(each) for each in (group, baseline)]
        both = group.largest_batch and baseline.largest_batch
        kind = "each the largest that fits" if both else "not the same"
        notes.append(f"batch sizes {sizes[0]} and {sizes[1]}, {kind}")
    for name in sorted(group.choices.keys() & baseline.choices.keys() - {"batch_size"}):
        ours, theirs = group.choices[name], baseline.choices[name]
        if ours != theirs:
            notes.append(f"{name} was chosen by measuring: {ours}, for the baseline {theirs}")
    for what, here, there in _surroundings(group, baseline):
        notes.append(f"other {what}: {here}, the baseline {there}")
    return notes


def _surroundings(group: Group, baseline: Group) -> list[tuple[str, str, str]]:
    """Where the two ran in other surroundings: what, the group's, the baseline's."""
    both = [
        (what, *(_environment(each.runs, key) for each in (group, baseline)))
        for what, key in SURROUNDINGS.items()
    ]
    return [(what, here, there) for what, here, there in both if here and there and here != there]


def _environment(runs: list[Run], name: str) -> str:
    """The values of a key of the environment, as text; empty where none is recorded."""
    values = {getattr(run.report.environment, name) for run in runs}
    texts = sorted(str(value) for value in values if value)
    if name == "git_commit":  # 40 digits, and "-dirty" perhaps
        texts = [f"{text[:12]}{text[40:]}" for text in texts]
    return ", ".join(texts)
