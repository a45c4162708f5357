"""Memory under other policies, held against the same model built under them."""

import inspection_models as models
import keras
import numpy as np
import pytest

from mpt import rematerialization
from mpt.inspection.memory import estimates

L = keras.layers
CASES = {
    "cnn": (models.cnn, models.IMAGES),
    "nested": (models.nested, models.IMAGES),
    "subclassed": (models.Net, models.ROWS),
}


def by_policy(subject):
    return {each.policy: each for each in estimates(subject)}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_another_policy_is_what_it_is(inspected, name):
    builder, x = CASES[name]
    said = by_policy(inspected(builder, x, "mixed_bfloat16"))
    for policy in ("float32", "mixed_float16"):
        built = by_policy(inspected(builder, x, policy))[policy]
        assert built.chosen
        assert not said[policy].chosen
        expected = {k: v for k, v in built.as_json().items() if k != "chosen"}
        assert {k: v for k, v in said[policy].as_json().items() if k != "chosen"} == expected


def test_head_and_overrides_hold_under_every_policy(inspected):
    rules = [{"match": "before", "policy": "float32"}]
    said = by_policy(inspected(models.chain, models.ROWS, "float32", overrides=rules))
    built = by_policy(inspected(models.chain, models.ROWS, overrides=rules))
    plain = by_policy(inspected(models.chain, models.ROWS))
    assert said["mixed_float16"].activations == built["mixed_float16"].activations
    wider = built["mixed_float16"].activations - plain["mixed_float16"].activations
    assert wider == 4 * 16 * 2  # the output of `before`, in 4 bytes and not in 2


def test_state_is_what_the_variables_hold(inspected):
    subject = inspected(models.nested, models.IMAGES)
    chosen = by_policy(subject)["mixed_float16"]
    model = subject.model
    assert chosen.weights == sum(np.asarray(v).nbytes for v in model.weights)
    assert chosen.gradients == sum(np.asarray(v).nbytes for v in model.trainable_weights)
    held = sum(np.asarray(v.numpy()).nbytes for v in subject.prepared.optimizer.variables)
    assert chosen.optimizer == held
    assert chosen.optimizer > 2 * chosen.gradients  # Adam's two slots, and counters
    assert chosen.state == (
        chosen.weights + chosen.gradients + chosen.optimizer + chosen.weight_copies
    )
    assert chosen.total == chosen.activations + chosen.state


def test_weights_that_are_cast_to_be_computed_with(inspected):
    said = by_policy(inspected(models.cnn, models.IMAGES))
    assert said["mixed_float16"].weight_copies == 2 * (3 * 3 * 3 * 16 + 16)  # not the head's
    assert said["float32"].weight_copies == 0


def test_a_table_is_looked_up_before_its_rows_are_cast(inspected):
    def builder():
        inputs = keras.Input((6,), dtype="int32")
        x = L.Flatten(name="flatten")(L.Embedding(1000, 8, name="table")(inputs))
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    said = by_policy(inspected(builder, np.zeros((4, 6), "int32")))
    assert said["mixed_float16"].weight_copies == 0


def test_a_policy_that_is_none_of_the_three_has_a_column_of_its_own(inspected):
    said = by_policy(inspected(models.cnn, models.IMAGES, "float16"))
    assert list(said) == ["float32", "mixed_float16", "mixed_bfloat16", "float16"]
    float32 = by_policy(inspected(models.cnn, models.IMAGES, "float32"))["float32"]
    assert said["float32"].weights == float32.weights
    assert said["float32"].optimizer == float32.optimizer
    assert said["float16"].weights < float32.weights


def test_the_share_in_16_bits(inspected):
    said = by_policy(inspected(models.cnn, models.IMAGES))
    conv, head = 2 * 6 * 6 * 16 * 27, 2 * 6 * 6 * 16 * 10
    share = conv / (conv + head)
    assert said["mixed_float16"].half_flops_share == pytest.approx(share)
    assert said["mixed_bfloat16"].half_flops_share == pytest.approx(share)
    assert said["float32"].half_flops_share == 0


def blocks_of_two():
    x = inputs = keras.Input((16,))
    for number, width in ((1, 32), (2, 64)):
        x = L.Dense(width, name=f"block{number}_in")(x)
        x = L.Dense(width, name=f"block{number}_wide")(x)
        x = L.Dense(16, name=f"block{number}_out")(x)
    return keras.Model(inputs, L.Dense(2, name="head")(x))


def test_inside_of_blocks_only_the_largest_counts(inspected):
    subject = inspected(blocks_of_two, models.ROWS, "float32")
    kept = by_policy(subject)["float32"].activations
    assert kept == 4 * 4 * (2 * 32 + 16 + 2 * 64 + 16 + 2)
    subject.prepared.blocks = rematerialization.blocks(subject.model, [r"block\d_"])
    again = by_policy(subject)
    assert again["float32"].activations == kept - 4 * 4 * 2 * 32
    # The head stays in float32.
    assert again["mixed_float16"].activations == 2 * 4 * (16 + 2 * 64 + 16) + 4 * 4 * 2
