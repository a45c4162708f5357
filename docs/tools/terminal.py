"""Draws what commands print, as a terminal shows it, into SVG files in docs/images.

command: python docs/tools/terminal.py        train.svg and doctor.svg
         python docs/tools/terminal.py LOG    test.svg, by what `make test | tee LOG` has printed
"""

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
HOME = "/home/me"  # stands for the scratch folder of the run
WIDTH = 120
SHOWN_STEPS = 2  # of the lines of steps, so many at the beginning and at the end
# As rich's own, without the web fonts that it asks for: the picture needs nothing else.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{
        font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
        font-variant-east-asian: full-width;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: arial; }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})"
       clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""


def picture(title: str, command: str, printed: str) -> str:
    """The SVG of a terminal in which `command` has printed `printed`."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    for line in printed.splitlines():
        style = "yellow" if line.startswith(("warning:", "note:")) else ""
        console.print(Text(line, style="dim" if line == "..." else style))
    name = re.sub(r"\W+", "-", title)
    return console.export_svg(title=title, theme=MONOKAI, code_format=SVG, unique_id=name)


def shortened(printed: str) -> str:
    """`printed` with "..." for the lines of steps in its middle."""
    lines = printed.splitlines()
    steps = [index for index, line in enumerate(lines) if line.startswith("step ")]
    left_out = set(steps[SHOWN_STEPS:-SHOWN_STEPS])
    kept = []
    for index, line in enumerate(lines):
        if index not in left_out:
            kept.append(line)
        elif index - 1 not in left_out:
            kept.append("...")
    return "\n".join(kept)


def printed_by(*words: str, folder: str) -> str:
    """What `mpt *words` prints on stdout in `folder`, with another name for that."""
    done = subprocess.run(
        [sys.executable, "-m", "mpt", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.replace(folder, HOME).replace(sys.executable, f"{HOME}/.venv/bin/python")


def tests(log: Path) -> str:
    """The command that pytest was called by, and its last lines, of what `make test` printed."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    (called,) = (line for line in lines if " -m pytest " in line)
    return "\n".join([called, "...", *lines[-3:]])


def main() -> None:
    """Draw those that can be drawn by what is given."""
    if len(sys.argv) > 1:
        draw("test", "make test", tests(Path(sys.argv[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        draw("train", "make train", shortened(printed_by("train", folder=folder)))
        draw("doctor", "mpt doctor", printed_by("doctor", folder=folder))


def draw(name: str, command: str, printed: str) -> None:
    """Write one picture."""
    file = IMAGES / f"{name}.svg"
    file.write_text(picture(command, command, printed), encoding="utf-8")
    print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
