"""The tables and pictures of the documentation, out of a results file; nothing is measured."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import targets
from bench.measure import ROOT
from bench.pictures import ms, step_picture
from bench.profiles_tables import documented
from bench.results import FOLDER
from bench.targets import NAMES, Case, Figure, against, is_void, share
from bench.work import STEP_TIMES, WORKS

PAGE = ROOT / "docs/performance.md"
README = ROOT / "README.md"
IMAGES = ROOT / "docs/images"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PROFILES = ("<!-- profiles:begin -->", "<!-- profiles:end -->")
NONE = "not measured"


def write(
    results: dict[str, Any],
    page: Path = PAGE,
    images: Path = IMAGES,
    profiles: Path = FOLDER,
    readme: Path = README,
) -> None:
    """Put tables and profiles between the pages' markers, and the pictures beside them.

    Raises:
        ValueError: the page lacks a pair of markers, or has more than one.
    """
    cases = targets.step_times(results)
    policies = list(dict.fromkeys(case["policy"] for case in cases))
    for policy in policies:
        own = [case for case in cases if case["policy"] == policy]
        (images / image(policy)).write_text(step_picture(policy, own))
    whole = between(page.read_text(), text(results))
    taken = "\n".join(documented(profiles)) or f"{NONE.capitalize()}."
    page.write_text(between(whole, taken, *PROFILES))
    readme.write_text(between(readme.read_text(), brief(results)))


def image(policy: str) -> str:
    return f"step-time-{policy.replace('_', '-')}.svg"


def between(page: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `content` between two markers, in place of what was there.

    Raises:
        ValueError: there is not one marker of each kind, in this order.
    """
    before, *after = page.split(begin)
    if len(after) != 1 or after[0].count(end) != 1 or end in before:
        raise ValueError(f"the page needs one {begin} and, below it, one {end}")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after[0].partition(end)[2]}"


def text(results: dict[str, Any]) -> str:
    """All that stands between the markers."""
    cases = targets.step_times(results)
    parts = []
    for policy in dict.fromkeys(case["policy"] for case in cases):
        own = [case for case in cases if case["policy"] == policy]
        parts += [f"### {policy}", f"![Step times under {policy}](images/{image(policy)})"]
        parts += [times(own), ratios(own), *voids(own)]
    parts += ["### All together", summary(cases)]
    if others := other_cases(results):
        parts += ["### Start-up and telemetry", others]
    parts += [missing(results, cases), provenance(results["cases"].values())]
    return "\n\n".join(part for part in parts if part)


def brief(results: dict[str, Any]) -> str:
    """One row a network: what bfloat16 gains, and what a step takes of the peers' time."""
    cases = targets.step_times(results)
    gains = {(work, policy): ratio for work, policy, ratio in targets.speed_ups(cases)}
    by_name = {(case["work"], case["policy"]): case for case in cases}
    policies = list(dict.fromkeys(case["policy"] for case in cases))
    rows = []
    for work in dict.fromkeys(case["work"] for case in cases):
        row = [work]
        for policy in policies:
            case = by_name.get((work, policy))
            row += [_ratio(case, side) for side in NAMES]
        gained = [gains[key] for key in ((work, policy) for policy in policies) if key in gains]
        rows.append([*row, f"{1 / gained[0]:.2f}" if gained else NONE])
    sides = [f"{policy} / {name}" for policy in policies for name in NAMES.values()]
    heads = ["", *sides, "bfloat16, times float32's speed"]
    return f"{table(heads, rows)}\n\n{provenance(cases)}"


def _ratio(case: Case | None, side: str) -> str:
    figure = None if case is None or is_void(case) else against(case, side)
    return NONE if figure is None else f"{figure.value:.2f}"


def times(cases: Sequence[Case]) -> str:
    """The best setting of each side: medians of the rounds, lowest to highest."""
    rows = []
    for case in cases:
        row = [describe(case), spread(case, "mpt")]
        for side in ("keras", "torch"):
            label = case["best"].get(side)
            row.append(NONE if label is None else f"{spread(case, side)}; {_setting(label)}")
        losses = case["losses"]
        after = " / ".join(f"{losses['last'][side]:.4g}" for side in losses["last"])
        row.append(f"{after}{'; **void**' if is_void(case) else ''}")
        rows.append(row)
    heads = ["work", "mpt, ms", "Keras `fit`, ms", "PyTorch, ms", "their losses after 50 steps"]
    return table(heads, rows)


def ratios(cases: Sequence[Case]) -> str:
    """mpt over each peer, round by round, and the share of the ceiling, with what is aimed at."""
    rows = [
        [
            case["work"],
            *(shown(None if is_void(case) else against(case, side)) for side in NAMES),
            shown(share(case)),
        ]
        for case in cases
    ]
    heads = ["work", *(f"mpt / {name}" for name in NAMES.values()), "share of the matmul peak"]
    return table(heads, rows)


