"""What the bench makes of its figures, on figures made up here."""

import json
import math

import pytest
from made_up_profile import profile

from bench import documents, results, step_time, targets, verdicts
from bench.__main__ import pointless, selected
from bench.pictures import step_picture

MACHINE = {"cpu": "AMD EPYC", "cores": 2, "bfloat16_units": True, "float16_units": False}


def case(work="mlp", policy="float32", mpt=(8.0, 9.0, 10.0), keras=(10.0, 10.0, 20.0), **more):
    times = {"mpt": list(mpt), "keras: as written": list(keras)}
    return {
        "kind": "step time",
        "work": work,
        "policy": policy,
        "batch": 256,
        "pilot": {label: values[0] for label, values in times.items()},
        "times": times,
        "medians": {label: sorted(values)[1] for label, values in times.items()},
        "best": {"mpt": "mpt", "keras": "keras: as written"},
        "not_measured": {"torch": "MPT_TORCH_PYTHON is not set"},
        "losses": verdicts.agreement({"mpt": [2.0, 1.0], "keras": [2.0, 1.0]}, 1e-4, 0.02, 1),
        **more,
    }


def measured(*cases):
    found = {"cases": {}}
    for each in cases:
        results.merge(found, f"{each['work']} {each['policy']}", each, rounds=3)
        found["cases"][f"{each['work']} {each['policy']}"]["machine"] = MACHINE
    return found


def test_a_geometric_mean_is_that_of_the_factors():
    assert verdicts.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert verdicts.geometric_mean([0.8, 0.9, 1.0]) == pytest.approx(0.72 ** (1 / 3))
    assert verdicts.geometric_mean([]) is None


@pytest.mark.parametrize(
    ("other", "agree"),
    [
        ([2.0, 1.0, 0.5, 0.5], True),
        ([2.001, 1.0, 0.5, 0.5], False),  # another first step: not the same model
        ([2.0, 1.0, 0.4, 0.4], False),  # another training
        ([2.0, 1.0, 0.45, 0.55], True),  # the mean of the last two counts
        ([2.0, 1.0, math.nan, 0.5], False),
    ],
)
def test_losses_that_lie_apart_make_a_comparison_void(other, agree):
    curves = {"mpt": [2.0, 1.0, 0.5, 0.5], "keras": other}
    found = verdicts.agreement(curves, 1e-4, 0.02, 2)
    assert found["agree"] is agree
    assert found["steps"] == 4


def test_a_void_case_counts_for_no_mean_and_is_marked():
    apart = verdicts.agreement({"mpt": [2.0, 1.0], "keras": [2.0, 1.5]}, 1e-4, 0.02, 1)
    void = case("cnn", mpt=(1.0, 1.0, 1.0), losses=apart)
    assert targets.mean([case(), void], "keras", None) == targets.mean([case()], "keras", None)
    text = documents.text(measured(case(), void))
    row = next(line for line in text.splitlines() if line.startswith("| cnn, 28x28x1"))
    assert "1 / 1.5; **void**" in row
    assert (
        "- cnn is void: the losses lie 0% apart at the first step (at most 0.01%) and 33%" in text
    )


def test_a_ratio_is_taken_round_by_round_with_its_spread():
    figure = targets.against(case(), "keras")
    assert (figure.value, figure.low, figure.high) == (0.8, 0.5, 0.9)
    assert figure.target == targets.MLP
    assert figure.reached
    assert targets.against(case(), "torch") is None


@pytest.mark.parametrize(
    ("work", "policy", "most"),
    [
        ("cnn", "float32", 1.0),
        ("mlp", "mixed_bfloat16", 0.8),
        ("resnet20", "float32", 1.0),
        ("resnet20", "mixed_bfloat16", 0.6),
        ("resnet50", "mixed_bfloat16", 0.6),
    ],
)
def test_each_case_has_its_target(work, policy, most):
    assert targets.against(case(work, policy), "keras").target == most


def test_the_share_of_the_ceiling_is_flops_over_time_over_the_peak():
    figure = targets.share(case(flops_per_step=9e8, peak_flops_per_second=2e11))
    assert figure.value == pytest.approx(0.5)
    assert figure.reached is False  # at least 0.70 on the mlp
    assert targets.share(case(flops_per_step=None, peak_flops_per_second=2e11)) is None


def test_a_policy_is_held_against_the_best_float32_by_xla_or_not():
    wide = case("cnn", mpt=(10.0, 10.0, 10.0))
    wide["pilot"]["mpt: XLA"] = 8.0
    half = case("cnn", "mixed_bfloat16", mpt=(4.0, 4.0, 4.0))
    assert targets.speed_ups([wide, half]) == [("cnn", "mixed_bfloat16", 0.5)]


def test_a_pilot_keeps_what_is_near_the_best_two_at_the_most():
    assert step_time.near({"a": 10.0, "b": 10.6, "c": 10.8}) == ["a", "b"]
    assert step_time.near({"a": 10.5, "b": 10.6, "c": 10.0}) == ["c", "a"]
    assert step_time.near({"a": 10.0, "b": 20.0}) == ["a"]
    assert step_time.near({}) == []


