"""Two hundred runs, compared by the command as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RUNS, ROWS = 200, 500
SECONDS, BYTES = 5.0, 500e6
PROGRAM = """
import sys
from mpt.cli import main
code = main(sys.argv[1:])
assert not {"tensorflow", "keras"} & sys.modules.keys()
from mpt.device import host_rss
print("peak", host_rss()[1], file=sys.stderr)
sys.exit(code)
"""


def test_two_hundred_runs_in_five_seconds_and_500_mb(
    write_run: Any, learning: Any, tmp_path: Path
) -> None:
    series = {f"gradients/series_{index}": 0.123456789 * index for index in range(15)}
    policies = ("float32", "tf32", "mixed_bfloat16", "mixed_float16")
    rows = learning(0.98, count=ROWS, **{"validation/loss": 0.1}, **series)
    assert len(rows[0].keys() - {"step", "epoch", "wall_seconds"}) == 20
    files = {}
    for index in range(RUNS):
        seed, policy = divmod(index, len(policies))
        given = {"seed": seed, "policy": policies[policy], "speed": 1000 + 100 * policy + seed % 7}
        if policy not in files:
            files[policy] = write_run(rows=rows, **given) / "metrics.jsonl"
        else:
            os.link(files[policy], write_run(**given) / "metrics.jsonl")
    out, err, page = tmp_path / "out", tmp_path / "err", tmp_path / "page.html"
    words = ["compare", str(write_run.folder), "--json", "--html", str(page)]
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=stdout,
            stderr=stderr,
        )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, err.read_text()
    assert out.read_text().count('"path"') == RUNS
    assert "mixed_bfloat16" in page.read_text()
    # Processor time: the clock on the wall tells of other tests, too.
    assert used.ru_utime + used.ru_stime < SECONDS
    # Not ru_maxrss, which counts what this process held when it forked.
    peak = int(err.read_text().rpartition("peak ")[2])
    assert 20e6 < peak < BYTES
