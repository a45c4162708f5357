"""A subcommand's own flags, between Hydra's words."""

import pytest

from mpt.commands.flags import Flag, take
from mpt.errors import ConfigurationError

FLAGS = {
    "--json": Flag(),
    "--batches": Flag(1, int, least=1),
    "--tolerance": Flag(0.1, float, least=0),
    "--reference": Flag("float32", str, choices=("float32", "float64")),
}
DEFAULTS = {"json": False, "batches": 1, "tolerance": 0.1, "reference": "float32"}


@pytest.mark.parametrize(
    ("argv", "values", "rest"),
    [
        ([], {}, []),
        (["seed=1", "--json", "--cfg", "job"], {"json": True}, ["seed=1", "--cfg", "job"]),
        (["--batches", "4", "x=1"], {"batches": 4}, ["x=1"]),
        (["x=1", "--batches=4"], {"batches": 4}, ["x=1"]),
        (["--tolerance=0", "--reference=float64"], {"tolerance": 0.0, "reference": "float64"}, []),
        (["--batches=2", "--batches", "3"], {"batches": 3}, []),
    ],
)
def test_flags_are_taken_and_the_rest_keeps_its_order(argv, values, rest):
    assert take(argv, FLAGS) == (DEFAULTS | values, rest)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batches"], "--batches needs a value"),
        (["--batches", "--json"], "--batches needs a value"),
        (["--batches="], "--batches needs a value"),
        (["--batches=many"], "a whole number"),
        (["--batches=0"], "at least 1"),
        (["--tolerance=nan"], "at least 0"),
        (["--reference=float46"], "did you mean 'float64'"),
        (["--json=yes"], "--json takes no value"),
    ],
)
def test_a_wrong_flag_is_explained(argv, words):
    with pytest.raises(ConfigurationError) as caught:
        take(argv, FLAGS)
    assert words in str(caught.value)
