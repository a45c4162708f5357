"""Each test starts and ends under Keras's own policy, with seeded weights."""

import keras
import pytest


@pytest.fixture(autouse=True)
def float32_policy():
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
