"""`report.json` as dataclasses. What was not measured is None, never 0.

Each field's metadata holds its help text, from which the JSON Schema takes its descriptions.
"""

# ruff: noqa: RUF009, `item` and `required` return dataclasses.field
from dataclasses import dataclass, field
from typing import Any

from mpt import __version__
from mpt.report.hashes import config_hash, group_hash
from mpt.report.json_values import encode
from mpt.schema import FLOAT8

SCHEMA_VERSION = 1
STATUSES = (
    "completed",
    "stopped_early",
    "diverged",
    "oom",
    "interrupted",
    "failed",
    "killed",
)

BOUND_BY_DATA = 0.2
"""Share of the time waited for data above which it is the data that bound a run's speed."""

# One entry of `diagnosis`; those of `mpt.numerics.diagnosis` have a loss_scale.
DIAGNOSIS: dict[str, Any] = {
    "type": "object",
    "required": ["message"],
    "properties": {
        "message": {"type": "string", "description": "What happened and what to try."},
        "step": {"type": "integer", "description": "Step at which it happened, from 1."},
        "path": {"type": "string", "description": "Layer in which it happened first."},
        "class": {"type": "string", "description": "Class of that layer."},
        "direction": {
            "enum": ["forward", "backward", "loss", "input", "weight"],
            "description": "Where in the step a number was first not finite.",
        },
        "largest_finite": {
            "type": "number",
            "description": "Largest finite magnitude that went into that layer, in this direction.",
        },
        "dtype": {"type": "string", "description": "Dtype that it computes in."},
        "float32_finite": {
            "type": ["boolean", "null"],
            "description": "Whether the same step in float32 is finite; null: not tried.",
        },
        "bad_rows": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Rows of the batch that hold NaN or Infinity, from 0.",
        },
        "loss_scale": {"type": "number", "description": "Loss scale of that step."},
    },
}


def item(help: str, default: Any = None, **schema: Any) -> Any:
    """A field with its help text; `schema` replaces what the type says in the JSON Schema."""
    metadata = {"help": help, "schema": schema}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def required(help: str, **schema: Any) -> Any:
    """A field without a default."""
    return field(metadata={"help": help, "schema": schema})


@dataclass
class Reason:
    rule: str = required("Rule that ended the run.")
    step: int | None = item("Step at which it held.")
    message: str = item("What happened and what to try.", "")


@dataclass
class Environment:
    python: str | None = item("Version of Python.")
    tensorflow: str | None = item("Version of TensorFlow.")
    keras: str | None = item("Version of Keras.")
    os: str | None = item("Operating system.")
    host: str | None = item("Host name.")
    git_commit: str | None = item("Commit of the working directory, '-dirty' if changed.")


@dataclass
class Device:
    kind: str | None = item("cpu or gpu.")
    name: str | None = item("Name of the processor or card.")
    count: int | None = item("Devices in use.")
    compute_capability: list[int] | None = item("CUDA compute capability, [major, minor].")
    driver: str | None = item("Version of the GPU driver.")
    concurrent_jobs: int | None = item("Most runs of mpt at once on this machine; 1: it was alone.")
    bfloat16_units: bool | None = item("It has instructions for products in bfloat16.")
    float16_units: bool | None = item("It has instructions for products in float16.")


@dataclass
class Precision:
    requested: str | None = item("Policy asked for.")
    policy: str | None = item("Policy used.")
    reason: str | None = item("Why this policy.")
    tf32: bool | None = item("TensorFloat-32 in float32 products.")
    fused_batch_norm: bool | None = item("BatchNormalization by the fused kernel.")
    table: list[dict[str, Any]] = item(
        "One row a layer.",
        list,
        type="array",
        items={
            "type": "object",
            "required": ["path", "class", "variable_dtype", "compute_dtype", "source"],
            "properties": {
                "path": {"type": "string"},
                "class": {"type": "string"},
                "variable_dtype": {"type": "string"},
                "compute_dtype": {"type": "string"},
                "source": {"enum": ["global", "override", "head", "layer"]},
                "quantization": {"type": "string"},
            },
        },
    )

    @property
    def name(self) -> str | None:
        """What was used: the policy, or float8, of which Keras has none."""
        return FLOAT8 if self.policy and self.requested == FLOAT8 else self.policy


@dataclass
class Execution:
    steps_per_execution: int | None = item("Training steps a device call.")
    jit_compile: bool | None = item("Steps compiled with XLA.")
    fused_kernels: list[str] = item(
        "Fused kernels that the step makes use of, besides BatchNormalization's.",
        list,
        type="array",
        items={"type": "string"},
    )
    strategy: str | None = item("tf.distribute strategy.")
    rematerialized: list[str] = item(
        "Blocks whose inside is computed again in the backward pass.",
        list,
        type="array",
        items={"type": "string"},
    )
    choice_reasons: dict[str, str] = item("Setting chosen by mpt: why.", dict)


@dataclass
class Model:
    parameters: int | None = item("Parameters, trainable or not.")
    forward_flops_per_example: float | None = item("Operations of the forward pass, FLOP.")


@dataclass
class Data:
    name: str | None = item("Dataset.")
    train_examples: int | None = item("Training examples.")
    validation_examples: int | None = item("Validation examples.")
    bad_rows: int | None = item("Rows left out as broken.")
    bad_row_names: list[str] = item(
        "The first 20 rows left out and what is wrong with each, then how many more there are.",
        list,
    )
    fingerprint: str | None = item("Hash of the data.")


@dataclass
class Training:
    steps: int | None = item("Steps done.")
    epochs: float | None = item("Epochs done or begun.")
    batch_size: int | None = item("Examples a step, over all devices.")
    resumed_from_step: int | None = item("Step from which the run went on.")
    rollbacks: list[dict[str, Any]] = item(
        "Times that the run went back to a good checkpoint: from_step, to_step, rule.", list
    )


