"""Which group is held against which."""

from typing import Any

import pytest

from mpt.comparison import compare
from mpt.errors import ConfigurationError


def pairs(write_run: Any, baseline: str | None = None) -> list[tuple[str, str]]:
    result = compare([write_run.folder], baseline=baseline)
    return [(each.group.label, each.baseline.label) for each in result.pairings]


def test_the_widest_is_the_baseline(write_run: Any) -> None:
    policies = ["float16", "mixed_float16", "tf32", "mixed_bfloat16", "float32", "bfloat16"]
    for policy in policies:
        write_run(policy=policy)
    expected = ["tf32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
    assert pairs(write_run) == [(label, "float32") for label in expected]
    write_run(policy="float64")
    assert {baseline for _, baseline in pairs(write_run)} == {"float64"}


@pytest.mark.parametrize("given", ["precision=tf32", "precision.policy=tf32", "batch_size=128"])
def test_the_baseline_that_is_asked_for(write_run: Any, given: str) -> None:
    for policy in ("tf32", "float32", "mixed_float16"):
        write_run(policy=policy)
    found = pairs(write_run, given)
    if given == "batch_size=128":  # every group is one, so none is held against another
        assert found == []
    else:
        assert found == [("float32", "tf32"), ("mixed_float16", "tf32")]


def test_each_model_has_its_own(write_run: Any) -> None:
    for model in ("cnn", "mlp"):
        for policy in ("float32", "mixed_float16"):
            write_run(policy=policy, config__model__name=model)
    assert pairs(write_run) == [
        ("cnn mixed_float16", "cnn float32"),
        ("mlp mixed_float16", "mlp float32"),
    ]
    result = compare([write_run.folder])
    assert [each.scope for each in result.verdicts] == ["model=cnn", "model=mlp"]
    assert [group.label for group in result.groups[:2]] == ["cnn float32", "mlp float32"]
    assert pairs(write_run, "model=cnn") == [
        ("mlp float32", "cnn float32"),
        ("mlp mixed_float16", "cnn mixed_float16"),
    ]


def test_a_group_without_its_like_takes_the_nearest_and_says_so(write_run: Any) -> None:
    write_run()
    write_run(policy="mixed_float16")
    write_run(config__model__name="mlp", config__trainer__steps=5)
    write_run(policy="mixed_float16", config__trainer__steps=9, config__model__filters=64)
    result = compare([write_run.folder])
    (odd,) = [each for each in result.pairings if each.differs_in]
    assert odd.baseline.settings["trainer.steps"] == 1000
    # The mlp in float32 could be a baseline, so it is held against none.
    assert [each.group.policy for each in result.pairings] == ["mixed_float16"] * 2
    assert odd.differs_in == ["model.filters", "trainer.steps"]
    assert "other settings: trainer.steps=9, the baseline's 1000" in odd.notes


def test_another_model_is_told_by_its_name_alone(write_run: Any) -> None:
    write_run(config__model__filters=8)
    write_run(config__model__name="mlp")
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.differs_in == []  # it is what is compared
    assert pairing.notes == ["other settings: model.name=mlp, the baseline's cnn"]


def test_of_two_that_are_as_wide_the_one_with_more_runs(write_run: Any) -> None:
    write_run(config__precision__head="policy")
    for seed in range(2):
        write_run(seed=seed)
    assert pairs(write_run) == [("float32 head=policy", "float32 head=float32")]


def test_one_policy_only_takes_the_first_group(write_run: Any) -> None:
    for rate in (0.1, 0.001, 0.01):
        write_run(config__optimizer__learning_rate=rate)
    assert [baseline for _, baseline in pairs(write_run)] == ["learning_rate=0.1"] * 2


def test_one_group_is_held_against_nothing(write_run: Any) -> None:
    write_run()
    result = compare([write_run.folder])
    assert result.pairings == []
    assert result.verdicts[0].sentence == "nothing to compare float32 with"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("precision", "does not say which group"),
        ("precision=", "does not say which group"),
        ("=float32", "does not say which group"),
        ("precision=float64", "No run has precision=float64"),
        ("precision=float32,precision=mixed_float16", "names precision twice"),
        ("precision=float32,precision.policy=float32", "names precision.policy twice"),
        ("presicion=float32", "No run has the key presicion"),
        ("precision=float32,model=mlp", "together"),
    ],
)
def test_a_baseline_that_matches_nothing(write_run: Any, given: str, message: str) -> None:
    write_run()
    write_run(policy="mixed_float16", config__model__name="mlp")
    with pytest.raises(ConfigurationError, match=message) as caught:
        compare([write_run.folder], baseline=given)
    assert caught.value.allowed
    assert "--baseline" in str(caught.value.where)


def test_a_baseline_by_the_policy_that_auto_came_to(write_run: Any) -> None:
    write_run(policy="auto", precision__policy="mixed_bfloat16")
    write_run(policy="mixed_float16")
    assert pairs(write_run, "precision=mixed_bfloat16") == [
        ("mixed_float16", "auto (mixed_bfloat16)")
    ]
