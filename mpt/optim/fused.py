"""Keras's optimizers with TensorFlow's fused update kernels, and with steps counted right.

Keras's update of one variable is a dozen passes over its elements; the kernels make it one.
They are TensorFlow's own, and compute the same formula: the one difference is that they round
1 - beta from a float32 beta, Keras from a Python float (weights differ by under 1e-6 after 100
steps). They are used for float32 variables with dense gradients; everything else takes the way
of Keras.

float16 and bfloat16 *weights* (the policies "float16" and "bfloat16", not the mixed ones) get Adam
moments in float32. In float16 the second moment of any gradient below 5e-3 rounds to zero at the
first step, and the update is then divided by an epsilon of 1e-7; in bfloat16 the moment does not
move once a step adds less than 0.4% to it. The sum of accumulated gradients is float32 for the same
reason, with every optimizer.
"""

from typing import Any

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.optim import decay

HALVES = ("float16", "bfloat16")
SMALLEST_NORMAL_FLOAT16 = 2.0**-14


class CountedSteps:
    """Mixin: schedules and moving averages count optimizer steps, not microbatches.

    Keras advances both at every microbatch of `gradient_accumulation_steps`. It also refuses what
    cannot train: an epsilon that float16 weights do not resolve, and accumulation over replicas,
    which fails in Keras while it is traced.
    """

    plain_class: type[keras.Optimizer]
    weight_decay_exclude: tuple[str, ...] = ()
    wide_slots: tuple[str, ...] = ("gradient_accumulator",)  # float32 under half-precision weights

    def build(self, variables: list[keras.Variable]) -> None:
        self._check_replicas()
        self._check_epsilon(variables)
        if self.weight_decay and not self.built:  # type: ignore[attr-defined]
            kept = decay.excluded(variables, self.weight_decay_exclude)
            self.exclude_from_weight_decay(var_list=kept)  # type: ignore[attr-defined]
        super().build(variables)  # type: ignore[misc]

    def _check_replicas(self) -> None:
        replicas = self._distribution_strategy.num_replicas_in_sync  # type: ignore[attr-defined]
        if self.gradient_accumulation_steps and replicas > 1:  # type: ignore[attr-defined]
            raise ConfigurationError(
                f"Keras cannot accumulate gradients over {replicas} replicas.",
                where="optimizer.gradient_accumulation_steps",
                allowed=[1],
                remedy="set device.strategy=none, or a larger batch_size in place of it.",
            )

    def _check_epsilon(self, variables: list[keras.Variable]) -> None:
        epsilon = getattr(self, "epsilon", None)
        half = any(_dtype(variable) == "float16" for variable in variables)
        if half and epsilon is not None and epsilon < SMALLEST_NORMAL_FLOAT16:
            raise ConfigurationError(
                f"epsilon={epsilon} vanishes beside float16 weights: updates become NaN.",
                where="optimizer.epsilon",
                allowed=[f"{SMALLEST_NORMAL_FLOAT16} or more"],
                remedy="set optimizer.epsilon=0.0001, use optimizer=adam, "
                "or keep float32 weights with precision=mixed_float16.",
            )

    def add_variable_from_reference(
        self,
        reference_variable: keras.Variable,
        name: str | None = None,
        initializer: Any = "zeros",
    ) -> keras.Variable:
        if name not in self.wide_slots or _dtype(reference_variable) not in HALVES:
            return super().add_variable_from_reference(  # type: ignore[misc]
                reference_variable, name=name, initializer=initializer
            )
        value = getattr(reference_variable, "value", reference_variable)
        label = getattr(reference_variable, "path", reference_variable.name).replace("/", "_")
        strategy = self._distribution_strategy  # type: ignore[attr-defined]
        with strategy.extended.colocate_vars_with(value):
            return self.add_variable(  # type: ignore[attr-defined]
                shape=reference_variable.shape,
                initializer=initializer,
                dtype="float32",
                name=f"{label}_{name}",
            )

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        if self.gradient_accumulation_steps:  # type: ignore[attr-defined]
            accumulators = [
                self._accumulated_gradients[self._get_variable_index(v)]  # type: ignore[attr-defined]
                for v in trainable_variables
            ]
            pairs = zip(grads, accumulators, strict=True)
            grads = [tf.cast(gradient, _dtype(sum_)) for gradient, sum_ in pairs]
        super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]

    def _get_current_learning_rate(self) -> Any:
        rate = self._learning_rate  # type: ignore[attr-defined]
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return rate(self.iterations)  # type: ignore[attr-defined]
        return super()._get_current_learning_rate()  # type: ignore[misc]

    def _update_model_variables_moving_average(self, variables: list[keras.Variable]) -> None:
        average = super()._update_model_variables_moving_average  # type: ignore[misc]
        every = self.gradient_accumulation_steps  # type: ignore[attr-defined]
        if not every:
            average(variables)
            return

        def advance() -> int:
            average(variables)
            return 0

        due = (self._iterations + 1) % every == 0  # type: ignore[attr-defined]
        tf.cond(due, advance, lambda: 0)

    def _overwrite_model_variables_with_average_value(
        self, variables: list[keras.Variable]
    ) -> None:
        """As Keras's, which fails where a variable has no average, as float8's scales."""
        averages = self._model_variables_moving_average  # type: ignore[attr-defined]
        pairs = zip(variables, averages, strict=True)
        kept = [(variable, average) for variable, average in pairs if average is not None]
        self.__dict__["_model_variables_moving_average"] = [average for _, average in kept]
        try:
            overwrite = super()._overwrite_model_variables_with_average_value  # type: ignore[misc]
            overwrite([variable for variable, _ in kept])
        finally:
            self.__dict__["_model_variables_moving_average"] = averages


