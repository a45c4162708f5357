"""The configuration's closed part as typed dataclasses.

Each field's metadata carries what `mpt.config.check` enforces (`choices`, `ge`, `gt`, `le`, `lt`)
and its `help`. Nothing here imports TensorFlow, Hydra or OmegaConf's runtime; values shipped in
configs/ override the defaults below.
"""

from dataclasses import dataclass, field
from typing import Any

POLICIES = (
    "auto",
    "float32",
    "tf32",
    "mixed_float16",
    "mixed_bfloat16",
    "float16",
    "bfloat16",
    "float64",
    "float8",
)
HALF = ("float16", "bfloat16")
# Group of the configuration -> the key that names its choice.
MAIN_KEYS = {
    "model": "model.name",
    "dataset": "dataset.name",
    "precision": "precision.policy",
    "optimizer": "optimizer.name",
    "loss_scale": "loss_scale.mode",
}
FLOAT8 = "float8"
FLOAT8_BASE = "mixed_bfloat16"
"""What a layer is under whose products are in float8."""
FLOAT8_CAPABILITY = (8, 9)
"""Compute capability from which on a GPU has products in float8."""
LAYER_POLICIES = tuple(name for name in POLICIES if name not in ("auto", "tf32", FLOAT8))
RULE_POLICIES = (*LAYER_POLICIES, FLOAT8)
LOSS_SCALE_MODES = ("auto", "dynamic", "fixed", "none")

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; to import it costs 40 ms


