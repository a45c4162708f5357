import numpy as np
import pytest

from mpt.data.split import apart, draw, split
from mpt.errors import ConfigurationError

LABELS = np.repeat(np.arange(4), [400, 300, 200, 100])
ROWS = np.arange(len(LABELS))


def shares(rows: np.ndarray) -> np.ndarray:
    return np.bincount(LABELS[rows], minlength=4) / len(rows)


def test_each_class_is_in_both_parts_in_its_share() -> None:
    train, validation = split(LABELS, ROWS, 0.1)
    assert len(validation) == 100
    np.testing.assert_allclose(shares(validation), [0.4, 0.3, 0.2, 0.1], atol=0.0101)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), ROWS)
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_a_draw_keeps_the_shares_and_is_the_same_each_time() -> None:
    drawn = draw(LABELS, ROWS, 50)
    np.testing.assert_allclose(shares(drawn), [0.4, 0.3, 0.2, 0.1], atol=0.021)
    np.testing.assert_array_equal(drawn, draw(LABELS, ROWS, 50))
    assert draw(LABELS, ROWS, None) is ROWS


def test_only_the_rows_that_are_given_are_drawn_and_split() -> None:
    odd = ROWS[1::2]
    train, validation, source = apart(LABELS, odd, 100, 0.25)
    assert len(train) == 75
    assert len(validation) == 25
    assert set(train) | set(validation) <= set(odd)
    assert not set(train) & set(validation)
    assert source == "0.25 of the training examples"


def test_a_regression_s_rows_are_drawn_without_classes() -> None:
    train, validation = split(np.linspace(0, 1, 1000), ROWS, 0.2)
    assert len(train) == 800
    assert 0.4 < validation.mean() / 1000 < 0.6


def test_no_validation() -> None:
    train, validation, source = apart(LABELS, ROWS, None, 0.0)
    assert len(train) == 1000
    assert len(validation) == 0
    assert source == "none"


@pytest.mark.parametrize("count", [0, 1001])
def test_more_than_there_are(count: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{count} examples") as error:
        draw(LABELS, ROWS, count)
    assert error.value.where == "dataset.examples"


@pytest.mark.parametrize("fraction", [1e-4, 1.0, -0.1])
def test_a_fraction_of_no_use(fraction: float) -> None:
    with pytest.raises(ConfigurationError) as error:
        apart(LABELS, ROWS, None, fraction)
    assert error.value.where == "dataset.validation_fraction"