def shown(figure: Figure | None) -> str:
    """As "0.712 (0.700 to 0.731), aim 0.80: reached"."""
    if figure is None:
        return NONE
    said = f"{figure.value:.3f}"
    if figure.low is not None:
        said += f" ({figure.low:.3f} to {figure.high:.3f})"
    if figure.target is None:
        return said
    verdict = "reached" if figure.reached else "**missed**"
    return f"{said}, {'at least' if figure.least else 'at most'} {figure.target:.2f}: {verdict}"


def voids(cases: Iterable[Case]) -> list[str]:
    """Why comparisons are void."""
    said = []
    for case in filter(is_void, cases):
        losses = case["losses"]
        apart, limit = losses["apart"], losses["tolerance"]
        said.append(
            f"- {case['work']} is void: the losses lie {100 * apart['first']:.2g}% apart at the "
            f"first step (at most {100 * limit['first']:g}%) and {100 * apart['last']:.2g}% after "
            f"{losses['steps']} steps (at most {100 * limit['last']:g}%)."
        )
    return ["\n".join(said)] if said else []


def summary(cases: Sequence[Case]) -> str:
    """Geometric means, and what a policy gains over float32."""
    tables = [table(["geometric mean", "ratio"], [[n, shown(f)] for n, f in targets.means(cases)])]
    gains = targets.speed_ups(cases)
    if gains:
        found = {(work, policy): ratio for work, policy, ratio in gains}
        policies = list(dict.fromkeys(policy for _, policy, _ in gains))
        rows = [
            [work, *(f"{found[work, p]:.3f}" if (work, p) in found else NONE for p in policies)]
            for work in dict.fromkeys(work for work, _, _ in gains)
        ]
        heads = ["mpt's step", *(f"{p} / the best float32" for p in policies)]
        tables.append(table(heads, rows))
    return "\n\n".join(tables)


def other_cases(results: dict[str, Any]) -> str:
    """Start-up, and telemetry on against off."""
    rows = []
    for name, case in results["cases"].items():
        if case.get("kind") not in ("start-up", "telemetry"):
            continue
        figure = Figure(case["ratio"], case["target"], min(case["ratios"]), max(case["ratios"]))
        medians = ", ".join(f"{s} {t:.3g} {case['unit']}" for s, t in case["medians"].items())
        rows.append([name, medians, shown(figure)])
    return table(["case", "medians", "ratio"], rows) if rows else ""


def missing(results: dict[str, Any], cases: Sequence[Case]) -> str:
    """What was not measured, and why."""
    there = {(case["work"], case["policy"]) for case in cases}
    policies = list(dict.fromkeys(case["policy"] for case in cases))
    said = [f"{policy}: {reason}" for policy, reason in results.get("skipped", {}).items()]
    said += [f"{w} {p}" for p in policies for w in STEP_TIMES if (w, p) not in there]
    for case in cases:
        said += [
            f"{case['work']} {case['policy']}, {label}: {reason}"
            for label, reason in case["not_measured"].items()
        ]
    return "Not measured: " + "; ".join(said) + "." if said else ""


def provenance(cases: Iterable[dict[str, Any]]) -> str:
    """Which machines and versions the figures are of."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        machine, versions = case["machine"], case["versions"]
        units = "with" if machine["bfloat16_units"] else "without"
        said = (
            f"{machine['cores']} cores of an {machine['cpu']} {units} bfloat16 units, TensorFlow "
            f"{versions['tensorflow']}, Keras {versions['keras']}, Python {versions['python']}"
        )
        found.setdefault(said, []).append(case)
    return " ".join(_measured(said, own) for said, own in found.items())


def _measured(said: str, cases: Sequence[Case]) -> str:
    """When cases were measured, with PyTorch's version, which those alone tell that have it."""
    first, last = min(case["date"] for case in cases), max(case["date"] for case in cases)
    when = f"on {first}" if first == last else f"from {first} to {last}"
    also = [each for case in cases for each in case.get("also", {}).values()]
    torch = sorted({each["version"] for each in also if "version" in each})
    peers = "".join(f", PyTorch {version}" for version in torch)
    return f"Measured {when}: {said}{peers}."


def describe(case: Case) -> str:
    shape = "x".join(map(str, WORKS[case["work"]].shape))
    return f"{case['work']}, {shape}, batch {case['batch']}"


def spread(case: Case, side: str) -> str:
    values = case["times"][case["best"][side]]
    return f"{ms(case['medians'][case['best'][side]])} ({ms(min(values))} to {ms(max(values))})"


def _setting(label: str) -> str:
    return label.partition(": ")[2]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    lines.insert(1, "|---" * len(heads) + "|")
    return "\n".join(lines)
