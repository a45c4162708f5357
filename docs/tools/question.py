"""Draws question.svg in docs/images: what reduced precision gains and loses, from one comparison.

command: mpt compare SWEEP --json > comparison.json
         python docs/tools/question.py comparison.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parents[1] / "images"
BLUE, GREY, BAND = "#1f6fb4", "#8a929a", "#eef1f4"


def main(file: Path) -> None:
    """Draw the first pairing of the comparison in `file`."""
    comparison = json.loads(file.read_text())
    pairing = comparison["pairings"][0]
    baseline = pairing["baseline"]
    mpl.rcParams |= {"font.size": 10, "svg.hashsalt": "question"}
    figure, (speed, memory, accuracy) = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
    figure.suptitle(comparison["verdicts"][0]["sentence"], fontweight="bold", x=0.01, ha="left")
    _draw(speed, pairing["speedup"], 1.0, f"speed, times {baseline}'s")
    of_device = pairing["memory_ratio"] is not None
    ratio = pairing["memory_ratio" if of_device else "host_memory_ratio"]
    named = "device" if of_device else "host"
    _draw(memory, {"estimate": ratio}, 1.0, f"{named} memory, times {baseline}'s")
    parity = pairing["parity"]
    margin = 100 * parity["margin"]
    accuracy.axvspan(-margin, margin, color=BAND)
    points = {key: 100 * parity["difference"][key] for key in ("estimate", "low", "high")}
    _draw(accuracy, points, 0.0, f"accuracy, points from {baseline}'s", reach=2.5 * margin)
    speed.set_yticks([0], [pairing["group"]])
    figure.savefig(IMAGES / "question.svg", metadata={"Date": None})
    print("docs/images/question.svg")


def _draw(
    axes: Any, interval: dict[str, float], neutral: float, title: str, reach: float | None = None
) -> None:
    """One quantity with its interval, beside the value that makes no difference."""
    value = interval["estimate"]
    low, high = interval.get("low", value), interval.get("high", value)
    axes.axvline(neutral, color=GREY, linewidth=1)
    axes.plot([low, high], [0, 0], color=BLUE, linewidth=3, solid_capstyle="butt")
    axes.plot(value, 0, "o", color=BLUE, markersize=9)
    above = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
    axes.annotate(f"{value:.2f}", (value, 0), **above)
    reach = reach or 1.4 * max(abs(low - neutral), abs(high - neutral), 0.25)
    axes.set_xlim(neutral - reach, neutral + reach)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
