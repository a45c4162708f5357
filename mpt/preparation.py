"""From a configuration to the parts of a run, checked by a dry run, before anything is written."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mpt import device as devices
from mpt import (
    instantiate,
    objective,
    precision,
    rematerialization,
    replicas,
    starting_weights,
    tuning_cache,
)
from mpt.data import Data, class_weights
from mpt.data.errors import first_batch
from mpt.device import Device
from mpt.errors import ConfigurationError
from mpt.leaving import killed_after
from mpt.loss_scale import LossScaleOptimizer
from mpt.policy_choice import Choice, choose
from mpt.rematerialization import Blocks
from mpt.schema import TrainConfig
from mpt.stopping import Best
from mpt.telemetry.histograms import ExponentHistograms, Watched
from mpt.tuning_cache import NOTHING_KEPT, TuningCache
from mpt.variables import is_overwritten
from mpt.workers import ALONE, Team

NOT_SET_UP = ("strategy", "worker_seconds", "tuning_cache")

# Keras lets no callback set the learning rate where a schedule does, and says so as it happens.
SETS_LEARNING_RATE = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


@dataclass
class Prepared:
    """The parts of a run.

    Attributes:
        batch_size: examples a step, over all devices.
        compute_dtype: the dtype that most layers compute in.
        table: one row a layer: path, class, dtypes, and where its policy came from.
        total_steps: steps to train.
        warnings: what the user should know before it starts.
        blocks: of the model, that keep nothing of their inside for the backward pass.
        team: who trains together with this process.
        tuning_cache: what was measured on this machine before.
    """

    config: TrainConfig
    device: Device
    strategy: tf.distribute.Strategy
    choice: Choice
    data: Data
    model: keras.Model
    optimizer: LossScaleOptimizer
    batch_size: int
    compute_dtype: str
    table: list[dict[str, Any]]
    total_steps: int
    best: Best
    callbacks: list[keras.callbacks.Callback]
    warnings: list[str]
    blocks: Blocks = field(default_factory=list)
    team: Team = ALONE
    tuning_cache: TuningCache = NOTHING_KEPT

    @property
    def processors(self) -> int:
        """GPUs, or CPUs, that compute: a CPU's logical parts are one."""
        if self.device.kind == "gpu":
            return self.strategy.num_replicas_in_sync
        return self.team.size


def prepare(
    config: TrainConfig,
    allow: tuple[str, ...],
    *,
    team: Team = ALONE,
    batch_size: int | None = None,
    cpu_limit_mb: int | None = None,
    policy: str | None = None,
    trained: bool = False,
) -> Prepared:
    """Build everything that `config` names and try one batch through it.

    Args:
        team: who trains together with this process.
        batch_size: the size that batch_size=max came to.
        policy: what precision.policy=auto came to in the run that goes on.
        trained: the weights come from a checkpoint, so not from `init_from`.
        cpu_limit_mb: on a CPU, what this process may take from now on, MiB, where
            device.memory_limit_mb does not say.

    Raises:
        ConfigurationError: the configuration or the input cannot be used.
    """
    size = _batch_size(config, batch_size)
    device = prepare_device(config)
    if cpu_limit_mb is not None and device.kind == "cpu" and config.device.memory_limit_mb is None:
        devices.limit_process(cpu_limit_mb)
    strategy = _strategy(config, device, team)
    replicas.check_batch(size, strategy)
    _seed(config.seed)
    choice = _choice(config, device, policy)
    data = _data(config, size, allow)
    total_steps = config.trainer.steps or (config.trainer.epochs or 0) * data.steps_per_epoch
    with strategy.scope():
        model, loading = _model(config, choice, data, allow, trained=trained)
        optimizer, warnings = _optimizer(config, model, choice, total_steps, allow)
        _compile(config, model, optimizer, data, allow)
        _try(model, data)
        blocks = rematerialization.blocks(model, config.trainer.rematerialize)
        optimizer.build(model.trainable_variables)
        optimizer.histograms = _histograms(config, model)
    return Prepared(
        config=config,
        device=device,
        strategy=strategy,
        choice=choice,
        data=data,
        model=model,
        optimizer=optimizer,
        batch_size=size,
        compute_dtype=keras.DTypePolicy(choice.policy).compute_dtype,
        table=precision.table(model),
        total_steps=total_steps,
        best=_best(config, model, data),
        callbacks=_callbacks(config, allow, optimizer.inner_optimizer),
        warnings=[*choice.warnings, *precision.notes(model), *loading, *warnings, *data.warnings],
        blocks=blocks,
        team=team,
        tuning_cache=tuning_cache.opened(device, wanted=config.device.tuning_cache),
    )