def test_only_what_lies_between_the_markers_is_written_anew():
    page = f"before\n{documents.BEGIN}\nold\n{documents.END}\nafter\n"
    once = documents.between(page, "new")
    assert once == f"before\n{documents.BEGIN}\n\nnew\n\n{documents.END}\nafter\n"
    assert documents.between(once, "new") == once


@pytest.mark.parametrize(
    "page",
    [
        "no marker",
        documents.BEGIN,
        f"{documents.END} {documents.BEGIN}",
        f"{documents.BEGIN} {documents.END} " * 2,
    ],
)
def test_a_page_without_one_pair_of_markers_is_refused(page):
    with pytest.raises(ValueError, match="the page needs one"):
        documents.between(page, "new")


def test_a_page_and_its_pictures_come_from_the_results_alone(tmp_path):
    page = tmp_path / "performance.md"
    markers = (documents.BEGIN, documents.END, *documents.PROFILES)
    page.write_text("\n".join(["# P", *markers, "after"]))
    found = measured(case(), case("cnn", "mixed_bfloat16", mpt=(11.0, 11.0, 11.0)))
    (tmp_path / "profiles-mlp.json").write_text(json.dumps(profile("mpt")))
    readme = tmp_path / "README.md"
    readme.write_text(f"# R\n{documents.BEGIN}\n{documents.END}\n")
    documents.write(found, page, tmp_path, tmp_path, readme)
    text = page.read_text()
    begin, end = documents.PROFILES
    assert "| **step** | **2.0** |" in text.partition(begin)[2].partition(end)[0]
    assert "| mlp | 0.800 (0.500 to 0.900), at most 0.80: reached | not measured |" in text
    assert "| cnn | 1.100 (0.550 to 1.100), at most 1.00: **missed** |" in text
    assert "2 cores of an AMD EPYC with bfloat16 units" in text
    assert "mlp float32, torch: MPT_TORCH_PYTHON is not set" in text
    assert "resnet20 float32" in text.partition("Not measured: ")[2]
    for policy in ("float32", "mixed-bfloat16"):
        assert f"images/step-time-{policy}.svg" in text
        assert (tmp_path / f"step-time-{policy}.svg").read_text().startswith("<svg xmlns=")


def test_cases_of_one_machine_share_a_sentence_with_pytorch_where_some_have_it():
    found = measured(case(also={"torch: eager": {"version": "2.13.0+cpu"}}), case("cnn"))
    text = documents.provenance(found["cases"].values())
    assert text.count("Measured on") == 1
    assert text.endswith(", PyTorch 2.13.0+cpu.")


def test_a_picture_says_its_figures_to_those_who_cannot_see_it():
    picture = step_picture("float32", [case()])
    assert "mlp: mpt 9 ms, Keras fit 10 ms" in picture
    assert "mpt takes 0.80" in picture  # the median of the ratios, not the ratio of the medians


def test_a_case_measured_again_replaces_itself_alone(tmp_path):
    path = tmp_path / "machine.json"
    results.save(measured(case(), case("cnn")), path)
    found = results.load(path)
    results.merge(found, "mlp float32", case(mpt=(1.0, 1.0, 1.0)), rounds=3)
    results.save(found, path)
    cases = results.load(path)["cases"]
    assert cases["mlp float32"]["medians"]["mpt"] == 1.0
    assert cases["cnn float32"]["medians"]["mpt"] == 9.0
    assert {"date", "rounds", "machine", "versions"} <= cases["cnn float32"].keys()
    assert list(tmp_path.iterdir()) == [path]


def test_cases_are_chosen_by_name_by_beginning_and_by_policy():
    names = ["mlp float32", "mlp mixed_bfloat16", "cnn float32", "resume", "resume resnet20"]
    assert selected(names, None, None) == names
    assert selected(names, ["mlp"], None) == names[:2]
    assert selected(names, ["resume"], None) == ["resume"]
    assert selected(names, ["mlp", "cnn"], ["float32"]) == ["mlp float32", "cnn float32"]
    with pytest.raises(SystemExit, match="no case is called 'ml'"):
        selected(names, ["ml"], None)


def test_a_policy_without_units_is_left_out_with_the_reason():
    assert pointless("float32", "cpu", MACHINE) is None
    assert pointless("mixed_bfloat16", "cpu", MACHINE) is None
    assert "no float16 units" in pointless("mixed_float16", "cpu", MACHINE)
    assert pointless("mixed_float16", "gpu", MACHINE) is None
    assert pointless("tf32", "gpu", MACHINE) is None
    assert pointless("tf32", "cpu", MACHINE) is not None


def test_the_readme_s_table_has_a_row_a_network():
    half = case("cnn", "mixed_bfloat16", mpt=(4.0, 4.0, 4.0))
    text = documents.brief(measured(case("cnn", mpt=(8.0, 8.0, 8.0)), half))
    head, _, row, *_ = text.splitlines()
    assert head.endswith("| bfloat16, times float32's speed |")
    assert row.startswith("| cnn | 0.")
    assert row.endswith("| 2.00 |")


def test_the_readme_has_the_figures_of_the_results():
    found = json.loads((results.FOLDER / "amd-epyc-2-cores-bf16.json").read_text())
    page = documents.README.read_text()
    assert documents.between(page, documents.brief(found)) == page, (
        "run: make bench ARGS=--docs-only"
    )
