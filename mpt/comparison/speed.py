"""Is it faster? The ratio of examples a second, and whether it may be told."""

import math

from mpt.comparison.groups import fingerprint, throughputs
from mpt.comparison.result import Group, Interval, Pairing
from mpt.comparison.statistics import difference

# A difference below this is none that anyone would act on.
LEAST = 0.02


def judge(pairing: Pairing) -> None:
    """Fill `speedup`, `speed` and `speed_text`.

    The interval is Student's t on logarithms of throughput, so that it holds for ratios.
    """
    group, baseline = pairing.group, pairing.baseline
    obstacle = incomparable(group, baseline)
    if obstacle:
        pairing.speed_text = f"no verdict on speed: {obstacle}"
        return
    ours = [(seed, math.log(value)) for seed, value in throughputs(group)]
    theirs = [(seed, math.log(value)) for seed, value in throughputs(baseline)]
    found = difference(ours, theirs)
    if found is None:
        lacking = group if not ours else baseline
        pairing.speed_text = f"no verdict on speed: none of {lacking.label} was measured"
        return
    log = found.interval()
    low, high = (None if end is None else _exp(end) for end in (log.low, log.high))
    ratio = Interval(_exp(log.estimate), low, high, log.level, log.count, log.paired)
    pairing.speedup = ratio
    pairing.speed = outcome(ratio)
    pairing.speed_text = sentence(ratio, pairing.speed, baseline.label)


def incomparable(group: Group, baseline: Group) -> str | None:
    """Why the two groups' speeds must not be held against one another; None where they may."""
    shared = [each.label for each in (baseline, group) if each.concurrent]
    if shared:
        who = "its jobs" if len(shared) == 1 else "the jobs"
        of = f" ({shared[0]})" if len(shared) == 1 else ""
        return f"{who}{of} shared a machine with others at the same time"
    if group.device != baseline.device:
        return f"other devices, {group.device} and {baseline.device}"
    if fingerprint(group) != fingerprint(baseline):
        return "other data"
    if group.largest_batch and baseline.largest_batch:
        return None
    if group.batch_size is None or group.batch_size != baseline.batch_size:
        sizes = [
            "not recorded or varied" if each.batch_size is None else str(each.batch_size)
            for each in (group, baseline)
        ]
        return f"other batch sizes, {sizes[0]} and {sizes[1]}"
    return None


def outcome(ratio: Interval) -> str:
    """faster, slower, same or unclear.

    Faster or slower: the interval leaves 1 out, and the estimate is 2% away from it or more. Same:
    the whole interval is within 2% of 1, or the estimate is and the interval holds 1.
    """
    if ratio.low is None or ratio.high is None:
        return "unclear"  # one run has no spread
    is_near = abs(ratio.estimate - 1) < LEAST
    if (ratio.low > 1 or ratio.high < 1) and not is_near:
        return "faster" if ratio.estimate > 1 else "slower"
    within = ratio.low > 1 - LEAST and ratio.high < 1 + LEAST
    if within or (is_near and ratio.low <= 1 <= ratio.high):
        return "same"
    return "unclear"


def sentence(ratio: Interval, speed: str, baseline: str) -> str:
    """The outcome with its figures."""
    if ratio.low is None or ratio.high is None:
        return (
            f"{ratio.estimate:.2f} times the speed of {baseline}, in one run each: "
            "that measures no spread"
        )
    by = f"{ratio.count} pairs by seed" if ratio.paired else f"{ratio.count} runs, not paired"
    figures = f"{ratio.level:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}, {by}"
    if speed == "faster":
        return f"{ratio.estimate:.2f} times as fast as {baseline} ({figures})"
    if speed == "slower":
        return f"slower: {ratio.estimate:.2f} times the speed of {baseline} ({figures})"
    if speed == "same":
        return f"as fast as {baseline} ({figures})"
    return f"unclear: {ratio.estimate:.2f} times the speed of {baseline} ({figures})"


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
