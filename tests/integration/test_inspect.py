"""`mpt inspect` from the command line: what it prints, its exit code, and what it leaves."""

import json
import textwrap

import pytest

pytest.importorskip("tensorflow")

SMALL = ("dataset.examples=200", "batch_size=16", "model.filters=16", "device=cpu")
PLANTED = """
    import keras
    import tensorflow as tf


    class Gate(keras.layers.Layer):
        def call(self, x):
            return x * keras.ops.softmax(x)


    def planted(shape, classes):
        print("a builder may print")
        image = keras.Input(shape)
        x = keras.layers.Flatten()(image)
        x = keras.layers.Dense(32, name="wide")(x)
        x = Gate(name="gate")(x)
        x = keras.layers.Dense(20, name="odd")(x)
        return keras.Model(image, keras.layers.Dense(classes, name="head")(x))


    class OnlyTrains(keras.Model):
        def __init__(self):
            super().__init__(name="only")
            self.flatten = keras.layers.Flatten()
            self.dense = keras.layers.Dense(10)
            self.dense.build((None, 64))
            self.built = True

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                logits = tf.cast(self.dense(self.flatten(x)), tf.float32)
                loss = tf.reduce_mean(
                    keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
                )
                scaled = self.optimizer.scale_loss(loss)
            self.optimizer.apply(tape.gradient(scaled, self.trainable_variables))
            return {"loss": loss}


    def only_trains():
        model = OnlyTrains()
        model.compile(optimizer="adam")
        return model
"""


@pytest.fixture
def mine(tmp_path):
    """Words that take a function of the user's own file for the model."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(PLANTED))

    def words(function):
        return (
            *("--allow", "mine.py", "model=python", f"model.function=mine.py:{function}"),
            *(word for word in SMALL if not word.startswith("model.")),
        )

    return words


def test_the_default_model(mpt, tmp_path):
    result = mpt("inspect", *SMALL, "precision=mixed_float16", "--strict")
    assert result.code == 0, result.err
    assert "conv " in result.out
    assert result.out.rstrip().endswith("findings: none")
    assert list(tmp_path.iterdir()) == []


def test_json_is_all_that_stdout_holds(mpt, mine, tmp_path):
    result = mpt("inspect", *mine("planted"), "precision=mixed_float16", "--json")
    assert result.code == 0, result.err
    values = json.loads(result.out)
    assert values["precision"]["policy"] == "mixed_float16"
    assert [(each["kind"], each["path"]) for each in values["findings"]] == [
        ("float16_softmax", "gate"),
        ("tensor_core_dimension", "odd"),
    ]
    assert values["totals"]["forward_flops"] == sum(
        row["forward_flops"] for row in values["layers"]
    )
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]


def test_strict_ends_with_2_on_a_finding_and_the_remedy_works(mpt, mine):
    words = (*mine("planted"), "precision=mixed_float16", "--strict", "-q")
    result = mpt("inspect", *words)
    assert result.code == 2
    assert "findings: 2" in result.out
    remedies = [
        line.partition("to do: ")[2].strip('"')
        for line in result.out.splitlines()
        if "precision.overrides" in line
    ]
    result = mpt("inspect", *words, *remedies)
    assert "findings: 1" in result.out
    assert "tensor_core_dimension  odd" in result.out


def test_a_model_without_a_call(mpt, mine):
    result = mpt("inspect", *mine("only_trains"), "precision=mixed_bfloat16", "--json")
    assert result.code == 0, result.err
    values = json.loads(result.out)
    assert values["opaque"][0]["path"] == "only"
    assert values["totals"]["forward_flops"] is None
    assert values["totals"]["activation_bytes"] > 0


def test_what_is_wrong_is_said_as_in_training(mpt, tmp_path):
    for words, says in (
        (("precision=mixd_float16",), "did you mean 'mixed_float16'"),
        (("-m", "seed=0,1"), "one configuration"),
        (("--json=yes",), "takes no value"),
        (("precision.overrides=[{match:nothing,policy:float32}]", *SMALL), "No layer matches"),
    ):
        result = mpt("inspect", *words)
        assert result.code == 2
        assert says in result.err
        assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_flags(mpt):
    result = mpt("inspect", "--help")
    assert result.code == 0
    assert "--strict" in result.out
    assert "--json" in result.out
