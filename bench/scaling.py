"""What more devices, and more workers, of one machine come to: examples a second of one batch.

The cores are the same however many there are, so the best that can come of them is the speed of
one: the figures show what the division and the all-reduce cost.
"""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.measure import ROOT, environment, in_turn, synthetic, train_command

BATCH = {"mlp": 240, "resnet20": 120}  # a multiple of 2, 3 and 4
DEVICES, WORKERS = (1, 2, 4), (1, 2, 3)
STEPS, WARM = 28, 8


def devices(work: str, rounds: int) -> dict:
    """One, two and four logical devices of the CPU under device.strategy=mirrored."""
    return _measured(work, DEVICES, rounds, "device")


def workers(work: str, rounds: int) -> dict:
    """One, two and three processes on the loopback under device.strategy=multi_worker."""
    return _measured(work, WORKERS, rounds, "worker")


def _measured(work: str, sides: tuple[int, ...], rounds: int, kind: str) -> dict:
    names = {n: f"{n} {kind}{'s' if n > 1 else ''}" for n in sides}
    speeds = in_turn({names[n]: lambda n=n: _speed(work, n, kind) for n in sides}, rounds)
    reduced = {names[n]: _all_reduce(work, n, kind) for n in sides if n > 1}
    batch = BATCH[work]
    return {
        "examples a second": speeds,
        "all-reduce": {f"{name}: all-reduce ms": [ms] for name, ms in reduced.items()},
        "share": {
            f"{name}: its share of the step": [ms * median(speeds[name]) / batch / 1e3]
            for name, ms in reduced.items()
        },
        "target": "none",
    }


def _speed(work: str, count: int, kind: str) -> float:
    """Examples a second of all replicas together, as the chief's report has it."""
    words = [
        *synthetic(work, 8),
        *(f"batch_size={BATCH[work]}", f"dataset.examples={8 * BATCH[work]}"),
        *(f"trainer.steps={STEPS}", "trainer.epochs=null", "trainer.steps_per_execution=1"),
        *(f"trainer.log_every={STEPS}", f"trainer.warmup_steps={WARM}", "device=cpu"),
        *("precision=float32", "trainer.jit_compile=false", "telemetry.peak=false"),
    ]
    if kind == "device":
        words += ["device.strategy=mirrored", f"device.logical_cpus={count}"]
        environments: list[dict] = [{}]
    else:
        words.append("device.strategy=multi_worker")
        environments = _tf_configs(count)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _together([train_command(*words, run=run)] * len(environments), environments, folder)
        report = json.loads((run / "report.json").read_text())
    return report["throughput"]["examples_per_second"]


def _all_reduce(work: str, count: int, kind: str) -> float:
    environments = [{}] if kind == "device" else _tf_configs(count)
    command = [sys.executable, "-m", "bench.all_reduce", work, str(count)]
    said = _together([command] * len(environments), environments, ROOT)
    return max(json.loads(each.splitlines()[-1])["ms"] for each in said)


def _together(commands: list[list[str]], environments: list[dict], folder: str | Path) -> list[str]:
    """What the commands print, all at work at the same time."""
    processes = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**environment(), **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, own in zip(commands, environments, strict=True)
    ]
    said = [process.communicate() for process in processes]
    for process, (_, err) in zip(processes, said, strict=True):
        if process.returncode:
            raise SystemExit(f"{process.args}\n{err}")
    return [out for out, _ in said]


def _tf_configs(count: int) -> list[dict[str, str]]:
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]
    for each in taken:
        each.close()
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": t})} for t in tasks]