def prepare_device(config: TrainConfig) -> Device:
    """Choose the device as `config` says, and set it up; before TensorFlow computes anything.

    Raises:
        ConfigurationError: there is none, or TensorFlow already runs with other settings.
    """
    own = {k: v for k, v in asdict(config.device).items() if k not in NOT_SET_UP}
    return devices.prepare(**own)


def _batch_size(config: TrainConfig, found: int | None) -> int:
    """The batch size of the configuration, or the one that its search has found."""
    size = config.batch_size if found is None else found
    if not isinstance(size, int):
        raise ConfigurationError(
            f"batch_size={size} is found by a search, and here there is none.",
            where="batch_size",
            remedy="give a number; a finished run's report.json has training.batch_size",
        )
    return size


def _seed(seed: int) -> None:
    """Seed Python, NumPy, TensorFlow and Keras."""
    keras.utils.set_random_seed(seed)
    # Else it is made from the clock when it is first asked for, or under determinism not at all.
    tf.random.set_global_generator(tf.random.Generator.from_seed(seed))


def _choice(config: TrainConfig, device: Device, before: str | None) -> Choice:
    """The policy, which for auto is the one `before`, if there is one; TF32 is set as it says."""
    asked = config.precision.policy
    policy = before if before and asked == "auto" else asked
    choice = choose(policy, device, config.precision.tf32)
    devices.set_tf32(choice.tf32)
    return choice


def _data(config: TrainConfig, batch_size: int, allow: tuple[str, ...]) -> Data:
    """The dataset, its classes weighted."""
    try:
        data = instantiate.call(
            config.dataset, where="dataset", allow=allow, batch_size=batch_size, seed=config.seed
        )
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigurationError(
            f"The data cannot be read: {error.strerror}.",
            where=f"dataset.path ({os.fspath(error.filename)})",
            remedy="see who may read the file and its folders"
            if isinstance(error, PermissionError)
            else None,
        ) from error
    return class_weights.weighted(data, config.class_weight)


def _try(model: keras.Model, data: Data) -> None:
    """Put one batch through the model, and hold shapes and dtypes against what they should be."""
    batch = first_batch(data)
    objective.check_shapes(model, data)
    precision.verify(model, batch)
    if type(model).call is not keras.Model.call:  # else it has its own train_step alone
        _build(model, batch)


def _callbacks(
    config: TrainConfig, allow: tuple[str, ...], optimizer: keras.Optimizer
) -> list[keras.callbacks.Callback]:
    callbacks = [
        instantiate.call(node, where=f"trainer.callbacks[{i}]", allow=allow)
        for i, node in enumerate(config.trainer.callbacks)
    ]
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        for index, callback in enumerate(callbacks):
            if isinstance(callback, SETS_LEARNING_RATE):
                raise ConfigurationError(
                    f"{type(callback).__name__} sets the learning rate, and so does the schedule.",
                    where=f"trainer.callbacks[{index}]",
                    remedy="leave out optimizer.schedule, or this callback",
                )
    return callbacks


def _strategy(config: TrainConfig, device: Device, team: Team) -> tf.distribute.Strategy:
    """The distribution strategy, for which the members of a team connect."""
    if team.size == 1:
        return devices.strategy(config.device.strategy, team.cluster)
    team.same("The kind and number of devices", [device.kind, device.count], "device")
    seconds = devices.CONNECTING_SECONDS
    late = f"error: the workers met, but TensorFlow did not connect them within {seconds:.0f} s"
    with team.connecting(2 * seconds), killed_after(seconds, late):
        return devices.strategy(config.device.strategy, team.cluster)


def _model(
    config: TrainConfig, choice: Choice, data: Data, allow: tuple[str, ...], *, trained: bool
) -> tuple[keras.Model, list[str]]:
    """The model under its policy, with the weights it starts from; and warnings about those."""
    model = precision.build(
        lambda: instantiate.call(
            config.model, where="model", allow=allow, shape=data.shape, classes=data.classes
        ),
        policy=choice.policy,
        in_float8=choice.float8,
        head=config.precision.head,
        overrides=config.precision.overrides,
    )
    if config.init_from is None or trained:
        return model, []
    return model, starting_weights.load(model, Path(config.init_from))