def key(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field with its help text and bounds."""
    metadata = {"help": help, **bounds}
    if isinstance(default, list | dict):
        kind = type(default)
        content = default
        return field(default_factory=lambda: kind(content), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class PrecisionConfig:
    policy: str = key("auto", "Precision policy of the model.", choices=POLICIES)
    tf32: bool | None = key(
        None, "TensorFloat-32 in float32 products on a GPU; null follows the policy."
    )
    head: str = key(
        "float32",
        "Policy of the layers that make the outputs; 'policy' leaves them as the rest.",
        choices=("policy", *LAYER_POLICIES),
    )
    overrides: list[Any] = key(
        [], "Ordered {match, policy} rules on a layer's path or 'class:Name'; the last match wins."
    )
    fused_batch_norm: bool = key(
        True, "Compute BatchNormalization by TensorFlow's fused kernel where it fits."
    )


@dataclass
class LossScaleConfig:
    mode: str = key("auto", "How the loss is scaled.", choices=LOSS_SCALE_MODES)
    initial_scale: float = key(2.0**15, "Scale at the first step.", gt=0)
    growth_steps: int = key(2000, "Clean steps in a row before the scale grows.", ge=1)
    growth_factor: float = key(2.0, "Factor by which the scale grows.", gt=1)
    backoff_factor: float = key(0.5, "Factor by which it shrinks on overflow.", gt=0, lt=1)
    min_scale: float = key(2.0**-14, "Floor of the scale.", gt=0)
    max_scale: float = key(2.0**24, "Ceiling of the scale.", gt=0)
    hysteresis: int = key(1, "Overflows in a row before the scale shrinks.", ge=1)
    max_consecutive_skips: int = key(
        50, "Skipped steps in a row after which the run stops as diverged.", ge=1
    )


@dataclass
class EarlyStoppingConfig:
    patience: int | None = key(
        None, "Evaluations without improvement before the run stops; null never stops.", ge=1
    )
    min_delta: float = key(0.0, "Least change that counts as an improvement.", ge=0)


@dataclass
class StopConfig:
    max_loss: float | None = key(None, "Mean loss of a log interval that stops the run.")
    max_loss_ratio: float | None = key(
        1000.0, "Loss over that of the run's start that stops the run; null: any.", gt=1
    )
    zero_gradient_steps: int | None = key(
        50, "Steps in a row with all gradients 0 after which the run stops; null: any.", ge=1
    )
    flat_steps: int | None = key(
        None, "Steps without any change of the loss after which the run stops.", ge=1
    )


@dataclass
class TrainerConfig:
    epochs: int | None = key(None, "Passes over the training data (or steps).", ge=1)
    steps: int | None = key(None, "Training steps (or epochs).", ge=1)
    steps_per_execution: Any = key("auto", "Steps a device call: a number, or auto.", ge=1)
    jit_compile: Any = key("auto", "Compile the step with XLA: true, false, or auto.")
    fused_kernels: bool = key(True, "On a CPU, fused kernels in place of Keras's operations.")
    log_every: int = key(50, "Steps between two log entries.", ge=1)
    eval_every: int | None = key(None, "Steps between evaluations; null: each epoch.", ge=1)
    warmup_steps: int = key(20, "First steps left out of the throughput.", ge=0)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    on_divergence: str = key(
        "stop",
        "What follows a rule of divergence: end the run, or go back to the last good checkpoint.",
        choices=("stop", "rollback"),
    )
    max_rollbacks: int = key(3, "Times that a run goes back before it ends.", ge=1)
    checkpoint_every: int | None = key(500, "Steps between checkpoints; null: none.", ge=1)
    checkpoint_minutes: float | None = key(None, "Minutes between checkpoints.", gt=0)
    keep: int = key(2, "Newest checkpoints that are kept.", ge=1)
    keep_best: bool = key(True, "Keep the checkpoint of the best evaluation, too.")
    prefetch_batches: int = key(
        0, "Batches that wait in a GPU's memory for their step; 0: none.", ge=0
    )
    rematerialize: list[Any] = key(
        [],
        "Patterns of layers' paths; what one finds alike is a block whose inside is computed again "
        "in the backward pass.",
    )
    callbacks: list[Any] = key([], "Keras callbacks, each a node with _target_.")
    smoke_checks: bool = key(False, "Check the run's own invariants at its end.")


@dataclass
class DeviceConfig:
    accelerator: str = key("auto", "Device to train on.", choices=("auto", "cpu", "gpu"))
    strategy: str = key(
        "none",
        "Distribution: over all local devices, or over the processes that TF_CONFIG or Slurm name.",
        choices=("none", "mirrored", "multi_worker"),
    )
    worker_seconds: float = key(300.0, "How long a worker waits for the others to start, s.", gt=0)
    memory_growth: bool = key(True, "Let GPU memory grow as needed.")
    memory_limit_mb: int | None = key(
        None, "Limit of GPU memory, or of what a CPU run takes beyond its start, MiB.", ge=1
    )
    logical_cpus: int | None = key(
        None, "Split the CPU into this many logical devices, to try strategy=mirrored.", ge=1
    )
    deterministic: bool = key(False, "Deterministic kernels; nothing is chosen by measuring.")
    tuning_cache: bool = key(
        True, "Keep what is measured for later runs on this machine, and use what was."
    )


@dataclass
class TelemetryConfig:
    tensorboard: bool = key(True, "Write TensorBoard event files.")
    gradients: bool = key(True, "Gradient statistics at every logged step.")
    histogram_every: int = key(
        500, "Steps between two histograms of each layer's gradients; 0: none.", ge=0
    )
    peak: bool = key(True, "Measure the device's matmul peak, for compute/utilization.")


@dataclass
class TrainConfig:
    """The whole configuration of one run. `model`, `dataset` and `optimizer` are open groups."""

    seed: int = key(0, "Seed of weights, data order and dropout.", ge=0, lt=2**31)
    name: str = key("auto", "Name of the run; auto: model and precision.")
    loss: Any = key("auto", "Loss: auto, a Keras name, or a node with _target_.")
    loss_weights: Any = key(
        None, "Factor of the loss: a number, or a list or mapping of numbers by output."
    )
    label_smoothing: float = key(
        0.0, "Share of a label that is spread evenly over all classes.", ge=0, lt=1
    )
    class_weight: Any = key(
        None, "Factor of a class in the loss: a list, a mapping by class, or balanced."
    )
    metrics: Any = key("auto", "Metrics: auto, or a list of Keras names and _target_ nodes.")
    monitor: str = key("validation/accuracy", "Tag by which the best step is chosen.")
    monitor_mode: str = key(
        "auto",
        "Whether a lower or a higher value is better; auto knows losses and the usual metrics.",
        choices=("auto", "min", "max"),
    )
    batch_size: Any = key(128, "Examples a step, over all devices; max: the most that fit.", ge=1)
    run_dir: str = key(MISSING, "Folder of the run.")
    resume: str | None = key(None, "Folder of a run or a sweep that is to go on.")
    init_from: str | None = key(None, "Weights to start from: .keras, .weights.h5 or a run.")
    recipe: str | None = key(None, "Name of the recipe in use.")
    published: list[Any] = key(
        [], "Figures of others to show beside this run's: {source, and what it says}."
    )
    model: dict[str, Any] = key(MISSING, "Model: a choice, or _target_ and its arguments.")
    dataset: dict[str, Any] = key(MISSING, "Dataset: a choice, or _target_ and its arguments.")
    optimizer: dict[str, Any] = key(MISSING, "Optimizer: a choice, or _target_ and its arguments.")
    precision: PrecisionConfig = key(MISSING, "Precision policy.")
    loss_scale: LossScaleConfig = key(MISSING, "Loss scaling.")
    trainer: TrainerConfig = key(MISSING, "Training loop.")
    device: DeviceConfig = key(MISSING, "Device.")
    telemetry: TelemetryConfig = key(MISSING, "Telemetry.")
