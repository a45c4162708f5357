"""What is one group, and what it is called."""

from typing import Any

import pytest

from mpt.comparison import compare
from mpt.comparison.settings import flatten, labels


def test_runs_that_differ_in_seed_name_and_folder_are_one_group(write_run: Any) -> None:
    for seed in range(3):
        write_run(seed=seed, config__name=f"n{seed}", speed=1000 + seed)
    write_run("again", seed=1, config__recipe="r", config__published=[{"source": "x"}], speed=1009)
    (group,) = compare([write_run.folder]).groups
    assert [run.seed for run in group.runs] == [1, 0, 1, 2]
    assert group.label == "float32"
    assert group.settings == {}
    assert group.throughput is not None
    assert group.throughput.median == pytest.approx(1001.5)
    assert (group.throughput.low, group.throughput.high) == (1000, 1009)


@pytest.mark.parametrize(
    "change",
    [
        {"config__trainer__steps": 2000},
        {"device__name": "Xeon"},
        {"device__count": 2},
        {"data__fingerprint": "b" * 64},
        {"model__parameters": 11850},
    ],
)
def test_runs_that_differ_otherwise_are_two(write_run: Any, change: dict[str, Any]) -> None:
    write_run()
    write_run(**change)
    groups = compare([write_run.folder]).groups
    assert len(groups) == 2
    assert len({group.label for group in groups}) == 2


def test_other_models_of_the_same_settings_are_told_by_their_size(write_run: Any) -> None:
    """A user edited his file between the runs."""
    for seed in range(2):
        write_run(seed=seed)
        write_run(seed=seed, policy="mixed_float16")
        write_run(seed=seed, model__parameters=11850)
        write_run(seed=seed, policy="mixed_float16", model__parameters=11850)
    # It died before it knew its model: with those that it may belong to.
    write_run(seed=2, status="killed", exit_code=137, model={})
    result = compare([write_run.folder])
    assert {group.label: len(group.runs) for group in result.groups} == {
        "float32 with 1,000 parameters": 3,
        "mixed_float16 with 1,000 parameters": 2,
        "float32 with 11,850 parameters": 2,
        "mixed_float16 with 11,850 parameters": 2,
    }
    pairs = {(p.group.parameters, p.baseline.parameters) for p in result.pairings}
    assert pairs == {(1000, 1000), (11850, 11850)}


def test_another_model_that_is_held_against_the_nearest_is_told(write_run: Any) -> None:
    write_run()
    write_run(policy="mixed_float16", model__parameters=11850)
    (pairing,) = compare([write_run.folder]).pairings
    assert "parameters" in pairing.differs_in
    told = "another model of the same settings: 11,850 parameters, the baseline's 1,000 parameters"
    assert told in pairing.notes


def test_the_size_of_a_model_of_other_settings_is_no_news(write_run: Any) -> None:
    write_run()
    write_run(config__model__name="mlp", model__parameters=500)
    (pairing,) = compare([write_run.folder], baseline="model=cnn").pairings
    assert pairing.differs_in == []
    assert [group.label for group in (pairing.baseline, pairing.group)] == ["cnn", "mlp"]


def test_a_key_that_a_newer_version_added_makes_no_group(write_run: Any) -> None:
    write_run()
    write_run(config__new_key=None, config__more=[])
    assert len(compare([write_run.folder]).groups) == 1


def test_a_run_that_died_before_it_knew_its_device_joins_its_group(write_run: Any) -> None:
    write_run(seed=0)
    write_run(seed=1, status="killed", exit_code=137, device={}, data={}, precision__policy=None)
    write_run(seed=0, policy="mixed_float16", device={}, data={}, status="oom", exit_code=4)
    first, second = compare([write_run.folder]).groups
    assert (len(first.runs), first.failures) == (2, {"killed: exit code 137": 1})
    assert (second.device, second.failures) == ("not recorded", {"oom: exit code 4": 1})


def test_of_two_that_it_may_belong_to_the_larger(write_run: Any) -> None:
    write_run(seed=0, device__name="Xeon")
    for seed in range(2):
        write_run(seed=seed)
    write_run(seed=3, status="killed", exit_code=137, device={}, data={})
    sizes = {group.device: len(group.runs) for group in compare([write_run.folder]).groups}
    assert sizes == {"cpu Xeon": 1, "cpu EPYC": 3}


def test_failures_are_told_by_their_cause(write_run: Any) -> None:
    for seed, step in enumerate((118, 131, 120)):
        reason = {"rule": "max_consecutive_skips", "step": step, "message": ""}
        write_run(seed=seed, status="diverged", exit_code=3, reason=reason)
    reason = {"rule": "oom_suspected", "step": None, "message": ""}
    write_run(seed=3, status="killed", exit_code=137, reason=reason, loss_scale__skipped_steps=9)
    write_run(seed=4, status="stopped_early", reason={"rule": "patience", "step": 7, "message": ""})
    (group,) = compare([write_run.folder]).groups
    assert group.failures == {
        "diverged: max_consecutive_skips at steps 118 to 131": 3,
        "killed: oom_suspected": 1,
    }
    assert group.throughput is not None
    assert group.throughput.count == 1  # of the run that came to its end
    assert group.skipped_steps is not None
    assert group.skipped_steps.high == 9  # of all


