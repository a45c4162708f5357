"""The command line that trains with what was found, whatever else was on the first one."""

import shlex

import pytest

from mpt.bisection import policy_file
from mpt.commands import Options
from mpt.commands.jobs import compose

RULES = [
    {"match": r"regex:^a\[1\]'s$", "policy": "float32"},
    {"match": "b/c", "policy": "mixed_float16"},
]


@pytest.fixture
def case(mpt, tmp_path, runs):
    """`case(*argv)`: the command's words, and the precision that running them gives."""
    folder = tmp_path / "bisections" / "one"

    def call(*argv, allow=()):
        job, _ = compose("bisect", list(argv), Options(allow=allow), folder="bisections")
        precision = {**job.config["precision"], "policy": "mixed_float16", "overrides": RULES}
        (folder / "precision").mkdir(parents=True)
        (folder / policy_file.FILE).write_text(policy_file.text(precision, ["found", "so"]))
        command = policy_file.command(job, list(argv), precision, folder)
        words = shlex.split(command)
        assert mpt(*words[1:]).code == 0
        config = runs[-1].config
        assert vars(config.precision) == precision
        rest = {key: value for key, value in vars(config).items() if key in ("seed", "model")}
        assert rest == {key: job.config[key] for key in rest}
        return words

    return call


def test_a_folder_of_configuration(case):
    words = case(
        *("precision=auto", "run_dir=bisections/one", "seed=3", "precision.head=float16"),
        *("trainer.steps=9",),
        allow=("mine.py", "pkg"),
    )
    assert words == [
        *("mpt", "train", "--allow", "mine.py", "--allow", "pkg", "--config-dir"),
        *("bisections/one", "precision=bisected", "seed=3", "trainer.steps=9"),
    ]


def test_a_folder_of_configuration_is_there_already(case, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(
        "name: tiny\n_target_: mpt.models.mlp.build\nhidden: [4]\n"
    )
    words = case("--config-dir", "mine", "model=tiny")
    assert words[2:] == [
        *("--config-dir", "mine"),
        *("hydra.searchpath=['bisections/one']", "precision=bisected", "model=tiny"),
    ]


def test_a_recipe_that_sweeps_is_trained_once(case):
    words = case("recipe=four_policies", "seed=2")
    assert words[-3:] == ["recipe=four_policies", "seed=2", "hydra.mode=RUN"]


def test_a_recipe_that_sets_keys_of_the_group(case, tmp_path):
    (tmp_path / "mine" / "recipe").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "own.yaml").write_text(
        "# @package _global_\nprecision:\n  overrides:\n  - {match: x, policy: float16}\n"
    )
    words = case("--config-dir", "mine", "recipe=own")
    assert any(word.startswith("precision.overrides=") for word in words)


@pytest.mark.parametrize("text", ["plain", "it's", r"a\[1\]", "end\\", r"\'", "{a: b}, [c]", "ü"])
def test_quoted_is_what_hydra_reads(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"x={policy_file.quoted(text)}"])
    assert override.value() == text
