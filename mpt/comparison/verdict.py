"""The answer in a sentence, never stronger than the evidence, and the reasons behind it."""

from mpt.comparison.groups import fails, succeeded
from mpt.comparison.result import Group, Pairing, Verdict
from mpt.comparison.speed import LEAST, alone

# A ratio of memory that is worth a recommendation of its own.
LEAN = 0.9
# Ratios of memory within this of 1 are told as the same.
SAME_MEMORY = 0.02


def verdict(baseline: Group, pairings: list[Pairing], scope: str, lost: int = 0) -> Verdict:
    """What to use, of a baseline and the groups that are held against it.

    Args:
        lost: runs whose report is not there or cannot be read. Some may have failed, of whichever
            group, so that a recommendation says that they are not counted.
    """
    found = _verdict(baseline, pairings, scope)
    if lost and found.recommended is not None:
        found.sentence += f"; {_lost(lost)}"
    elif lost:
        found.reasons.append(_lost(lost))
    return found


def _verdict(baseline: Group, pairings: list[Pairing], scope: str) -> Verdict:
    reasons = [reason for pairing in pairings for reason in _reasons(pairing)]
    if not pairings:
        said = f"nothing to compare {baseline.label} with"
        return Verdict(said, _failures(baseline), scope)
    if not succeeded(baseline):
        said = f"no answer: no run of the baseline, {baseline.label}, came to its end"
        return Verdict(said, _failures(baseline) + reasons, scope)
    reasons = _failures(baseline) + reasons
    sound = [pairing for pairing in pairings if not fails(pairing.group)]
    proven = [p for p in sound if p.speed == "faster" and _is_kept(p)]
    gains = [p for p in sound if p.speed == "same" and _is_kept(p) and _gains_otherwise(p)]
    if proven or gains:
        best = _widest_of_the_fastest(proven) if proven else gains[0]
        said = f"use {best.group.label}: {_summary(best)}"
        return Verdict(said, reasons, scope, best.group.label)
    undecided = [p for p in sound if not _is_refuted(p)]
    trades = [p for p in undecided if _is_trade(p)]
    if undecided:
        undecided = [p for p in undecided if not _is_trade(p)] or trades
        best = max(undecided, key=lambda p: (p.speed == "faster", _ratio(p)))
        said = f"no answer yet on {best.group.label}"
        if _is_trade(best):
            said = f"a trade between {baseline.label} and {best.group.label}"
        said += f": {_summary(best)}"
        return Verdict(said, reasons, scope)
    against = "; ".join(f"{p.group.label} {_refutation(p)}" for p in pairings)
    return Verdict(f"stay with {baseline.label}: {against}", reasons, scope, baseline.label)


def memory_text(pairing: Pairing) -> str:
    """ "41% less memory", of the host on a CPU; how many runs measured it where not all did."""
    kind, ratio = _memory(pairing)
    if ratio is None:
        return f"{kind} not measured"
    measured, count = coverage(pairing, host=pairing.memory_ratio is None)
    of = f" (measured in {measured} of {count} runs)" if measured < count else ""
    if abs(ratio - 1) <= SAME_MEMORY:
        return f"the same {kind}{of}"
    return f"{abs(1 - ratio):.0%} {'less' if ratio < 1 else 'more'} {kind}{of}"


def _memory(pairing: Pairing) -> tuple[str, float | None]:
    """What decides, and its ratio: the device's; on a CPU, where that is the host's, the host's.

    That a process takes less of the host does not make room on a GPU.
    """
    if pairing.memory_ratio is not None:
        return "memory", pairing.memory_ratio
    kinds = {r.report.device.kind for r in (*pairing.group.runs, *pairing.baseline.runs)} - {None}
    if kinds - {"cpu"}:
        return "device memory", None
    ratio = pairing.host_memory_ratio
    return ("memory" if ratio is None else "host memory"), ratio


def coverage(pairing: Pairing, *, host: bool) -> tuple[int, int]:
    """Runs that measured a memory, and runs, of the side that measured it in the fewer."""
    found = []
    for group in (pairing.group, pairing.baseline):
        measured = group.host_memory if host else group.device_memory
        found.append((0 if measured is None else measured.count, len(succeeded(group))))
    return min(found, key=lambda each: each[0] / max(each[1], 1))


def _leanness(pairing: Pairing) -> float | None:
    """The ratio of memory; None where it is not known of at least half of the runs."""
    measured, count = coverage(pairing, host=pairing.memory_ratio is None)
    return _memory(pairing)[1] if 2 * measured >= count else None


