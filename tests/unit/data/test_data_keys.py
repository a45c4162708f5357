"""What every dataset's configuration has in common."""

from collections.abc import Callable
from typing import Any

import pytest

from mpt.config import configs_dir
from mpt.errors import ConfigurationError
from mpt.instantiate import check_arguments

CHOICES = sorted(file.stem for file in (configs_dir() / "dataset").glob("*.yaml"))
NEEDED = {
    "python": ["dataset.function=m:f"],
    "arrays": ["dataset.path=a.npz"],
    "text": ["dataset.path=a.txt"],
    "image_folder": ["dataset.path=images"],
    "mask_folder": ["dataset.path=scenes"],
    "tfrecord": ["dataset.path=shards"],
    "tfds": ["dataset.name=mnist"],
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_source_takes_what_to_do_with_broken_rows_and_stalls(
    compose: Callable[..., Any], name: str
) -> None:
    given = ["dataset.on_error=skip", "dataset.stall_seconds=2.5"]
    dataset = compose(f"dataset={name}", *NEEDED.get(name, []), *given).dataset
    check_arguments(dataset, where="dataset", supplied=("batch_size", "seed"))
    assert (dataset["on_error"], dataset["stall_seconds"]) == ("skip", 2.5)
    default = compose(f"dataset={name}", *NEEDED.get(name, [])).dataset
    assert (default["on_error"], default["stall_seconds"]) == ("fail", 300)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("on_error=skp", "did you mean 'skip'"),
        ("on_error=false", "wrong type"),
        ("stall_seconds=0", "above 0"),
        ("stall_seconds=-1", "above 0"),
        ("stall_seconds=nan", "above 0"),
        ("stall_seconds=null", "a number"),
        ("stall_seconds=soon", "a number"),
    ],
)
def test_refused(compose: Callable[..., Any], given: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose(f"dataset.{given}")
    assert caught.value.where == f"dataset.{given.partition('=')[0]}"
    assert says in str(caught.value)
