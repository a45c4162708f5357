"""An unbroken run on two logical CPU devices in ./unbroken, one in pieces in ./resumed."""

import json
import os
from pathlib import Path

from resumed_runs import ALLOWED, train

from mpt.cli import main

WORDS = (
    *("device.strategy=mirrored", "device.logical_cpus=2", "precision=mixed_float16"),
    *("dataset=digits", "dataset.examples=320", "loss_scale.growth_steps=4", "optimizer.ema=true"),
)

if __name__ == "__main__":
    os.environ["MPT_ALLOW"] = ALLOWED
    assert train(main, "unbroken", *WORDS) == 0
    for steps in ([4], [4, 13], [4, 13, 23]):
        rows = [["train_batch_end", step, "SIGTERM"] for step in steps]
        Path("signals.json").write_text(json.dumps(rows))
        assert train(main, "resumed", *WORDS) == 75
    assert train(main, "resumed", *WORDS) == 0
