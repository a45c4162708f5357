"""Commands on a model whose products are in float8."""

import json

import pytest

from mpt.cli import main

WORDS = (
    *("train", "model=vit", "model.width=16", "model.depth=1", "model.heads=2", "device=cpu"),
    *("dataset.examples=320", "batch_size=32", "trainer.epochs=null", "trainer.steps=24"),
    *("trainer.warmup_steps=5", "telemetry.peak=false", "-q"),
)
CONVERTED = [f"block1_{name}" for name in ("attention_qkv", "attention_out", "feed_in", "feed_out")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for precision in ("float8", "mixed_bfloat16"):
        assert main([*WORDS, f"precision={precision}", f"run_dir={folder / precision}"]) == 0
    return folder


def report_of(run):
    return json.loads((run / "report.json").read_text())


def test_the_report_says_what_was_converted(runs):
    report = report_of(runs / "float8")
    precision = report["precision"]
    assert (precision["requested"], precision["policy"]) == ("float8", "mixed_bfloat16")
    rows = {row["path"]: row for row in precision["table"]}
    assert [path for path, row in rows.items() if row.get("quantization") == "float8"] == CONVERTED
    assert rows["head"]["compute_dtype"] == "float32"
    assert any("experimental" in text for text in report["warnings"])
    plain = report_of(runs / "mixed_bfloat16")
    assert report["model"]["parameters"] == plain["model"]["parameters"]
    assert report["metrics"]["final"] != plain["metrics"]["final"]
    assert report["name"] == "vit_float8"


def test_compare_and_show_name_it(mpt, runs):
    done = mpt("compare", str(runs), "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert {group["label"] for group in content["groups"]} == {"float8", "mixed_bfloat16"}
    (note,) = content["notes"]
    assert "products of 4 Dense of" in note
    shown = mpt("show", str(runs / "float8"), "-v").out
    assert shown.count("bfloat16, products in float8") == 4


def test_inspect_shows_it(mpt):
    done = mpt("inspect", *WORDS[1:-1], "precision=float8", "--json")
    assert done.code == 0, done.err
    layers = json.loads(done.out)["layers"]
    assert [row["path"] for row in layers if row["quantization"] == "float8"] == CONVERTED
    text = mpt("inspect", *WORDS[1:-1], "precision=float8").out
    assert text.count("global, float8") == 4
    assert "products of 4 Dense layers, " in text


@pytest.mark.slow
def test_evaluate_under_its_own_policy_and_others(mpt, runs):
    own = json.loads(mpt("evaluate", str(runs / "float8"), "--json").out)
    assert own["policy"] == own["trained"]["policy"] == "float8"
    assert own["metrics"] == own["trained"]["metrics"]
    wide = json.loads(mpt("evaluate", str(runs / "float8"), "precision=float32", "--json").out)
    assert wide["metrics"]["loss"] != own["metrics"]["loss"]
    assert wide["metrics"]["loss"] == pytest.approx(own["metrics"]["loss"], rel=0.05)
    other = mpt("evaluate", str(runs / "mixed_bfloat16"), "precision=float8", "--json")
    assert "scales start at 1" in other.err
    assert json.loads(other.out)["policy"] == "float8"


@pytest.mark.slow
def test_export(mpt, runs, tmp_path):
    done = mpt("export", str(runs / "float8"), "--to", str(tmp_path / "saved"))
    assert done.code == 0, done.err
    assert "policy       float8" in done.out
    assert (tmp_path / "saved" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "model=cnn", "precision=float8"), "No layer of the model can compute its"),
        (
            ("train", "model=vit", "precision.overrides=[{match: norm, policy: float8}]"),
            "No layer that 'norm' names",
        ),
        (("train", "model=vit", "precision.head=float8"), "precision.head"),
        (("probe", *WORDS[1:-1], "precision=float8"), "probe it under precision=mixed_bfloat16"),
    ],
)
def test_what_cannot_be(mpt, words, says, tmp_path):
    run = tmp_path / "run"
    done = mpt(*words, f"run_dir={run}", "dataset=digits")
    assert done.code == 2
    assert says in done.err
    assert not run.exists()
