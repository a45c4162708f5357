"""Why 16 bits were not faster, from what was measured. Each reason has its number."""

from statistics import median

from mpt.comparison.groups import succeeded
from mpt.comparison.result import Group, Pairing
from mpt.report.numbers import size
from mpt.report.run_report import BOUND_BY_DATA, RunReport
from mpt.schema import FLOAT8, FLOAT8_CAPABILITY

# Below this share of the measured peak most of a step is not arithmetic.
IDLE = 0.1
SHORT_STEP_MS = 1.0
# Share of the FLOPs that stay in float32 above which the rest gains little.
WIDE = 0.1
# Arithmetic per byte that is written by a cast, FLOP/byte, below which casts are felt.
CAST_INTENSITY = 100.0
# A ratio above it may still turn out faster, so nothing is to be explained.
MAYBE_FASTER = 1.1


def why_not_faster(pairing: Pairing) -> list[str]:
    """The reasons, most important first; none where the group is no 16-bit one, or is faster."""
    dtype = half(pairing.group)
    if dtype is None or pairing.speed in ("faster", "none"):
        return []
    float8 = [each.policy == FLOAT8 for each in (pairing.group, pairing.baseline)]
    if half(pairing.baseline) == dtype and float8 != [True, False]:
        return []
    ratio = pairing.speedup
    if pairing.speed == "unclear" and ratio is not None and ratio.estimate > MAYBE_FASTER:
        return []
    group, baseline = pairing.group, pairing.baseline
    reasons = [
        _input(group, baseline),
        _float8(group),
        _units(group, dtype),
        _small(group),
        _wide(group),
        _casts(group),
        _tf32(baseline),
        _batch_norm(group),
        _xla(group, baseline),
    ]
    found = [reason for reason in reasons if reason]
    return found or ["nothing that was measured explains it"]


def half(group: Group) -> str | None:
    """The 16-bit dtype that a group computes in; None where it does not."""
    dtype = "bfloat16" if group.policy == FLOAT8 else group.policy.removeprefix("mixed_")
    return dtype if dtype in ("float16", "bfloat16") else None


def _over(group: Group, section: str, name: str) -> float | None:
    """The median over runs of what a section of the report holds."""
    values = [getattr(getattr(run.report, section), name) for run in succeeded(group)]
    known = [float(value) for value in values if value is not None]
    return median(known) if known else None


def _first(group: Group) -> RunReport:
    return next(iter(succeeded(group) or group.runs)).report


def _input(group: Group, baseline: Group) -> str | None:
    ours = _over(group, "throughput", "data_wait_fraction")
    theirs = _over(baseline, "throughput", "data_wait_fraction")
    if max(ours or 0.0, theirs or 0.0) <= BOUND_BY_DATA:
        return None
    shown = [f"{each:.0%}" if each is not None else "not measured" for each in (ours, theirs)]
    return (
        f"bound by input: it waits for data {shown[0]} of the time, {baseline.label} {shown[1]}; "
        "arithmetic that is faster cannot shorten that"
    )


def _units(group: Group, dtype: str) -> str | None:
    device = _first(group).device
    recorded = device.bfloat16_units if dtype == "bfloat16" else device.float16_units
    if recorded is None and device.compute_capability:
        least = 8 if dtype == "bfloat16" else 7
        recorded = device.compute_capability[0] >= least
    if recorded is not False:
        return None
    name = device.name or "this device"
    if device.kind == "cpu":
        return f"no units: {name} has no instructions for products in {dtype}, and emulates it"
    capability = ".".join(map(str, device.compute_capability or []))
    which = f" (compute capability {capability})" if capability else ""
    return f"no units: {name}{which} has no tensor cores for {dtype}"


def _float8(group: Group) -> str | None:
    """Rounding to float8 costs; what it saves is saved in a float8 product only."""
    if group.policy != FLOAT8:
        return None
    report = _first(group)
    capability = tuple(report.device.compute_capability or ())
    said = "float8: Keras rounds to it and multiplies in bfloat16"
    if capability < FLOAT8_CAPABILITY:
        return f"{said}, and {report.device.name or 'this device'} has no float8 products"
    if not report.execution.jit_compile:
        return f"{said}: only XLA makes float8 products of that, and XLA is off"
    return None


def _small(group: Group) -> str | None:
    used = _over(group, "compute", "utilization")
    step = None if group.step_time_ms is None else group.step_time_ms.median
    is_short = step is not None and step < SHORT_STEP_MS
    if not is_short and (used is None or used >= IDLE):
        return None
    parts = []
    if used is not None:
        parts.append(f"its arithmetic takes {used:.1%} of the device's measured peak")
    if step is not None:
        parts.append(f"a step takes {step:.3g} ms")
    remedy = "a larger batch or model" + ("" if not is_short else ", or more steps_per_execution")
    return f"too small: {', '.join(parts)}, so overhead or memory decides; try {remedy}"


def _wide(group: Group) -> str | None:
    share = _over(group, "compute", "float32_flops_fraction")
    if share is None or share <= WIDE:
        return None
    return f"{share:.0%} of the forward pass's FLOPs are still in float32 or wider"


def _casts(group: Group) -> str | None:
    written = _over(group, "compute", "cast_bytes_per_example")
    flops = _over(group, "model", "forward_flops_per_example")
    if not written or not flops or flops / written >= CAST_INTENSITY:
        return None
    return (
        f"casts: {size(written)} an example are written by changing dtypes in the forward pass, "
        f"for {flops / written:.0f} FLOPs a byte"
    )


def _tf32(baseline: Group) -> str | None:
    report = _first(baseline)
    if report.device.kind != "gpu" or not report.precision.tf32 or half(baseline):
        return None
    return (
        f"the baseline has TF32 on: {baseline.label} already computes its products on tensor "
        "cores; precision=float32 does not"
    )


def _batch_norm(group: Group) -> str | None:
    report = _first(group)
    layers = sum(row.get("class") == "BatchNormalization" for row in report.precision.table)
    if report.precision.fused_batch_norm is not False or not layers:
        return None
    cause = " (XLA is on)" if report.execution.jit_compile else ""
    return f"{layers} BatchNormalization layers run unfused, in float32{cause}"


def _xla(group: Group, baseline: Group) -> str | None:
    ours, theirs = (_first(each).execution.jit_compile for each in (group, baseline))
    if ours is None or theirs is None or ours == theirs:
        return None
    words = {True: "on", False: "off"}
    return f"XLA is {words[ours]} here and {words[theirs]} for {baseline.label}"
