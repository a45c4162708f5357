"""Is it faster? The ratio of examples a second, and whether it may be told."""

import math
from dataclasses import replace

from mpt.comparison.groups import batch_text, other_data, throughputs
from mpt.comparison.result import Group, Interval, Pairing
from mpt.comparison.statistics import difference

# A difference below this is none that anyone would act on.
LEAST = 0.02
# Two are as fast where the whole interval is within this of 1.
BAND = 0.05


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
    ratio = replace(log, estimate=_exp(log.estimate), low=low, high=high)
    pairing.speedup = ratio
    pairing.speed = outcome(ratio)
    if ratio.low is None:
        pairing.speed_text = (
            f"{ratio.estimate:.2f} times the speed of {baseline.label} {alone(pairing)}: "
            "that measures no spread"
        )
    else:
        pairing.speed_text = sentence(ratio, pairing.speed, baseline.label)


def alone(pairing: Pairing) -> str:
    """Which side has one run only: "in one run each", "with one run of float32"."""
    both = (pairing.group, pairing.baseline)
    single = [each.label for each in both if len(throughputs(each)) == 1]
    return "in one run each" if len(single) == 2 else f"with one run of {single[0]}"


def incomparable(group: Group, baseline: Group) -> str | None:
    """Why the two groups' speeds must not be held against one another; None where they may."""
    shared = [each.label for each in (baseline, group) if each.concurrent]
    if shared:
        return (
            f"the jobs of {' and of '.join(shared)} shared a machine with others at the same time"
        )
    if group.device != baseline.device:
        return f"other devices, {group.device} and {baseline.device}"
    if data := other_data(group, baseline):
        return data
    if group.largest_batch and baseline.largest_batch:
        return None
    if group.batch_size is None or group.batch_size != baseline.batch_size:
        return f"other batch sizes, {batch_text(group)} and {batch_text(baseline)}"
    return None


def outcome(ratio: Interval) -> str:
    """faster, slower, same or unclear.

    Faster or slower: the interval leaves 1 out, and the estimate is 2% away from it or more. Same:
    not so, and the whole interval is within 5% of 1.
    """
    if ratio.low is None or ratio.high is None:
        return "unclear"  # one run has no spread
    if (ratio.low > 1 or ratio.high < 1) and abs(ratio.estimate - 1) >= LEAST:
        return "faster" if ratio.estimate > 1 else "slower"
    return "same" if ratio.low > 1 - BAND and ratio.high < 1 + BAND else "unclear"


def sentence(ratio: Interval, speed: str, baseline: str) -> str:
    """The outcome with its figures, of an interval that has ends."""
    by = f"{ratio.count} pairs by seed" if ratio.paired else f"{ratio.count} runs, not paired"
    by += left_out(ratio)
    figures = f"{ratio.level:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}, {by}"
    if speed == "faster":
        return f"{ratio.estimate:.2f} times as fast as {baseline} ({figures})"
    if speed == "slower":
        return f"slower: {ratio.estimate:.2f} times the speed of {baseline} ({figures})"
    if speed == "same":
        return f"as fast as {baseline} ({figures})"
    return f"unclear: {ratio.estimate:.2f} times the speed of {baseline} ({figures})"


def left_out(interval: Interval) -> str:
    """How many runs had no partner, to be said after the pairs: ", 5 runs left out"."""
    if not interval.left_out:
        return ""
    return f", {interval.left_out} run{'s' if interval.left_out > 1 else ''} left out"


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