def test_settings_chosen_by_mpt_are_named(write_run: Any) -> None:
    for seed, steps in enumerate((16, 1, 16)):
        reasons = {"steps_per_execution": "measured", "jit_compile": "as configured"}
        execution = {"steps_per_execution": steps, "jit_compile": False, "choice_reasons": reasons}
        write_run(seed=seed, execution=execution)
    write_run(
        policy="mixed_bfloat16",
        execution={"steps_per_execution": 1, "choice_reasons": {"steps_per_execution": "measured"}},
    )
    result = compare([write_run.folder])
    assert result.groups[0].choices == {"steps_per_execution": "16, 1"}
    note = "steps_per_execution was chosen by measuring: 1, for the baseline 16, 1"
    assert note in result.pairings[0].notes


def test_tf32_is_a_policy_of_its_own(write_run: Any) -> None:
    gpu = {"device__kind": "gpu", "device__name": "A100"}
    write_run(**gpu, precision__tf32=True, config__precision__tf32=True)
    write_run(**gpu, precision__tf32=False)
    assert {group.policy for group in compare([write_run.folder]).groups} == {"tf32", "float32"}


def test_mixed_surroundings_are_told(write_run: Any) -> None:
    write_run(seed=0, environment__git_commit="a" * 40)
    newer = {"environment__tensorflow": "2.22.0", "environment__git_commit": "b" * 40 + "-dirty"}
    write_run(seed=1, **newer)
    write_run(policy="mixed_float16", **newer)
    result = compare([write_run.folder])
    assert "float32: its runs differ in TensorFlow: 2.21.0, 2.22.0" in result.notes
    assert f"float32: its runs differ in commit: {'a' * 12}, {'b' * 12}-dirty" in result.notes
    assert "other TensorFlow: 2.22.0, the baseline 2.21.0, 2.22.0" in result.pairings[0].notes


def named(*configs: dict[str, Any]) -> list[str]:
    flat = [flatten(config) for config in configs]
    return labels(flat, [config["precision"]["policy"] for config in configs])


def config(model: str = "cnn", policy: str = "float32", **more: Any) -> dict[str, Any]:
    return {"model": {"name": model}, "precision": {"policy": policy, "head": "float32"}, **more}


def test_labels_are_the_shortest_that_tell_groups_apart() -> None:
    assert named(config()) == ["float32"]
    assert named(config(), config(policy="mixed_float16")) == ["float32", "mixed_float16"]
    assert named(config("cnn"), config("mlp")) == ["cnn", "mlp"]
    assert named(config("cnn"), config("mlp", "mixed_float16"), config("mlp")) == [
        "cnn float32",
        "mlp mixed_float16",
        "mlp float32",
    ]
    # Two keys that vary together are one.
    assert named(config(trainer={"steps": 5}), config("mlp", trainer={"steps": 9})) == [
        "cnn",
        "mlp",
    ]
    batch = named(config(batch_size=128), config(batch_size="max"))
    assert batch == ["batch_size=128", "batch_size=max"]
    rate = named(config(optimizer={"learning_rate": 0.1}), config(optimizer={"learning_rate": 1.0}))
    assert rate == ["learning_rate=0.1", "learning_rate=1"]


def test_labels_of_one_policy_say_what_differs() -> None:
    heads = [config(policy="mixed_float16") for _ in range(2)]
    heads[1]["precision"]["head"] = "policy"
    assert named(*heads) == [
        "mixed_float16 head=float32",
        "mixed_float16 head=policy",
    ]


def test_auto_is_told_with_what_it_came_to() -> None:
    flat = [flatten(config(policy="auto")), flatten(config())]
    assert labels(flat, ["mixed_bfloat16", "float32"]) == ["auto (mixed_bfloat16)", "float32"]


def test_a_list_of_mappings_is_told_by_what_differs_in_it() -> None:
    found = named(*({**config(), "callbacks": [{"_target_": "P", "seconds": s}]} for s in (1, 2)))
    assert found == ["seconds=1", "seconds=2"]


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """A configuration in mixed_float16 with these (match, policy)."""
    found = config(policy="mixed_float16")
    found["precision"]["overrides"] = [{"match": m, "policy": p} for m, p in pairs]
    return found


def test_overrides_are_told_whole_and_in_words() -> None:
    two = rules(("conv2d", "float32"), ("energy", "float32"))
    assert named(config(), config(policy="mixed_float16"), two) == [
        "float32",
        "mixed_float16",
        "mixed_float16, float32: conv2d, energy",
    ]
    one, mixed = rules(("conv2d", "float32")), rules(("conv2d", "float32"), ("d/*", "bfloat16"))
    assert named(two, one, mixed) == [
        "mixed_float16, float32: conv2d, energy",
        "mixed_float16, float32: conv2d",
        "mixed_float16, float32: conv2d; bfloat16: d/*",
    ]
    assert named(two, {**two, "batch_size": 8}) == ["batch_size=null", "batch_size=8"]
    headless = rules(("conv2d", "float32"))
    headless["precision"]["head"] = "policy"
    assert named(one, headless) == ["mixed_float16 head=float32", "mixed_float16 head=policy"]
