"""What checkpoints cost a run of resnet-20, every 50 steps."""

import json
from statistics import median

from bench.measure import compared, in_turn, synthetic, trained
from mpt.checkpoint import Checkpoints

EVERY = 50
STEPS = 170  # three checkpoints, and the one that every run ends with
TARGET = 1.02


def cost(rounds: int) -> dict:
    """Training and saving with checkpoints every 50 steps against without, s; the sides in turn.

    That is noisier than the cost. So it is measured alone, too: the last checkpoint holds how long
    the earlier ones took, model.keras not among them.
    """
    alone = []

    def seconds(every: int | None) -> float:
        words = [*synthetic("resnet20", 64), "precision=float32", f"trainer.steps={STEPS}"]
        words += ["trainer.epochs=null", "trainer.keep_best=false"]
        with trained(*words, f"trainer.checkpoint_every={every or 'null'}") as run:
            report = json.loads((run / "report.json").read_text())
            found = Checkpoints(run).newest()
        assert found is not None
        saving = found.state["training"]["seconds"]["save"]
        if every:
            one = saving / (STEPS // every)
            step = report["throughput"]["step_time_ms"]["median"] / 1e3
            alone.append((1e3 * one, one / (every * step)))
        return report["wall_seconds"]["train"] + saving

    sides = {f"every {EVERY}": lambda: seconds(EVERY), "none": lambda: seconds(None)}
    result = compared(in_turn(sides, rounds), f"every {EVERY}", "none", TARGET, "s")
    milliseconds, shares = zip(*alone, strict=True)
    return {
        **result,
        "alone_ms": {"a checkpoint": median(milliseconds)},
        "alone_share": median(shares),
        "alone": alone,
    }
