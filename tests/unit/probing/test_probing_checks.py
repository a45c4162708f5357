"""What cannot be probed is said, with rows and layers."""

import keras
import numpy as np
import pytest

from mpt import precision
from mpt.errors import ConfigurationError
from mpt.probing import checks
from mpt.probing.observation import Observation, Seen

ROWS = 20


def refused(call, *arguments):
    with pytest.raises(ConfigurationError) as caught:
        call(*arguments)
    return str(caught.value)


def batch():
    return np.ones((ROWS, 3), "float32"), np.zeros(ROWS, "int32")


def test_rows_of_nan_are_named():
    x, y = batch()
    x[[4, 17], 1] = np.nan
    text = refused(checks.finite_batch, (x, y), 2)
    assert "2 of 20 rows of batch 2 hold NaN in x: rows 4, 17." in text
    assert "where:   dataset" in text


def test_one_infinite_label_is_named_and_many_rows_are_counted():
    x, _ = batch()
    labels = np.zeros((ROWS, 1), "float64")
    labels[3] = -np.inf
    assert "1 of 20 rows of batch 1 hold infinity in y: row 3." in refused(
        checks.finite_batch, (x, labels), 1
    )
    x[:] = np.nan
    assert "20 of 20 rows" in (text := refused(checks.finite_batch, (x, labels), 1))
    assert "rows 0, 1, 2, 3, 4, 5, 6, 7, ..." in text


def test_parts_of_a_structure_and_sample_weights_are_looked_at():
    x, y = batch()
    weights = np.ones(ROWS, "float32")
    weights[5] = np.nan
    assert "in sample_weight: row 5." in refused(checks.finite_batch, ({"a": x}, y, weights), 1)
    bad = x.copy()
    bad[6] = np.inf
    assert "in x: row 6." in refused(checks.finite_batch, ({"a": x, "b": bad}, y), 1)


def test_numbers_text_and_bfloat16_that_are_fine_pass():
    import ml_dtypes

    x, y = batch()
    checks.finite_batch(({"a": x, "b": x.astype(ml_dtypes.bfloat16)}, y, np.ones(ROWS)), 1)
    checks.finite_batch((np.array(["one"] * ROWS, object), y), 1)


def test_bfloat16_is_looked_at():
    import ml_dtypes

    x, y = batch()
    x[1, 1] = np.nan
    assert "row 1." in refused(checks.finite_batch, (x.astype(ml_dtypes.bfloat16), y), 1)


def test_nothing_in_half_precision_is_nothing_to_probe():
    def build():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="one")])

    model = precision.build(build, policy="float32")
    text = refused(checks.has_half, model, "auto", "float32")
    assert "nothing to probe: under auto, which is float32 on this device" in text
    assert "precision=mixed_float16" in text
    assert "under float32 every layer" in refused(checks.has_half, model, "float32", "float32")
    rules = [{"match": "one", "policy": "mixed_float16"}]
    checks.has_half(precision.build(build, policy="float32", overrides=rules), "float32", "float32")


def seen(path, **arrays):
    return Seen(path, None, **arrays)


def observation(*layers, loss=1.0):
    return Observation({layer.path: layer for layer in layers}, loss)


GOOD, BAD = np.ones(2, "float32"), np.array([1, np.inf], "float32")


def test_a_finite_reference_passes():
    checks.finite_reference(observation(seen("a", outputs=[GOOD])), "float32")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            observation(seen("a", outputs=[GOOD]), seen("b", inputs=[GOOD], outputs=[BAD])),
            "in float32, the outputs of b are not finite, its inputs are.",
        ),
        (
            observation(seen("a", inputs=[BAD], outputs=[BAD])),
            "the outputs of a are not finite. That",
        ),
        (observation(seen("a", outputs=[GOOD]), loss=np.nan), "the loss is not finite, all layers"),
        (
            observation(
                seen("a", activation_gradients=[BAD], arrival=7),
                seen("b", weight_gradients=[None, BAD], arrival=2),
            ),
            "the gradients of b are not finite",
        ),
    ],
)
def test_a_reference_that_is_not_finite_is_told_with_its_layer(found, text):
    assert text in refused(checks.finite_reference, found, "float32")