def _summary(pairing: Pairing) -> str:
    parts = [_speed(pairing), memory_text(pairing), _metric(pairing)]
    return ", ".join(parts) + _differs(pairing)


def _differs(pairing: Pairing) -> str:
    return f", but it differs in {', '.join(pairing.differs_in)} too" if pairing.differs_in else ""


def _speed(pairing: Pairing) -> str:
    ratio = pairing.speedup
    if ratio is None:
        return pairing.speed_text
    if ratio.low is None:
        return f"{_times(ratio.estimate)} {alone(pairing)}, which measures no spread"
    if pairing.speed in ("faster", "slower"):
        return _times(ratio.estimate)
    if pairing.speed == "same":
        return "as fast"
    return f"speed unclear ({ratio.estimate:.2f} times, {ratio.low:.2f} to {ratio.high:.2f})"


def _times(ratio: float) -> str:
    """A ratio of speeds: "1.8 times faster", "1.3 times slower"."""
    factor, word = (ratio, "faster") if ratio >= 1 else (1 / ratio, "slower")
    return f"{factor:.2g} times {word}" if factor >= 1.15 else f"{factor - 1:.0%} {word}"


def _metric(pairing: Pairing) -> str:
    if pairing.parity is None:
        return "no metric compared"
    name = pairing.parity.tag.rsplit("/", 1)[-1]
    if pairing.parity.outcome == "same":
        return f"{name} the same within {pairing.parity.within}"
    if pairing.parity.outcome == "not_enough_seeds":
        return f"{name}: not enough seeds to say ({pairing.parity.difference.count} of 5)"
    return f"{name} {pairing.parity.outcome}"


def _widest_of_the_fastest(proven: list[Pairing]) -> Pairing:
    """Of those as fast as the fastest, as far as one would care, the first: the widest."""
    best = max(map(_ratio, proven))
    return next(p for p in proven if _ratio(p) >= best / (1 + LEAST))


def _gains_otherwise(pairing: Pairing) -> bool:
    """Whether it is better than the baseline in something else than speed."""
    assert pairing.parity is not None
    ratio = _leanness(pairing)
    return pairing.parity.outcome == "better" or (ratio is not None and ratio <= LEAN)


def _is_trade(pairing: Pairing) -> bool:
    """Whether it costs speed and gains something else: which counts more is the reader's to say."""
    return pairing.speed == "slower" and _is_kept(pairing) and _gains_otherwise(pairing)


def _is_kept(pairing: Pairing) -> bool:
    return pairing.parity is not None and pairing.parity.outcome in ("same", "better")


def _is_refuted(pairing: Pairing) -> bool:
    """Whether the evidence is against it: more would not be asked for."""
    outcome = pairing.parity.outcome if pairing.parity is not None else None
    if outcome in ("worse", "better"):
        return outcome == "worse"
    ratio = _leanness(pairing)
    if pairing.speed == "same":  # what is not known is not the same
        return ratio is not None and ratio > LEAN
    return pairing.speed == "slower" and (ratio is None or ratio > LEAN)


def _refutation(pairing: Pairing) -> str:
    group = pairing.group
    if fails(group):
        failed = sum(group.failures.values())
        return f"failed in {failed} of {len(group.runs)} runs ({'; '.join(group.failures)})"
    if pairing.parity is not None and pairing.parity.outcome == "worse":
        return f"has a worse {pairing.parity.tag.rsplit('/', 1)[-1]}{_differs(pairing)}"
    said = "is as fast" if pairing.speed == "same" else f"is {_speed(pairing)}"
    return f"{said}, with {memory_text(pairing)}{_differs(pairing)}"


def _lost(count: int) -> str:
    if count == 1:
        return "1 folder without a readable report is not counted"
    return f"{count} folders without a readable report are not counted"


def _ratio(pairing: Pairing) -> float:
    return pairing.speedup.estimate if pairing.speedup is not None else 0.0


def _reasons(pairing: Pairing) -> list[str]:
    label = pairing.group.label
    said = [f"{label}: {pairing.speed_text}", f"{label}: {memory_text(pairing)}"]
    if pairing.parity is not None:
        said.append(f"{label}: {pairing.parity.text}")
    said += [f"{label}: {note}" for note in pairing.notes]
    said += _failures(pairing.group)
    said += [f"{label}: {reason}" for reason in pairing.why_not_faster]
    return said


def _failures(group: Group) -> list[str]:
    return [
        f"{group.label}: {count} of {len(group.runs)} runs failed, {cause}"
        for cause, count in group.failures.items()
    ]
