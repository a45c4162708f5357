"""The optimizer wrapper that scales the loss, skips non-finite steps, and counts them."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.loss_scale.settings import check_inner, check_settings
from mpt.telemetry import gradients as statistics
from mpt.telemetry.histograms import ExponentHistograms


@keras.saving.register_keras_serializable(package="mpt")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Scales the loss for `inner_optimizer`, skips non-finite steps, and counts them.

    Unlike Keras's, gradients are summed over the replicas before they are looked at, so that all
    replicas take the same answer; the inner optimizer's clipping then sees the global gradient.
    With the same settings the scale's path is that of Keras's optimizer and of
    torch.amp.GradScaler.

    Args:
        inner_optimizer: the optimizer that updates the weights, with no loss scaling of its own.
        mode: "dynamic"; "fixed", a constant scale; "none", scale 1. All three skip and count.
        initial_scale: scale of the first step; "none" ignores it.
        growth_steps: clean steps in a row before the scale grows.
        growth_factor: factor by which it grows, over 1.
        backoff_factor: factor by which it shrinks, between 0 and 1.
        min_scale: floor of a dynamic scale: at 0 the next clean step would compute 0/0.
        max_scale: ceiling of a dynamic scale.
        hysteresis: skipped steps in a row before the scale shrinks; each further one in that row
            shrinks it too.
        compute_dtype: dtype of the backward pass, whose subnormal range the statistics refer to.
        statistics_every: steps between measurements of max_abs, zero_fraction and
            subnormal_fraction; 0 never measures them.
        name: name of the optimizer.

    Variables (scalars, checkpointed with the optimizer):
        dynamic_scale: float32, the scale of the next step.
        step_counter: int64, clean steps since the scale last changed.
        attempted_steps, skipped_steps, consecutive_skips, max_consecutive_skips: int64.
        last_overflow_step: int64, number of the last skipped step, counted from 1; -1: none yet.
        finite: bool, whether the last step was applied.
        batch_loss: float32, the last step's unscaled loss, mean over the replicas.
        global_norm: float32, the last step's unscaled gradient norm, before clipping.
        max_abs, zero_fraction, subnormal_fraction: float32, of the scaled gradients; NaN until
            first measured.

    Attributes:
        histograms: told each step's scaled gradients, where it is set after `build`; it keeps its
            variables to itself, so that neither a checkpoint nor `variables` has them.

    Raises:
        ConfigurationError: a setting out of range, an inner optimizer that scales the loss itself,
            or, from `apply`, a train_step that never called `scale_loss`.
    """

    def __init__(
        self,
        inner_optimizer: keras.Optimizer,
        *,
        mode: str = "dynamic",
        initial_scale: float = 2.0**15,
        growth_steps: int = 2000,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        min_scale: float = 2.0**-14,
        max_scale: float = 2.0**24,
        hysteresis: int = 1,
        compute_dtype: str = "float16",
        statistics_every: int = 0,
        name: str | None = None,
    ):
        check_inner(inner_optimizer)
        super().__init__(
            inner_optimizer,
            initial_scale=float(initial_scale),
            dynamic_growth_steps=growth_steps,
            name=name,
        )
        self.mode = mode
        self.growth_steps = growth_steps
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.hysteresis = hysteresis
        self.compute_dtype = compute_dtype
        self.statistics_every = statistics_every
        self.histograms: ExponentHistograms | None = None
        self._loss_was_scaled = False
        check_settings(self)

    def build(self, var_list: list[keras.Variable]) -> None:
        """Creates the counters and the inner optimizer's slots; once, in the strategy's scope."""
        if self.built:
            return
        self._create_scalars()
        self.inner_optimizer.build(var_list)
        keras.Optimizer.build(self, var_list)

    def _create_scalars(self) -> None:
        """Creates the scale and the counters, once; they depend on no variable of the model."""
        if hasattr(self, "batch_loss"):
            return
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1 and not tf.distribute.in_cross_replica_context():
            raise ValueError(
                "Call optimizer.build(model.trainable_variables) in the strategy's scope, before "
                f"the first step on {replicas} replicas."
            )
        scale = 1.0 if self.mode == "none" else self.initial_scale
        self.step_counter = self._counter("step_counter", 0)
        self.dynamic_scale = self._number("dynamic_scale", scale)
        self.attempted_steps = self._counter("attempted_steps", 0)
        self.skipped_steps = self._counter("skipped_steps", 0)
        self.consecutive_skips = self._counter("consecutive_skips", 0)
        self.max_consecutive_skips = self._counter("max_consecutive_skips", 0)
        self.last_overflow_step = self._counter("last_overflow_step", -1)
        self.finite = self.add_variable((), "ones", dtype="bool", name="finite")
        self.global_norm = self._number("global_norm", math.nan)
        self.max_abs = self._number("max_abs", math.nan)
        self.zero_fraction = self._number("zero_fraction", math.nan)
        self.subnormal_fraction = self._number("subnormal_fraction", math.nan)
        self.batch_loss = self._number("batch_loss", 0.0)
        # Each replica's share, added up with the gradients; one replica makes no use of it, but can
        # go on from a checkpoint of several.
        self._share = keras.Variable(
            0.0,
            dtype="float32",
            trainable=False,
            aggregation="sum",
            synchronization="on_read",
            name="loss_share",
        )
        self._own_loss = self._share if replicas > 1 else self.batch_loss

    def _counter(self, name: str, value: int) -> keras.Variable:
        initializer = keras.initializers.Constant(value)
        return self.add_variable((), initializer, dtype="int64", name=name)

    def _number(self, name: str, value: float) -> keras.Variable:
        initializer = keras.initializers.Constant(value)
        return self.add_variable((), initializer, dtype="float32", name=name)

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """`loss` times the scale, and keeps `loss` as `batch_loss`.

        Args:
            loss: scalar, this replica's share, as Keras's `train_step` has it.

        Returns:
            A scalar, at least float32 where there is a scale: 2^15 is half of float16's range.

        Raises:
            ValueError: a loss that is not a scalar; not built, and several replicas.
        """
        self._loss_was_scaled = True
        loss = tf.convert_to_tensor(loss)
        if loss.shape.rank not in (None, 0):
            raise ValueError(
                f"scale_loss() takes one number, not a loss of shape {loss.shape}: reduce it "
                "first, as with tf.reduce_mean."
            )
        # As variables even before `build`, for a trace would keep a number for good.
        self._create_scalars()
        self._own_loss.value.assign(tf.cast(tf.stop_gradient(loss), tf.float32))
        if self.mode == "none":
            return loss
        wide = loss if loss.dtype == tf.float64 else tf.cast(loss, tf.float32)
        return wide * tf.cast(self.dynamic_scale, wide.dtype)

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads: Iterable[Any], trainable_variables: Any = None) -> None:
        """Unscales `grads` and applies them through the inner optimizer, if all are finite.

        Called in a replica's context. Gradients may be dense, `tf.IndexedSlices` or None.
        """
        if tf.distribute.in_cross_replica_context():
            raise ValueError("apply() must be called in a replica context.")
        gradients = list(grads)
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        if not self._loss_was_scaled:
            raise ConfigurationError(
                "The model's train_step never calls self.optimizer.scale_loss(loss), so that its "
                "loss is not scaled while its gradients would be unscaled.",
                where="model",
                remedy="call loss = self.optimizer.scale_loss(loss) inside the gradient tape.",
            )
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            self._step(gradients, variables)
        else:
            self._step_on_replicas(gradients, variables)

    def _step(self, gradients: list[Any], variables: list[Any]) -> None:
        finite = self._measure(gradients, variables)
        tf.cond(finite, lambda: self._apply_unscaled(gradients, variables), lambda: 0)
        self._count(finite)

    def _step_on_replicas(self, gradients: list[Any], variables: list[Any]) -> None:
        context = tf.distribute.get_replica_context()
        summed = [i for i, g in enumerate(gradients) if self._is_gradient(g, variables[i])]
        shares = [*(gradients[i] for i in summed), self._share.value.read_value()]
        *reduced, loss = context.all_reduce(tf.distribute.ReduceOp.SUM, shares)
        for i, gradient in zip(summed, reduced, strict=True):
            gradients[i] = gradient
        overwriting = [i for i, g in enumerate(gradients) if g is not None and i not in set(summed)]
        largest = _largest(context, [gradients[i] for i in overwriting])
        for i, value in zip(overwriting, largest, strict=True):
            gradients[i] = value
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]

        def decide(strategy: tf.distribute.Strategy, values: list[Any], loss: Any) -> None:
            self.batch_loss.assign(strategy.experimental_local_results(loss)[0])
            first = list(gradients)
            for i, value in zip(present, values, strict=True):
                first[i] = strategy.experimental_local_results(value)[0]
            finite = self._measure(first, variables)

            def on_replica(*own: Any) -> None:
                mine = list(gradients)
                for i, value in zip(present, own, strict=True):
                    mine[i] = value
                self._apply_unscaled(mine, variables)

            def apply_on_replicas() -> int:
                with _already_reduced(self.inner_optimizer):
                    strategy.extended.call_for_each_replica(on_replica, args=tuple(values))
                return 0

            # In cross-replica context, for a cond in a replica's cannot hold the merge of apply.
            tf.cond(finite, apply_on_replicas, lambda: 0)
            self._count(finite)

        context.merge_call(decide, args=([gradients[i] for i in present], loss))

    def _is_gradient(self, gradient: Any, variable: Any) -> bool:
        # float8 layers hand the new values of their scales through the gradients.
        return gradient is not None and not self._overwrite_variable_with_gradient(variable)

    def _apply_unscaled(self, gradients: list[Any], variables: list[Any]) -> int:
        if self.mode != "none":
            scale = tf.convert_to_tensor(self.dynamic_scale)
            gradients = [
                _divided(gradient, scale) if self._is_gradient(gradient, variable) else gradient
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        self.inner_optimizer.apply(gradients, variables)
        return 0

    def _measure(self, gradients: list[Any], variables: list[Any]) -> tf.Tensor:
        """Writes the gradients' statistics; returns whether the step can be applied (bool)."""
        pairs = list(zip(gradients, variables, strict=True))
        scaled = [(g, v) for g, v in pairs if self._is_gradient(g, v)]
        measured = [gradient for gradient, _ in scaled]
        if not measured:
            raise ValueError("No gradients provided for any variable.")
        norm, finite = statistics.norm_and_finite(measured)
        overwriting = [g for g, v in pairs if g is not None and not self._is_gradient(g, v)]
        if overwriting:
            finite = finite & statistics.all_finite(overwriting)
        self.global_norm.assign(norm / tf.convert_to_tensor(self.dynamic_scale))
        self._measure_extent(measured)
        if self.histograms is not None:
            self.histograms.count(scaled, tf.convert_to_tensor(self.attempted_steps) + 1)
        return finite

    def _measure_extent(self, gradients: list[Any]) -> None:
        if self.statistics_every < 1:
            return

        def measure() -> int:
            found = statistics.extent(gradients, self.compute_dtype)
            self.max_abs.assign(found.max_abs)
            self.zero_fraction.assign(found.zero_fraction)
            self.subnormal_fraction.assign(found.subnormal_fraction)
            return 0

        number = tf.convert_to_tensor(self.attempted_steps) + 1
        tf.cond(number % self.statistics_every == 0, measure, lambda: 0)

    def _count(self, finite: tf.Tensor) -> None:
        """Counters and the next scale, by selection rather than branches: all are scalars."""
        number = tf.convert_to_tensor(self.attempted_steps) + 1
        zero = tf.zeros_like(number)
        skips = tf.where(finite, zero, tf.convert_to_tensor(self.consecutive_skips) + 1)
        last = tf.convert_to_tensor(self.last_overflow_step)
        if self.mode == "dynamic":
            clean = tf.where(finite, tf.convert_to_tensor(self.step_counter) + 1, zero)
            scale = tf.convert_to_tensor(self.dynamic_scale)
            grow, shrink = clean >= self.growth_steps, skips >= self.hysteresis
            larger = tf.minimum(_times(scale, self.growth_factor), self.max_scale)
            smaller = tf.maximum(_times(scale, self.backoff_factor), self.min_scale)
            self.dynamic_scale.assign(tf.where(grow, larger, tf.where(shrink, smaller, scale)))
            self.step_counter.assign(tf.where(grow, zero, clean))
        self.attempted_steps.assign(number)
        self.skipped_steps.assign_add(tf.cast(~finite, tf.int64))
        self.consecutive_skips.assign(skips)
        longest = tf.convert_to_tensor(self.max_consecutive_skips)
        self.max_consecutive_skips.assign(tf.maximum(longest, skips))
        self.last_overflow_step.assign(tf.where(finite, last, number))
        self.finite.assign(finite)

    def telemetry(self) -> dict[str, tf.Tensor]:
        """The last step's readings as float32 scalars; called outside the replicas."""
        read = {
            "loss": self.batch_loss,
            "scale": self.dynamic_scale,
            "finite": self.finite,
            "skipped_steps": self.skipped_steps,
            "consecutive_skips": self.consecutive_skips,
            "global_norm": self.global_norm,
            "max_abs": self.max_abs,
            "zero_fraction": self.zero_fraction,
            "subnormal_fraction": self.subnormal_fraction,
        }
        return {
            name: tf.cast(tf.convert_to_tensor(variable.value), tf.float32)
            for name, variable in read.items()
        }

    def get_config(self) -> dict[str, Any]:
        settings = (
            *("mode", "initial_scale", "growth_steps", "growth_factor", "backoff_factor"),
            *("min_scale", "max_scale", "hysteresis", "compute_dtype", "statistics_every"),
        )
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        own = {key: getattr(self, key) for key in settings}
        return {"name": self.name, "inner_optimizer": inner, **own}


def _times(scale: tf.Tensor, factor: float) -> tf.Tensor:
    """Rounded once, as PyTorch does: a factor of 0.1 is not a float32 number."""
    return tf.cast(tf.cast(scale, tf.float64) * factor, tf.float32)


def _divided(gradient: Any, scale: tf.Tensor) -> Any:
    """`gradient` over `scale`, at least in float32: a half type would lose what was rescued."""
    if isinstance(gradient, tf.IndexedSlices):
        values = _divided(gradient.values, scale)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    if gradient.dtype in (tf.float16, tf.bfloat16):
        gradient = tf.cast(gradient, tf.float32)
    return gradient / tf.cast(scale, gradient.dtype)


def _largest(context: tf.distribute.ReplicaContext, values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Each value's largest over the replicas, element by element: so float8's scales fit all."""
    if not values:
        return []
    flat = tf.concat([tf.reshape(value, [-1]) for value in values], 0)
    largest = tf.reduce_max(context.all_gather(flat[tf.newaxis], axis=0), 0)
    pieces = tf.split(largest, [value.shape.num_elements() for value in values])
    return [tf.reshape(piece, v.shape) for piece, v in zip(pieces, values, strict=True)]


@contextmanager
def _already_reduced(optimizer: keras.Optimizer) -> Iterator[None]:
    """Keeps `optimizer` from summing gradients over the replicas a second time."""
    optimizer.__dict__["_all_reduce_sum_gradients"] = list
    try:
        yield
    finally:
        del optimizer.__dict__["_all_reduce_sum_gradients"]
