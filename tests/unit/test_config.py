"""The shipped configuration composes, and what contradicts itself is refused."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from mpt.composition import arrange, settle_length
from mpt.config import check, configs_dir, expected_type, recipes_dir
from mpt.errors import ConfigurationError
from mpt.schema import LossScaleConfig, PrecisionConfig, TrainConfig, TrainerConfig

CHOICES = sorted(str(f.relative_to(configs_dir())) for f in configs_dir().glob("*/*.yaml"))
NEEDED = {
    "model/python.yaml": ["model.function=m:f"],
    "dataset/python.yaml": ["dataset.function=m:f"],
    "dataset/arrays.yaml": ["dataset.path=a.npz"],
    "dataset/image_folder.yaml": ["dataset.path=photos"],
    "dataset/mask_folder.yaml": ["dataset.path=scenes"],
    "dataset/text.yaml": ["dataset.path=a.txt"],
    "dataset/tfrecord.yaml": ["dataset.path=shards"],
    "dataset/tfds.yaml": ["dataset.name=mnist"],
}
OF_ONE_S_OWN_DATA = ("gpt2_small", "imagenet_resnet50", "vit_small")


@pytest.mark.parametrize("file", CHOICES)
def test_every_shipped_choice_composes(compose, file):
    group, choice = Path(file).parts[0], Path(file).stem
    config = compose(f"{group}={choice}", *NEEDED.get(file, []))
    assert isinstance(config, TrainConfig)


@pytest.mark.parametrize("name", sorted(f.stem for f in recipes_dir().glob("*.yaml")))
def test_every_recipe_composes_and_opens_with_command_time_and_expectation(compose, name):
    needed = ["dataset.path=data"] if name in OF_ONE_S_OWN_DATA else []
    assert compose(f"recipe={name}", *needed).recipe == name
    head = (recipes_dir() / f"{name}.yaml").read_text().partition("\ndefaults:")[0]
    for word in (f"command:  mpt train recipe={name}", "time:", "expect:"):
        assert word in head


def test_every_choice_opens_with_the_same_keys_as_its_group_where_the_group_is_closed():
    import yaml

    for group in ("precision", "loss_scale", "trainer", "device", "telemetry"):
        keys = {
            f.name: list(yaml.safe_load(f.read_text())) for f in (configs_dir() / group).iterdir()
        }
        assert len({tuple(names) for names in keys.values()}) == 1, keys


def test_shipped_defaults_are_the_schema_s(compose):
    config = compose()
    assert config.loss_scale == LossScaleConfig()
    assert config.precision == PrecisionConfig()
    assert dataclasses.replace(config.trainer, epochs=None) == TrainerConfig()
    assert config.trainer.epochs is not None
    assert (config.model["name"], config.dataset["name"]) == ("cnn", "digits")


@pytest.mark.parametrize(
    ("policy", "tf32"),
    [("float32", False), ("tf32", True), ("mixed_float16", None), ("mixed_bfloat16", None)],
)
def test_tf32_is_asked_for_or_left_to_the_device(compose, policy, tf32):
    config = compose(f"precision={policy}")
    assert (config.precision.policy, config.precision.tf32) == (policy, tf32)


def test_run_dir_names_date_time_model_precision_and_four_hex_digits(compose):
    pattern = r"runs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d_mlp_mixed_float16_[0-9a-f]{4}"
    first, second = (
        compose("model=mlp", "precision=mixed_float16", f"seed={seed}").run_dir for seed in (0, 1)
    )
    assert re.fullmatch(pattern, first)
    assert first != second


def test_a_name_cannot_lead_the_run_out_of_its_folder(compose):
    with pytest.raises(ConfigurationError, match="path separator"):
        compose("model.name=../../elsewhere")


class TestLength:
    def test_explicit_steps_replace_the_preset_s_epochs(self, compose):
        trainer = compose("trainer.steps=7").trainer
        assert (trainer.steps, trainer.epochs) == (7, None)

    def test_explicit_epochs_replace_the_preset_s_steps(self, compose):
        trainer = compose("trainer=smoke", "trainer.epochs=2").trainer
        assert (trainer.steps, trainer.epochs) == (None, 2)

    @pytest.mark.parametrize(
        "overrides",
        [["trainer.steps=3", "trainer.epochs=3"], ["trainer.epochs=null"], ["trainer=smoke"]],
    )
    def test_other_overrides_are_left_alone(self, overrides):
        assert settle_length(overrides) == overrides

    @pytest.mark.parametrize(
        ("epochs", "steps", "word"), [(1, 1, "both set"), (None, None, "both null")]
    )
    def test_exactly_one_is_needed(self, compose, epochs, steps, word):
        config = compose()
        config.trainer.epochs, config.trainer.steps = epochs, steps
        with pytest.raises(ConfigurationError, match=word):
            check(config)


def _changed(config, key, value):
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    if isinstance(node, dict):
        node[last] = value
    else:
        setattr(node, last, value)
    return config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**31),
        ("loss_scale.growth_factor", 1.0),
        ("loss_scale.backoff_factor", 1.0),
        ("loss_scale.initial_scale", math.nan),
        ("loss_scale.initial_scale", math.inf),
        ("loss_scale.min_scale", 2.0**25),
        ("loss_scale.max_consecutive_skips", 0),
        ("trainer.log_every", 0),
        ("trainer.steps_per_execution", 0),
        ("trainer.steps_per_execution", True),
        ("trainer.steps_per_execution", "many"),
        ("trainer.jit_compile", "yes"),
        ("trainer.jit_compile", 1),
        ("trainer.callbacks", ["CSVLogger"]),
        ("precision.policy", "mixed_float8"),
        ("precision.overrides", ["class:Dense"]),
        ("precision.overrides", [{"match": "a", "policy": "auto"}]),
        ("precision.overrides", [{"match": "a", "policy": "float32", "layer": "b"}]),
        ("monitor_mode", "least"),
        ("name", "a/b"),
        ("name", ".."),
        ("dataset.validation_fraction", 1.0),
        ("dataset.validation_fraction", "half"),
        ("dataset.shuffle", 1),
        ("optimizer.learning_rate", math.nan),
        ("optimizer.learning_rate", True),
        ("optimizer.gradient_accumulation_steps", 0),
        ("optimizer.schedule.name", "linear"),
        ("model._target_", None),
        ("device.logical_cpus", 0),
        ("loss_weights", "half"),
        ("loss_weights", True),
        ("loss_weights", math.inf),
        ("loss_weights", [1.0, None]),
        ("loss_weights", {"label": math.nan}),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_stands(compose, key, value):
    with pytest.raises(ConfigurationError) as caught:
        check(_changed(compose(), key, value))
    assert caught.value.where.startswith(key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.steps_per_execution", 8),
        ("trainer.jit_compile", True),
        ("precision.overrides", [{"match": "class:Dense", "policy": "float32"}]),
        ("loss_scale.initial_scale", 1.0),
        ("loss_scale", LossScaleConfig(mode="fixed", initial_scale=2.0**-17)),
        ("dataset.validation_fraction", None),
        ("optimizer.learning_rate", 1),
        ("loss_weights", 0),
        ("loss_weights", [1, 0.5]),
        ("loss_weights", {"label": 2.0**-17}),
        ("optimizer.learning_rate", {"_target_": "keras.optimizers.schedules.CosineDecay"}),
    ],
)
def test_a_good_value_passes(compose, key, value):
    check(_changed(compose(), key, value))


def test_strategy_and_xla_contradict(compose):
    with pytest.raises(ConfigurationError, match="mirrored"):
        compose("device=mirrored", "trainer.jit_compile=true")


def test_cpu_settings_and_gpu_contradict(compose):
    with pytest.raises(ConfigurationError, match="logical_cpus"):
        compose("device=gpu", "device.logical_cpus=2")


def test_the_batch_is_a_number_or_the_most_that_fits(compose):
    assert compose("batch_size=max").batch_size == "max"
    for wrong in ("maximum", "12.5", "true", "[8]", "null"):
        with pytest.raises(ConfigurationError, match="not a size of a batch") as error:
            compose(f"batch_size={wrong}")
        assert error.value.where == "batch_size"
        assert "max" in error.value.allowed


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("trainer.steps", "a whole number or null"),
        ("loss_scale.initial_scale", "a number"),
        ("precision.fused_batch_norm", "true or false"),
        ("precision.overrides", "a list"),
        ("model.filters", None),
        ("trainer.nothing", None),
    ],
)
def test_expected_types_are_said_in_words(key, words):
    assert expected_type(key) == words


class TestArrange:
    def test_flags_may_stand_between_overrides(self):
        assert arrange(["a=1", "-m", "b=2"]) == (["-m"], ["a=1", "b=2"])

    def test_values_stay_with_their_flags(self):
        assert arrange(["--cfg=job", "--config-dir", "mine", "a=1"]) == (
            ["--cfg", "job", "--config-dir", "mine"],
            ["a=1"],
        )

    def test_info_may_go_without_a_value(self):
        assert arrange(["--info", "a=1"]) == (["--info", "all"], ["a=1"])
        assert arrange(["--info", "defaults", "a=1"]) == (["--info", "defaults"], ["a=1"])

    @pytest.mark.parametrize("word", ["--multi", "--experimental-rerun=x.pickle", "-x"])
    def test_other_flags_are_refused(self, word):
        with pytest.raises(ConfigurationError, match="unknown flag"):
            arrange([word])
