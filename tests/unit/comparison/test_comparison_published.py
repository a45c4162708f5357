"""Figures of others: named by a configuration, passed on by the comparison."""

from typing import Any

import pytest

from mpt.comparison import compare
from mpt.errors import ConfigurationError

FIGURE = "{source: 'Example et al., table 2', device: A100, speedup: 2.6, mixed_float16: 2470}"


def test_a_configuration_may_name_them(compose: Any) -> None:
    assert compose().published == []
    (entry,) = compose(f"published=[{FIGURE}]").published
    assert entry == {
        "source": "Example et al., table 2",
        "device": "A100",
        "speedup": 2.6,
        "mixed_float16": 2470,
    }


@pytest.mark.parametrize(
    "given", ["[7]", "[{speedup: 2}]", "[{source: 3}]", "[{source: x, speedup: [1]}]"]
)
def test_what_is_no_figure_is_refused(compose: Any, given: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose(f"published={given}")
    assert str(caught.value.where).startswith("published[0]")


def test_the_comparison_has_each_once(write_run: Any) -> None:
    first, second = {"source": "a", "speedup": 2.0}, {"source": "b"}
    write_run(seed=0, config__published=[first])
    write_run(seed=1, config__published=[first, second])
    write_run(seed=2)
    result = compare([write_run.folder])
    assert result.published == [first, second]
    assert len(result.groups) == 1
    assert result.to_json()["published"] == [first, second]