@dataclass
class StepTime:
    median: float | None = item("Median, ms.")
    p10: float | None = item("10th percentile, ms.")
    p90: float | None = item("90th percentile, ms.")


@dataclass
class Throughput:
    examples_per_second: float | None = item("Examples trained on a second.")
    step_time_ms: StepTime | None = item("Time of a step.")
    warmup_steps: int | None = item("First steps left out.")
    measured_steps: int | None = item("Steps measured.")
    data_wait_fraction: float | None = item("Share of the time spent waiting for data, 0 to 1.")


@dataclass
class Memory:
    device_peak_bytes: int | None = item("Most device memory that tensors held, bytes.")
    device_in_use_bytes: int | None = item("Device memory that tensors held at the end, bytes.")
    host_rss_peak_bytes: int | None = item("Largest resident set of the process, bytes.")


@dataclass
class LossScale:
    mode: str | None = item("dynamic, fixed or none.")
    initial: float | None = item("Scale of the first step.")
    final: float | None = item("Scale of the last step.")
    min: float | None = item("Lowest scale.")
    max: float | None = item("Highest scale.")
    skipped_steps: int | None = item("Steps skipped for a non-finite gradient.")
    max_consecutive_skips: int | None = item("Most steps skipped in a row.")
    last_overflow_step: int | None = item("Last step skipped; null: none was.")
    history: list[list[float]] = item("[step, scale] at each change of the scale.", list)


@dataclass
class Compute:
    model_flops_per_second: float | None = item("3 times forward operations a second, FLOP/s.")
    utilization: float | None = item("Share of the measured peak, 0 to 1.")
    peak_flops_per_second: float | None = item(
        "Measured peak of a matrix product, all devices, FLOP/s."
    )
    datasheet_flops_per_second: float | None = item("The vendor's dense peak, all devices, FLOP/s.")
    float32_flops_fraction: float | None = item(
        "Share of the forward operations that is computed in float32 or wider, 0 to 1."
    )
    cast_bytes_per_example: int | None = item(
        "What casts between floating dtypes of different width write in the forward pass, those "
        "of weights left out, bytes."
    )


@dataclass
class Best:
    value: float | None = item("Best value of the monitored tag.")
    step: int | None = item("Step at which it was reached.")
    name: str | None = item("Monitored tag.")


@dataclass
class Metrics:
    final: dict[str, float | None] = item("Tag: last value.", dict)
    best: Best | None = item("Best evaluation.")


@dataclass
class WallSeconds:
    total: float | None = item("From the command's start to the report, s.")
    startup: float | None = item("Imports, building and tracing, s.")
    tuning: float | None = item("Choosing settings by measuring, s.")
    train: float | None = item("Training steps, s.")
    evaluate: float | None = item("Evaluations, s.")
    diagnose: float | None = item("Replaying steps that were not finite, s; null: there were none.")
    save: float | None = item("Saving, s.")


@dataclass
class RunReport:
    """The report of one run.

    It starts as `failed`: so reads the report of a run that never came to say otherwise.
    """

    run_id: str = required("Identity of the run.")
    name: str = required("Name of the run.")
    command: list[str] = required("Command line.")
    started_at: str = required("Start, UTC, ISO 8601.")
    config: dict[str, Any] = required("Resolved configuration.")
    ended_at: str | None = item("End, UTC, ISO 8601.")
    status: str = item("How the run ended.", "failed", enum=list(STATUSES))
    exit_code: int = item("Exit code of the process.", 1)
    reason: Reason | None = item("Why it ended before its last step.")
    environment: Environment = item("Versions and host.", Environment)
    device: Device = item("Device of the run.", Device)
    precision: Precision = item("Precision policy.", Precision)
    execution: Execution = item("How steps were run.", Execution)
    model: Model = item("Model.", Model)
    data: Data = item("Data.", Data)
    training: Training = item("Training done.", Training)
    throughput: Throughput = item("Speed after the warm-up.", Throughput)
    memory: Memory = item("Memory.", Memory)
    loss_scale: LossScale = item("Loss scale.", LossScale)
    compute: Compute = item("Arithmetic.", Compute)
    metrics: Metrics = item("Metrics.", Metrics)
    wall_seconds: WallSeconds = item("Where the time went.", WallSeconds)
    diagnosis: list[dict[str, Any]] = item(
        "What went wrong and what to try; keys that do not apply are absent.",
        list,
        type="array",
        items=DIAGNOSIS,
    )
    warnings: list[str] = item("What the user should know.", list)
    smoke_checks: list[dict[str, Any]] = item(
        "Invariants checked by a smoke run.",
        list,
        type="array",
        items={
            "type": "object",
            "required": ["name", "passed", "detail"],
            "properties": {
                "name": {"type": "string"},
                "passed": {"type": "boolean"},
                "detail": {"type": "string"},
            },
        },
    )
    artifacts: dict[str, str] = item("Name: path relative to the run's folder.", dict)
    schema_version: int = item("Version of these keys.", SCHEMA_VERSION, const=SCHEMA_VERSION)
    mpt_version: str = item("Version of mpt.", __version__)
    config_hash: str = item("Hash of the configuration without run_dir.", "")
    group_hash: str = item("Hash of the configuration without seed, name and run_dir.", "")

    def __post_init__(self) -> None:
        self.config_hash = self.config_hash or config_hash(self.config)
        self.group_hash = self.group_hash or group_hash(self.config)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON's own types; non-finite numbers are strings."""
        encoded = encode(self)
        first = ("schema_version", "mpt_version", "run_id", "name", "status", "exit_code", "reason")
        return {**{key: encoded[key] for key in first}, **encoded}
