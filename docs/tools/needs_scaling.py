"""Draws needs_scaling.svg in docs/images from a sweep of `mpt train recipe=needs_scaling`.

command: python docs/tools/needs_scaling.py SWEEP
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter


class Arm(NamedTuple):
    """How one arm of the study is named and drawn."""

    label: str
    color: str
    width: float
    dashes: str


# The widest first: three of the four lie on one another.
ARMS = {
    ("float32", "none"): Arm("float32", "#b9c0c8", 6.0, "-"),
    ("mixed_float16", "dynamic"): Arm("float16, dynamic scale", "#1f6fb4", 2.4, "-"),
    ("mixed_float16", "fixed"): Arm("float16, fixed at 2$^{24}$", "#e8a33d", 1.2, "--"),
    ("mixed_float16", "none"): Arm("float16, no scaling", "#c2362f", 1.6, "-"),
}
TAG = "validation/accuracy"
Curve = list[tuple[int, float]]


def curves(sweep: Path) -> dict[tuple[str, str], dict[int, Curve]]:
    """By policy and loss scale, each seed's curve: pairs of step and validation accuracy."""
    found: dict[tuple[str, str], dict[int, Curve]] = {}
    for path in sorted(sweep.glob("*/report.json")):
        config = json.loads(path.read_text())["config"]
        arm = (config["precision"]["policy"], config["loss_scale"]["mode"])
        rows = map(json.loads, (path.parent / "metrics.jsonl").read_text().splitlines())
        curve = [(row["step"], row[TAG]) for row in rows if TAG in row]
        found.setdefault(arm, {})[config["seed"]] = curve
    return found


def main(sweep: Path) -> None:
    """Draw each seed's curve, and beside them the accuracy of the last step."""
    found = curves(sweep)
    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "mpt", "font.family": "DejaVu Sans"})
    figure, (over_time, last) = plt.subplots(
        1, 2, figsize=(9, 4.1), width_ratios=[2.2, 1], layout="constrained"
    )
    for position, (key, arm) in enumerate(ARMS.items()):
        color = arm.color
        for seed, curve in sorted(found[key].items()):
            over_time.plot(
                *zip(*curve, strict=True),
                color=color,
                linewidth=arm.width,
                linestyle=arm.dashes,
                label=arm.label if seed == min(found[key]) else None,
            )
        final = [curve[-1][1] for _, curve in sorted(found[key].items())]
        offsets = [(seed - (len(final) - 1) / 2) * 0.16 for seed in range(len(final))]
        last.scatter(
            [position + offset for offset in offsets],
            final,
            s=36,
            color=color,
            edgecolor="#333333",
            linewidth=0.6,
            zorder=2,
        )
    over_time.set(xlabel="step", ylabel="validation accuracy", xlim=(0, None))
    over_time.set_title("Each line is one seed", loc="left", fontsize=10)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(ARMS))
    last.set_title("After the last step, by seed", loc="left", fontsize=10)
    last.set_xticks(range(len(ARMS)), ["float32", "dynamic", "fixed", "none"])
    last.set_xlim(-0.5, len(ARMS) - 0.5)
    for axes in (over_time, last):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(axis="y", color="#e4e7ea", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    output = Path(__file__).resolve().parents[1] / "images/needs_scaling.svg"
    figure.savefig(output, metadata={"Date": None})
    print(output)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
