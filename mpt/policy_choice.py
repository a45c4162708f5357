"""Which policy a run takes on its device, why, and what to expect of it."""

from dataclasses import dataclass

from mpt.device import Device
from mpt.errors import ConfigurationError
from mpt.schema import FLOAT8, FLOAT8_BASE, FLOAT8_CAPABILITY, POLICIES

# "precision.tf32: null" follows the policy: on where speed is what was asked for.
_TF32_POLICIES = ("tf32", "mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class Choice:
    """A policy, resolved for a device.

    Attributes:
        requested: the policy as configured, "auto", "tf32" and "float8" included.
        policy: Keras's name of it.
        tf32: whether float32 products on a GPU may use TensorFloat-32.
        reason: why this policy, in one sentence.
        warnings: what to expect of a choice that cannot pay on this device.
    """

    requested: str
    policy: str
    tf32: bool
    reason: str
    warnings: tuple[str, ...]

    @property
    def float8(self) -> bool:
        """Whether layers under the policy are to have their products in float8."""
        return self.requested == FLOAT8

    @property
    def name(self) -> str:
        """What to call it: Keras's name, or float8."""
        return FLOAT8 if self.float8 else self.policy


def choose(policy: str, device: Device, tf32: bool | None) -> Choice:
    """Resolve `policy` for `device`.

    "auto" takes mixed_bfloat16 on a GPU of compute capability 8.0 and up and on a CPU with
    bfloat16 units, mixed_float16 on a GPU of capability 7.x, float32 elsewhere.

    Args:
        policy: one of `mpt.schema.POLICIES`.
        device: what the run computes on.
        tf32: TensorFloat-32 on or off; None follows the policy.

    Raises:
        ConfigurationError: unknown policy, or policy "tf32" with tf32 switched off.
    """
    if policy not in POLICIES:
        raise ConfigurationError(
            f"There is no precision policy {policy!r}.",
            where="precision.policy",
            allowed=POLICIES,
            value=policy,
        )
    if policy == "tf32" and tf32 is False:
        raise ConfigurationError(
            "precision.policy=tf32 and precision.tf32=false contradict each other.",
            where="precision.tf32",
            remedy="set precision.policy=float32, or leave precision.tf32 out",
        )
    resolved, reason = _auto(device) if policy == "auto" else (policy, f"{policy} was asked for")
    if resolved == "tf32":
        resolved, reason = "float32", "float32 with TensorFloat-32 products was asked for"
    if resolved == FLOAT8:
        resolved, reason = FLOAT8_BASE, f"float8 products over {FLOAT8_BASE} were asked for"
    use_tf32 = policy_tf32(policy, resolved) if tf32 is None else tf32
    warnings = [] if policy == "auto" else _warnings(resolved, device)
    if policy == FLOAT8:
        warnings.append(_float8_warning(device))
    if (policy == "tf32" or tf32) and not device.has_tf32:
        warnings.append(
            f"TensorFloat-32 has no effect on {device.name}: it needs a GPU of compute capability "
            "8.0 or higher, so this runs as plain float32."
        )
    return Choice(policy, resolved, use_tf32, reason, tuple(warnings))


def policy_tf32(requested: str, resolved: str) -> bool:
    """Whether TensorFloat-32 is on where the configuration leaves it to the policy."""
    return requested in _TF32_POLICIES or resolved in _TF32_POLICIES


def _float8_warning(device: Device) -> str:
    said = "precision=float8 is experimental: Keras rounds to float8 and multiplies in bfloat16"
    if device.compute_capability is not None and device.compute_capability >= FLOAT8_CAPABILITY:
        return f"{said}, and only XLA (trainer.jit_compile) makes float8 products of that."
    return f"{said}; it shows what float8 would do to a model, and is slower on {device.name}."


def _auto(device: Device) -> tuple[str, str]:
    if device.kind == "cpu":
        if device.bfloat16_units:
            return "mixed_bfloat16", "auto: this CPU has bfloat16 units"
        return "float32", "auto: this CPU has no bfloat16 units (avx512_bf16 or amx_bf16)"
    if device.compute_capability is None:
        return "float32", "auto: the GPU's compute capability is unknown"
    major, minor = device.compute_capability
    capability = f"auto: GPU of compute capability {major}.{minor}"
    if major >= 8:
        return "mixed_bfloat16", f"{capability} has bfloat16 tensor cores"
    if major == 7:
        return "mixed_float16", f"{capability} has float16 tensor cores, and none for bfloat16"
    return "float32", f"{capability} has no tensor cores"


def _warnings(policy: str, device: Device) -> list[str]:
    """What to expect of a policy that was asked for by name."""
    warnings = []
    compute = policy.removeprefix("mixed_")
    if compute in ("float16", "bfloat16"):
        warnings += _slow(policy, compute, device)
        if policy == compute:
            warnings.append(
                f"precision.policy={policy} keeps the weights in {policy} too, and loses small "
                f"updates; mixed_{policy} keeps them in float32."
            )
    return warnings


def _slow(policy: str, compute: str, device: Device) -> list[str]:
    has_units = device.float16_units if compute == "float16" else device.bfloat16_units
    if has_units:
        return []
    if device.kind == "cpu":
        cause = f"this CPU has no {compute} units, and emulates it"
    elif device.compute_capability is None:
        cause = "the GPU's compute capability is unknown"
    else:
        major, minor = device.compute_capability
        cause = f"a GPU of compute capability {major}.{minor} has no {compute} tensor cores"
    return [
        f"{policy} is not expected to be faster than float32 here: {cause}. "
        "It shows what the numbers do, not what it gains."
    ]
