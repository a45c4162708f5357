"""What a smoke run promises of itself: checked at its end, each a named pass or failure."""

import math
from pathlib import Path

from mpt.report import RunReport
from mpt.telemetry.tensorboard import read_tags

PROMISED_TAGS = (
    "train/loss",
    "throughput/examples_per_second",
    "throughput/steps_per_second",
    "throughput/step_time_ms",
    "memory/host_rss_bytes",
    "loss_scale/scale",
    "loss_scale/skipped_steps",
    "loss_scale/skip_rate",
    "loss_scale/consecutive_skips",
    "optimizer/learning_rate",
)
GRADIENT_TAGS = (
    "gradients/global_norm",
    "gradients/max_abs",
    "gradients/headroom_bits",
    "gradients/zero_fraction",
    "gradients/subnormal_fraction",
)
DEVICE_TAGS = ("memory/device_peak_bytes", "memory/device_in_use_bytes")

Check = dict[str, object]


def checks(result: RunReport, *, log_dir: Path | None, gradients: bool) -> list[Check]:
    """All invariants of a finished run.

    Args:
        log_dir: folder of the event file; None where TensorBoard is off.
        gradients: gradient statistics were asked for.
    """
    table, mode = result.precision.table, result.loss_scale.mode
    float16 = any(row["compute_dtype"] == "float16" for row in table)
    found = [
        policy_applied(table, _compute_dtype(str(result.precision.policy))),
        loss_scaled(float16, str(mode)),
        loss_finite(result.metrics.final.get("train/loss")),
    ]
    if log_dir is not None:
        promised = {*PROMISED_TAGS, *result.metrics.final}
        promised |= set(GRADIENT_TAGS if gradients else ())
        promised |= set(DEVICE_TAGS if result.device.kind == "gpu" else ())
        if result.throughput.data_wait_fraction is not None:
            promised.add("throughput/data_wait_fraction")
        if result.compute.model_flops_per_second is not None:
            promised.add("compute/model_flops_per_second")
        if result.compute.utilization is not None:
            promised.add("compute/utilization")
        found.append(tags_written(log_dir, promised))
    return found


def check(name: str, passed: bool, detail: str) -> Check:
    return {"name": name, "passed": bool(passed), "detail": detail}


def policy_applied(table: list[dict[str, str]], compute_dtype: str) -> Check:
    """Every layer that no rule, head or layer of its own excepts computes in the policy's dtype."""
    ruled = [row for row in table if row["source"] == "global"]
    wrong = [row["path"] for row in ruled if row["compute_dtype"] != compute_dtype]
    if wrong:
        detail = f"not in {compute_dtype}: {', '.join(wrong[:5])}"
    else:
        detail = f"{len(ruled)} of {len(table)} layers compute in {compute_dtype} by the policy"
    return check("policy_applied", bool(table) and not wrong, detail)


def loss_scaled(float16: bool, mode: str) -> Check:
    """Loss scaling is on where float16 is computed."""
    computed = "float16 is computed" if float16 else "no float16 is computed"
    return check("loss_scaled", not float16 or mode != "none", f"{computed}, loss scale: {mode}")


def loss_finite(loss: float | None) -> Check:
    """The last logged loss is a finite number."""
    shown = "was not measured" if loss is None else loss
    return check("loss_finite", loss is not None and math.isfinite(loss), f"train/loss {shown}")


def tags_written(log_dir: Path, promised: set[str]) -> Check:
    """The event file, read back by TensorBoard's own reader, holds every promised tag."""
    missing = sorted(promised - read_tags(log_dir))
    detail = f"missing: {', '.join(missing)}" if missing else f"{len(promised)} tags"
    return check("tags_written", not missing, detail)


def _compute_dtype(policy: str) -> str:
    """The dtype that layers compute in under a policy of this name."""
    return policy.removeprefix("mixed_")
