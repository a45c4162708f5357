"""The file, the tables and the picture of findings that are known."""

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from known_layers import layer

from mpt import report
from mpt.probing import picture, tables
from mpt.probing.document import Findings, document
from mpt.probing.ranking import rank
from mpt.probing.recommendation import SCALES, recommend, scale_row


def findings(*layers, policy="mixed_float16", scale=2.0**15):
    rows = [scale_row(layers, each) for each in SCALES]
    return Findings(
        policy=policy,
        reference="float32",
        batches=2,
        batch_size=16,
        scale=scale,
        model="demo",
        layers=list(layers),
        scales=rows,
        recommendation=recommend(list(layers), rows, policy),
        ranking=rank(list(layers), scale),
        notes=["Something to know."],
    )


@pytest.fixture
def found():
    spread = np.exp2(np.linspace(-30, -4, 300))
    return findings(
        layer("encoder/a_layer_with_a_name_that_is_rather_long", gradients=[*spread, 0.0]),
        layer("boom", gradients=spread, weights=spread, entered=1e-4, left=0.5),
        layer("head", gradients=[0.5], dtype="float32"),
    )


def test_the_file_has_what_readers_look_for(found):
    content = json.loads(json.dumps(report.encode(document(found)), allow_nan=False))
    assert set(content) >= {
        *("schema_version", "policy", "reference", "batches", "scale", "layers", "histograms"),
        *("scales", "recommendation", "ranking"),
    }
    assert set(content["layers"][0]) >= {
        *("path", "class", "compute_dtype", "forward_relative_error", "gradient_relative_error"),
        *("underflow_share", "subnormal_share", "largest_scaled_gradient"),
        *("forward_finite", "backward_finite"),
    }
    assert [row["scale"] for row in content["scales"]] == [2.0**e for e in range(25)]
    assert set(content["scales"][0]) == {
        *("scale", "finite", "largest", "underflow_share", "subnormal_share", "headroom_bits")
    }
    assert set(content["recommendation"]) == {"needed", "initial_scale", "message"}
    assert content["ranking"][0]["path"] == "boom"
    assert set(content["ranking"][0]) == {"path", "score", "reason"}


def test_histograms_hold_every_half_precision_gradient_once(found):
    histograms = document(found)["histograms"]
    for each in (histograms["reference"], *histograms["policy"]):
        for kind, size in (("activation_gradients", 601), ("weight_gradients", 300)):
            counts = each[kind]
            held = counts["zero"] + counts["non_finite"] + sum(counts["exponents"].values())
            assert held == size
    assert histograms["reference"]["activation_gradients"]["zero"] == 1
    assert histograms["policy"][0]["activation_gradients"]["zero"] > 100
    assert [each["scale"] for each in histograms["policy"]] == list(SCALES)


def test_infinite_errors_and_nothing_measured_are_told_apart(capsys):
    found = findings(
        layer("boom", finite=False, gradients=[np.nan]), layer("unseen", gradients=[], left=0.0)
    )
    rows = {row["path"]: row for row in document(found)["layers"]}
    assert rows["boom"]["forward_relative_error"] == math.inf
    assert (rows["boom"]["forward_finite"], rows["boom"]["backward_finite"]) == (False, False)
    assert rows["unseen"]["gradient_relative_error"] is None
    assert rows["unseen"]["underflow_share"] is None
    tables.show(found)
    lines = capsys.readouterr().out.splitlines()
    (boom,) = (line for line in lines if line.startswith("boom "))
    (unseen,) = (line for line in lines if line.startswith("unseen "))
    assert "not finite" in boom
    assert unseen.split()[2:] == ["0", "-", "-", "-", "-", "-"]


def test_where_no_scale_helps_none_is_listed(capsys):
    tables.show(findings(layer("boom", finite=False, gradients=[np.nan])))
    lines = capsys.readouterr().out.splitlines()
    assert "The gradients are finite under no loss scale from 2^0 to 2^24." in lines
    assert not any(line.startswith("2^") for line in lines)


def test_tables_are_plain_and_whole_without_a_terminal(found, capsys):
    tables.show(found)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == "demo under mixed_float16 beside float32: 2 batches of 16, loss scale 2^15"
    assert any(
        line.startswith("encoder/a_layer_with_a_name_that_is_rather_long  float16")
        for line in lines
    )
    (first,) = (line for line in lines if "this run's first" in line)
    assert first.split()[0] == "2^15"
    (best,) = (line for line in lines if line.endswith("recommended"))
    assert best.startswith("2^17 ")  # 2^-4 times 2^17 is 2^13, almost three bits below 65504
    assert "harmed most: boom: forward error grows from 0.0001 to 0.5" in lines
    assert "note: Something to know." in lines


def test_the_picture_is_an_svg_that_names_model_policy_and_limits(found, tmp_path):
    assert picture.draw(found, tmp_path, "svg") == "probe.svg"
    text = (tmp_path / "probe.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    for words in (
        "demo under mixed_float16, 32 examples",
        "zero in float16",
        "subnormal",
        "overflow",
    ):
        assert f"<!-- {words}" in text
    first = text
    picture.draw(found, tmp_path, "svg")
    assert (tmp_path / "probe.svg").read_text() == first


def test_the_picture_s_bars_are_the_histogram(found, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.bar

    def bar(self, x, height, **kwargs):
        drawn.append(dict(zip(list(x), list(height), strict=True)))
        return original(self, x, height, **kwargs)

    monkeypatch.setattr(Axes, "bar", bar)
    picture.draw(found, tmp_path, "png")
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    counts = document(found)["histograms"]["reference"]["activation_gradients"]
    shares = {int(e): 100 * n / 601 for e, n in counts["exponents"].items()}
    assert drawn[0] == pytest.approx(shares)
    assert sum(shares.values()) + sum(drawn[1].values()) == pytest.approx(100)


@pytest.mark.parametrize("gradients", [[0.0, 0.0], [np.nan], [1e-40]])
def test_odd_gradients_are_drawn_too(gradients, tmp_path):
    picture.draw(findings(layer("one", gradients=gradients)), tmp_path, "svg")
    assert (tmp_path / "probe.svg").stat().st_size > 1000
