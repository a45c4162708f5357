"""Bars of step times as SVG files that follow the reader's light or dark."""

from collections.abc import Sequence
from typing import Any

from bench.targets import against, is_void
from bench.work import WORKS
from mpt.pages.svg import Figure

SIDES = {"mpt": "mpt", "keras": "Keras fit", "torch": "PyTorch"}
WIDTH, BARS, END = 720.0, 230.0, 530.0
BAR, GAP, TOP = 15.0, 16.0, 54.0
STYLE = """
svg{background:#fff;font:13px system-ui,sans-serif}
.ground{fill:#fff}text{fill:#24292f}.soft{fill:#57606a}.head{font-weight:600;font-size:15px}
.strong{font-weight:600}.mpt{fill:#1f6fb4}.keras{fill:#c9544b}.torch{fill:#d9982f}
.whisker{stroke:#24292f;stroke-width:1.2}
@media (prefers-color-scheme:dark){svg{background:#0d1117}.ground{fill:#0d1117}
text{fill:#e6edf3}.soft{fill:#9aa4ae}.mpt{fill:#58a6ff}.keras{fill:#e5776e}.torch{fill:#e3b341}
.whisker{stroke:#e6edf3}}
"""


def step_picture(policy: str, cases: Sequence[dict[str, Any]]) -> str:
    """Each case's sides, as long as their step takes; every case has a scale of its own.

    The line on a bar spans all rounds. What mpt takes of a peer's time is, as in the tables, the
    median of the rounds' ratios.
    """
    rows = sum(len(case["best"]) for case in cases)
    height = TOP + rows * (BAR + 3) + len(cases) * GAP
    said = "; ".join(
        f"{case['work']}: "
        + ", ".join(
            f"{SIDES[s]} {case['medians'][label]:.3g} ms" for s, label in case["best"].items()
        )
        for case in cases
    )
    title = f"Time of a training step under {policy}; shorter is better"
    picture = Figure(f"step-time-{policy}", title, said, WIDTH, height)
    picture.rectangle(0, 0, WIDTH, height, "ground")
    picture.text((14, 24), title, "head")
    picture.text(
        (14, 42), "Medians; the line spans all rounds. Each work has its own scale.", "soft"
    )
    y = TOP
    for case in cases:
        y = _case(picture, case, y) + GAP
    styled = str(picture).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return styled.replace("</desc>", f"</desc><style>{STYLE}</style>", 1) + "\n"


def _case(picture: Figure, case: dict[str, Any], y: float) -> float:
    """One case's bars from `y` on; where they end."""
    longest = max(max(case["times"][label]) for label in case["best"].values())
    work = WORKS[case["work"]]
    picture.text((14, y + 12), case["work"], "strong")
    picture.text((14, y + 28), f"batch {work.batch}" + ("; void" if is_void(case) else ""), "soft")
    for side, label in case["best"].items():
        scale = (END - BARS) / longest
        times, middle = case["times"][label], case["medians"][label]
        picture.text((BARS - 8, y + 12), SIDES[side], anchor="end")
        picture.rectangle(BARS, y, scale * middle, BAR, side)
        low, high = (BARS + scale * value for value in (min(times), max(times)))
        picture.line((low, y + BAR / 2), (high, y + BAR / 2), "whisker")
        for at in (low, high):
            picture.line((at, y + 4), (at, y + BAR - 4), "whisker")
        figure = against(case, side) if side != "mpt" and not is_void(case) else None
        more = f"; mpt takes {figure.value:.2f}" if figure else ""
        picture.text((max(high, BARS + scale * middle) + 8, y + 12), f"{ms(middle)} ms{more}")
        y += BAR + 3
    return y


def ms(value: float) -> str:
    """With three digits, as tables and pictures show it."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
