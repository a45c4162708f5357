"""`mpt doctor`: all facts in turn, told as they come, and then what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from mpt import __version__, errors
from mpt.doctor import environment, hardware, table, tensorflow_facts
from mpt.doctor.facts import Facts
from mpt.doctor.findings import findings


def run(*, as_json: bool, quick: bool) -> int:
    """Examine this machine and tell.

    Args:
        as_json: one JSON object on stdout, and nothing else there.
        quick: without TensorFlow, which takes seconds to import.

    Returns:
        0; 1 where something was found that training fails of.
    """
    facts = Facts(__version__, environment.gather(), hardware.gather())
    if not as_json:
        _tell(table.lines(table.quick_rows(facts)))
    if not quick:
        facts = replace(facts, tensorflow=tensorflow_facts.gather())
        if not as_json and facts.tensorflow is not None:
            _tell(table.lines(table.tensorflow_rows(facts.tensorflow)))
    found = findings(facts)
    if as_json:
        print(json.dumps(table.document(facts, found), indent=2))
    else:
        _tell(["", *table.finding_lines(found)])
    return errors.FAILED if any(each.level == "problem" for each in found) else errors.OK


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)
