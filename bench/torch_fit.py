"""The peer in PyTorch: a loop of one's own. Prints one JSON line.

    PYTHON_WITH_TORCH -m bench.torch_fit JSON

with work, policy, folder, warmup, steps, and of the setting: compile, channels_last. `losses: true`
runs `steps` steps and gives the loss of each; else their time.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.torch_models import FAMILIES, inputs, load
from bench.work import ARRAYS, DATA, WORKS, Work, arguments

HALVES = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def main() -> None:
    asked = json.loads(sys.argv[1])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tf32 = asked["policy"] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    step, batches = prepared(asked, device)
    print(json.dumps(run(step, batches, asked, device)))


def prepared(asked: dict[str, Any], device: str) -> tuple[Any, list]:
    """The training step that was asked for, on all cores, and the batches that it takes."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    case, folder = WORKS[asked["work"]], Path(asked["folder"])
    last = asked.get("channels_last", False)
    model = started(case, folder, last).to(device)
    batches = batched(case, folder, model, last, device)
    return make_step(model, case, asked["policy"], asked.get("compile", False), device), batches


def started(case: Work, folder: Path, channels_last: bool) -> torch.nn.Module:
    """The work's model, with its weights at the start."""
    family, settings = arguments(case)
    if family == "cnn":
        settings["channels_last"] = channels_last
    model = FAMILIES[family](shape=case.shape, classes=case.classes, **settings)
    with np.load(folder / ARRAYS) as arrays:
        load(model, dict(arrays))
    return model.to(memory_format=torch.channels_last) if channels_last else model


def batched(
    case: Work, folder: Path, model: torch.nn.Module, channels_last: bool, device: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All distinct batches, where and as the model takes them."""
    with np.load(folder / DATA) as data:
        x = torch.from_numpy(inputs(model, data["x"])).to(device)
        y = torch.from_numpy(data["y"].astype("int64")).to(device)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    return list(zip(x.split(case.batch), y.split(case.batch), strict=True))


def make_step(model: Any, case: Work, policy: str, compiled: bool, device: str) -> Any:
    """One training step: batch -> loss."""
    optimizer = torch.optim.Adam(model.parameters(), case.rate, eps=1e-7, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=policy == "mixed_float16")
    half = HALVES.get(policy)

    def objective(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None):
            out = model(x)
            return F.cross_entropy(out.flatten(0, -2), y.flatten())

    if compiled:
        objective = torch.compile(objective)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = objective(x, y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def run(step: Any, batches: list, asked: dict[str, Any], device: str) -> dict[str, Any]:
    """The steps, and what was asked of them."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if asked.get("losses"):
        losses = [step(*batches[number % len(batches)]).item() for number in range(asked["steps"])]
        return {"losses": losses, "version": torch.__version__}
    started_at = time.perf_counter()
    for number in range(asked["warmup"]):
        step(*batches[number % len(batches)])
    wait()
    start = time.perf_counter()
    for number in range(asked["warmup"], asked["warmup"] + asked["steps"]):
        step(*batches[number % len(batches)])
    wait()
    seconds = time.perf_counter() - start
    found = {
        "step_ms": 1e3 * seconds / asked["steps"],
        "warmup_seconds": start - started_at,
        "version": torch.__version__,
    }
    if device == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


if __name__ == "__main__":
    main()
