"""Whatever a report holds: a comparison, or one error of the user's, and no traceback."""

import json
import random
from collections.abc import Iterator
from typing import Any

from mpt.comparison import compare
from mpt.errors import ConfigurationError
from mpt.pages import markdown

VALUES: tuple[Any, ...] = (None, 0, -1, 1e308, "x", "", "NaN", "-Infinity", [], {}, True, [1], 2.5)
NUMBERS: tuple[Any, ...] = (0, -1, 10**30, 1e308, -1e308, 5e-324, "NaN", "Infinity")
ROUNDS = 60
ROWS = [{"step": 1, "wall_seconds": 1.0, "validation/accuracy": 0.5}]


def nodes(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every (mapping, key) in `content`."""
    for key, value in content.items():
        yield content, key
        if isinstance(value, dict):
            yield from nodes(value)


def mutilate(content: dict[str, Any], choice: random.Random) -> None:
    for _ in range(choice.choice((0, 1, 3, 8))):
        node, key = choice.choice(list(nodes(content)))
        is_number = isinstance(node[key], int | float) and not isinstance(node[key], bool)
        if choice.random() < 0.1:
            del node[key]
        elif is_number and choice.random() < 0.8:  # else nearly no report would be readable
            node[key] = choice.choice(NUMBERS)
        else:
            node[key] = choice.choice(VALUES)


def test_no_report_is_too_broken(write_run: Any) -> None:
    choice = random.Random(3)
    files = [
        write_run(seed=seed, policy=policy, rows=ROWS) / "report.json"
        for seed in range(2)
        for policy in ("float32", "mixed_bfloat16")
    ]
    whole = [file.read_text() for file in files]
    compared = 0
    for _ in range(ROUNDS):
        for file, text in zip(files, whole, strict=True):
            content = json.loads(text)
            mutilate(content, choice)
            file.write_text(json.dumps(content))
        try:
            result = compare([write_run.folder], require="speedup>=1,parity,memory<=1,skipped<=1")
        except ConfigurationError:
            continue
        json.dumps(result.to_json(), allow_nan=False)
        markdown(result)
        compared += 1
    assert compared > ROUNDS / 2