def _optimizer(
    config: TrainConfig,
    model: keras.Model,
    choice: Choice,
    total_steps: int,
    allow: tuple[str, ...],
) -> tuple[LossScaleOptimizer, list[str]]:
    """The optimizer in its loss-scaling wrapper, always explicit; and warnings about it."""
    settings = asdict(config.loss_scale)
    settings.pop("max_consecutive_skips")
    float16 = precision.computes_float16(model)
    warnings = []
    if settings["mode"] == "auto":
        settings["mode"] = "dynamic" if float16 else "none"
    elif settings["mode"] == "fixed" and not float16:
        warnings.append("loss_scale.mode=fixed has no use: no layer computes in float16.")
    elif settings["mode"] == "none" and float16:
        warnings.append(
            "loss_scale.mode=none with float16: gradients below 6e-8 become zero unseen."
        )
    inner = instantiate.call(
        config.optimizer, where="optimizer", allow=allow, total_steps=total_steps
    )
    return (
        LossScaleOptimizer(
            inner,
            compute_dtype="float16" if float16 else keras.DTypePolicy(choice.policy).compute_dtype,
            statistics_every=config.trainer.log_every if config.telemetry.gradients else 0,
            **settings,
        ),
        warnings,
    )


def _build(model: keras.Model, batch: Any) -> None:
    """Build what a first step would: the metrics too, by one batch's shapes."""
    try:
        model._symbolic_build(data_batch=batch)
    except ConfigurationError:  # of the optimizer, which is built too
        raise
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(
            f"The loss or a metric cannot be computed of what the model gives: {said}",
            where="loss",
            remedy="choose a loss and metrics that take such labels and outputs; auto does",
        ) from error


def _histograms(config: TrainConfig, model: keras.Model) -> ExponentHistograms | None:
    """The histograms of each layer's gradients, where there is a place to show them."""
    telemetry = config.telemetry
    if not (telemetry.gradients and telemetry.tensorboard and telemetry.histogram_every):
        return None
    trained = {id(v) for v in model.trainable_variables if not is_overwritten(v)}
    watched = [
        Watched(path, own, layer.compute_dtype)
        for path, layer in precision.walk(model)
        if (own := [v for v in layer._trainable_variables if id(v) in trained])
    ]
    every, deterministic = telemetry.histogram_every, config.device.deterministic
    return ExponentHistograms(watched, every, deterministic=deterministic) if watched else None


def _compile(
    config: TrainConfig,
    model: keras.Model,
    optimizer: LossScaleOptimizer,
    data: Data,
    allow: tuple[str, ...],
) -> None:
    """Compile the model with the configured loss and metrics."""
    objective.compile_model(
        model,
        optimizer,
        loss=instantiate.resolve(config.loss, where="loss", allow=allow),
        loss_weights=config.loss_weights,
        label_smoothing=config.label_smoothing,
        metrics=instantiate.resolve(config.metrics, where="metrics", allow=allow),
        data=data,
    )


def _best(config: TrainConfig, model: keras.Model, data: Data) -> Best:
    """The monitored tag: as configured, or the loss where the default tag does not exist."""
    parts = ["train"] if data.validation is None else ["validation", "train"]
    tags = [f"{part}/{name}" for part in parts for name in _metric_names(model)]
    tag = config.monitor
    if tag not in tags:
        if tag != TrainConfig.monitor:
            raise ConfigurationError(
                f"No such metric: {tag}.", where="monitor", allowed=tags, value=tag
            )
        tag = f"{parts[0]}/accuracy" if f"{parts[0]}/accuracy" in tags else f"{parts[0]}/loss"
    stopping = config.trainer.early_stopping
    mode = objective.monitored(tag, config.monitor_mode, model.metrics)
    return Best(tag, mode, stopping.min_delta, stopping.patience)


def _metric_names(model: keras.Model) -> list[str]:
    names: list[str] = []
    for name, value in model.get_metrics_result().items():
        names += [f"{name}_{key}" for key in value] if isinstance(value, dict) else [name]
    return names
