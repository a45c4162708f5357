"""In which order layers are tried: the failing run's own diagnosis first, then the probe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt.bisection.layers import Layers


@dataclass(frozen=True)
class Ranked:
    """A layer that may be the cause.

    Attributes:
        source: what ranks it here: diagnosis, probe, or order (that of the layers' calls).
        reason: why, in words; empty where it is only the order.
    """

    path: str
    source: str
    reason: str = ""


def rank(
    layers: Layers,
    diagnosis: Sequence[Mapping[str, Any]],
    probed: Sequence[Mapping[str, Any]] | None,
) -> list[Ranked]:
    """Every layer that can be kept in float32, the likeliest cause first.

    Args:
        diagnosis: that of the failing run's report.
        probed: `ranking` of probe.json; None: there is none.
    """
    named = [Ranked(e["path"], "diagnosis", _line(e["message"])) for e in diagnosis if "path" in e]
    named += [Ranked(e["path"], "probe", _line(e.get("reason", ""))) for e in probed or ()]
    named += [Ranked(path, "order") for path in layers.candidates]
    first: dict[str, Ranked] = {}
    for entry in named:
        if entry.path in layers.candidates:
            first.setdefault(entry.path, entry)
    return list(first.values())


def read_probe(folder: Path) -> list[dict[str, Any]] | None:
    """`ranking` of the probe.json in `folder`; None where there is none to be read."""
    try:
        content = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        ranking = content["ranking"]
        return [entry for entry in ranking if isinstance(entry["path"], str)]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _line(text: Any) -> str:
    return (str(text).splitlines() or [""])[0]