class FusedAdam(CountedSteps):
    """Mixin over Adam and AdamW: the update by ResourceApplyAdam where it fits.

    Kingma and Ba, "Adam", 2015 (arXiv:1412.6980), with the epsilon of the formula before their
    section 2.1, as in Keras.
    """

    wide_slots = ("momentum", "velocity", "velocity_hat", *CountedSteps.wide_slots)

    def _check_epsilon(self, variables: list[keras.Variable]) -> None:
        """Nothing to check: moments and arithmetic are float32 under half-precision weights."""

    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        # One computation of the powers serves all variables: it travels with the learning rate.
        rates = self._rates(learning_rate)
        super()._backend_update_step(grads, trainable_variables, rates)  # type: ignore[misc]

    def _rates(self, learning_rate: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        step = tf.cast(self.iterations + 1, tf.float32)  # type: ignore[attr-defined]
        return (
            tf.cast(tf.convert_to_tensor(learning_rate), tf.float32),
            tf.pow(tf.constant(self.beta_1, tf.float32), step),  # type: ignore[attr-defined]
            tf.pow(tf.constant(self.beta_2, tf.float32), step),  # type: ignore[attr-defined]
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rates = learning_rate if isinstance(learning_rate, tuple) else self._rates(learning_rate)
        if _dtype(variable) in HALVES:
            self._update_half(gradient, variable, *rates)
        elif self.amsgrad or not _fits(gradient, variable):  # type: ignore[attr-defined]
            super().update_step(gradient, variable, rates[0])  # type: ignore[misc]
        else:
            self._update_fused(gradient, variable, *rates)

    def _update_fused(
        self, gradient: Any, variable: Any, rate: tf.Tensor, power_1: tf.Tensor, power_2: tf.Tensor
    ) -> None:
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,  # type: ignore[attr-defined]
            v=self._velocities[index].value.handle,  # type: ignore[attr-defined]
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=self.beta_1,  # type: ignore[attr-defined]
            beta2=self.beta_2,  # type: ignore[attr-defined]
            epsilon=self.epsilon,  # type: ignore[attr-defined]
            grad=tf.cast(gradient, tf.float32),
        )

    def _update_half(
        self, gradient: Any, variable: Any, rate: tf.Tensor, power_1: tf.Tensor, power_2: tf.Tensor
    ) -> None:
        """Keras's formula in float32; only the weight itself is rounded."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        m, v = self._momentums[index], self._velocities[index]  # type: ignore[attr-defined]
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
        alpha = rate * tf.sqrt(1 - power_2) / (1 - power_1)
        m.assign(m + (gradient - m) * (1 - self.beta_1))  # type: ignore[attr-defined]
        v.assign(v + (tf.square(gradient) - v) * (1 - self.beta_2))  # type: ignore[attr-defined]
        if self.amsgrad:  # type: ignore[attr-defined]
            largest = self._velocity_hats[index]  # type: ignore[attr-defined]
            largest.assign(tf.maximum(largest.value, v.value))
            v = largest
        update = m * alpha / (tf.sqrt(v.value) + self.epsilon)  # type: ignore[attr-defined]
        variable.assign(tf.cast(tf.cast(variable, tf.float32) - update, variable.dtype))


class FusedSGD(CountedSteps):
    """Mixin over SGD: ResourceApplyKerasMomentum, or ResourceApplyGradientDescent without it."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if not _fits(gradient, variable):
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        rate = tf.cast(tf.convert_to_tensor(learning_rate), tf.float32)
        gradient = tf.cast(gradient, tf.float32)
        momentum = self.momentum  # type: ignore[attr-defined]
        if momentum == 0:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
            return
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[index].value.handle,  # type: ignore[attr-defined]
            lr=rate,
            grad=gradient,
            momentum=momentum,
            use_nesterov=self.nesterov,  # type: ignore[attr-defined]
        )


def _derived() -> dict[str, type[keras.Optimizer]]:
    """Our class for each of Keras's, by lower-case name; they keep Keras's names and arguments."""
    fused = {"Adam": FusedAdam, "AdamW": FusedAdam, "SGD": FusedSGD}
    wrappers = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")
    classes = {}
    for name, base in vars(keras.optimizers).items():
        if not isinstance(base, type) or not issubclass(base, keras.Optimizer) or name in wrappers:
            continue
        body = {"plain_class": base, "__module__": __name__, "__doc__": base.__doc__}
        derived = type(name, (fused.get(name, CountedSteps), base), body)
        classes[name.lower()] = keras.saving.register_keras_serializable(package="mpt")(derived)
    return classes


def _dtype(variable: Any) -> str:
    return tf.as_dtype(variable.dtype).name


def _fits(gradient: Any, variable: Any) -> bool:
    return isinstance(gradient, tf.Tensor) and _dtype(variable) == "float32"


CLASSES = _derived()
