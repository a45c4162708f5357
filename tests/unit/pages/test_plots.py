"""The plots: curves merged as NumPy would, axes, and pictures that hold the numbers."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from pages_study import report

from mpt.comparison.result import Comparison, Curve, Group, Interval, Pairing, Run, Spread
from mpt.pages import plots, timelines
from mpt.pages.series import POINTS, merge, series
from mpt.pages.svg import Axis, Figure, linear_ticks
from mpt.report import from_json


def run(seed: int = 0, policy: str = "mixed_float16", **curves: Curve) -> Run:
    content = report(policy, seed, Path("x"))
    return Run(Path(f"x/{seed}"), from_json(content), dict(curves), [])


def group(runs: list[Run], label: str = "mixed_float16", policy: str = "mixed_float16") -> Group:
    return Group(label, label, {}, policy, "gpu", 128, False, runs)


def svg(html: str) -> ElementTree.Element:
    found = re.search(r"<svg.*?</svg>", html, re.S)
    assert found is not None
    return ElementTree.fromstring(found[0])


def test_merged_runs_have_the_median_and_range_of_numpy() -> None:
    steps = np.arange(1.0, 101.0)
    rows = np.random.default_rng(0).normal(size=(5, 100)).cumsum(axis=1)
    runs = [run(i, loss=Curve(steps, None, row)) for i, row in enumerate(rows)]
    merged = merge(runs, "loss", by_time=False)
    assert merged is not None
    np.testing.assert_array_equal(merged.x, steps)
    np.testing.assert_allclose(merged.median, np.median(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.low, rows.min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.high, rows.max(axis=0), rtol=1e-12)


def test_long_curves_are_thinned_and_keep_their_extremes() -> None:
    steps = np.arange(10_000.0)
    values = np.sin(steps / 700)
    values[5_123] = 50.0
    merged = merge([run(loss=Curve(steps, None, values))], "loss", by_time=False)
    assert merged is not None
    x, y = merged.lines[0]
    assert len(x) <= 2 * POINTS
    assert y.max() == 50.0
    assert y.min() == values.min()
    assert (x[0], x[-1]) == (0.0, 9_999.0)
    assert len(merged.x) <= POINTS


def test_a_step_lies_at_the_time_of_the_median_run() -> None:
    values = np.linspace(1, 0, 11)
    runs = [
        run(i, loss=Curve(np.arange(11.0), start + np.linspace(0, end, 11), values + i))
        for i, (start, end) in enumerate(((0, 10.0), (5, 12.0), (1, 100.0)))
    ]
    merged = merge(runs, "loss", by_time=True)
    assert merged is not None
    times = np.stack([np.asarray(each.curves["loss"].seconds) for each in runs])
    np.testing.assert_allclose(merged.x, np.median(times, axis=0))
    np.testing.assert_allclose(merged.median, values + 1)
    assert (np.diff(merged.x) > 0).all()


def test_merged_runs_go_as_far_as_half_of_them() -> None:
    steps = (10, 20, 30, 40)
    runs = [
        run(i, loss=Curve(np.arange(1.0, n + 1), None, np.ones(n))) for i, n in enumerate(steps)
    ]
    merged = merge(runs, "loss", by_time=False)
    assert merged is not None
    assert merged.x[-1] == 30


def test_runs_without_times_have_no_curve_over_time() -> None:
    runs = [run(loss=Curve([1.0, 2.0], None, [1.0, 0.5]))]
    assert merge(runs, "loss", by_time=True) is None
    assert merge(runs, "absent", by_time=False) is None


def test_a_run_that_explodes_is_marked_and_does_not_flatten_the_others() -> None:
    steps = [1.0, 2.0, 3.0, 4.0]
    good = group([run(loss=Curve(steps, None, [2.0, 1.5, 1.2, 1.0]))], "good", "float32")
    bad = group([run(loss=Curve(steps, None, [2.0, 9e9, math.nan, math.inf]))], "bad")
    merged = merge(bad.runs, "loss", by_time=False)
    assert merged is not None
    assert merged.ends == [(2.0, 9e9)]
    lines = [merge(each.runs, "loss", by_time=False) for each in (good, bad)]
    axis = timelines.y_axis([line for line in lines if line is not None], 200)
    assert axis.high < 3
    picture = svg(timelines.curves(series([good, bad]), "loss")[0])
    crosses = [e for e in picture.iter() if e.get("class") == "cross"]
    assert len(crosses) == 1
    assert "nan" not in ElementTree.tostring(picture, encoding="unicode")


def test_only_values_that_are_not_finite_leave_an_empty_frame() -> None:
    nothing = group([run(loss=Curve([1.0, 2.0], None, [math.nan, math.nan]))])
    picture = svg(timelines.curves(series([nothing]), "loss")[0])
    assert not [e for e in picture.iter() if "curve" in (e.get("class") or "")]


def test_a_policy_has_one_colour_and_a_second_group_of_it_dashes() -> None:
    groups = [
        group([], "cnn float32", "float32"),
        group([], "cnn mixed_bfloat16", "mixed_bfloat16"),
        group([], "mlp float32", "float32"),
        group([], "odd", "float8_e4m3"),
    ]
    assert [each.line for each in series(groups)] == ["wide", "bf16", "wide d1", "other"]


def test_a_longer_bar_is_a_larger_median() -> None:
    groups = [group([], str(n), "float32") for n in (1, 2, 4)]
    for each, value in zip(groups, (100.0, 200.0, 400.0), strict=True):
        each.throughput = Spread(value, value * 0.9, value * 1.1, (value * 0.9, value * 1.1))
    picture = svg(plots.bars(series(groups), "throughput", "Throughput", "examples/s", str))
    widths = [
        float(e.get("width", ""))
        for e in picture.iter()
        if (e.get("class") or "").startswith("bar")
    ]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert widths[2] == pytest.approx(4 * widths[0], abs=0.3)


def test_an_interval_lies_where_the_axis_says() -> None:
    a, b = group([], "b"), group([], "a")
    pairing = Pairing(b, a, Interval(1.5, 1.25, 1.75, 0.95, 5, paired=True), "faster", "")
    made = Comparison([a, b], [pairing], [], None, None, None, "")
    (figure,) = plots.effects(made, series([a, b]))
    picture = svg(figure)
    ticks = {e.text: float(e.get("x", "")) for e in picture.iter() if e.get("class") == "tick"}
    at = next(e for e in picture.iter() if (e.get("class") or "").startswith("effect"))
    texts = sorted((float(str(text)[:-1]), x) for text, x in ticks.items())
    (v0, x0), (v1, x1) = texts[0], texts[-1]
    scale = (x1 - x0) / (v1 - v0)
    assert float(at.get("x1", "")) == pytest.approx(x0 + (1.25 - v0) * scale, abs=0.3)
    assert float(at.get("x2", "")) == pytest.approx(x0 + (1.75 - v0) * scale, abs=0.3)


def test_the_loss_scale_is_a_staircase_with_skips_marked() -> None:
    one = run()
    one.skips = [400, 1600]
    picture = svg(timelines.scale(series([group([one])])[0]))
    marks = [e for e in picture.iter() if e.get("class") == "skip"]
    assert len(marks) == 2
    path = next(e for e in picture.iter() if (e.get("class") or "").startswith("curve"))
    points = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.get("d", ""))
    assert len({y for _, y in points}) == 3  # 2^14, 2^15 and 2^16
    frame = next(e for e in picture.iter() if e.get("class") == "axis")
    assert points[0][0] == frame.get("x1")  # the first scale holds from step 0
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(points))
    ticks = [e.text for e in picture.iter() if e.get("class") == "tick"]
    assert "2¹⁵" in ticks


def test_a_run_without_loss_scaling_has_no_picture_of_it() -> None:
    assert timelines.scale(series([group([run(policy="float32")], "float32", "float32")])[0]) == ""


def test_ticks_are_round_and_inside() -> None:
    assert linear_ticks(0, 2000, 5) == [0, 500, 1000, 1500, 2000]
    assert linear_ticks(0.978, 0.982, 4) == [0.978, 0.979, 0.98, 0.981, 0.982]
    assert linear_ticks(3.0, 3.0, 5) == [3.0]
    for low, high in ((-1.7, 3.2), (1e-9, 3e-9), (12.0, 1e7)):
        found = linear_ticks(low, high, 5)
        assert 2 <= len(found) <= 7
        assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert Axis(2**10, 2**16, 100, 0, log=2).ticks(6) == [2.0**e for e in range(10, 17)]


def test_a_figure_says_what_it_shows_to_those_who_cannot_see_it() -> None:
    picture = ElementTree.fromstring(str(Figure("k", "Ti<tle>", "De&sc", 10, 10)))
    assert picture.get("role") == "img"
    texts = {e.get("id"): e.text for e in picture}
    assert picture.get("aria-labelledby") == "k-title k-desc"
    assert texts == {"k-title": "Ti<tle>", "k-desc": "De&sc"}


def test_an_id_has_no_space_and_no_two_keys_share_one() -> None:
    keys = ["a b", "a-b", "a/b", "ä"]
    ids = [Figure(key, "", "", 1, 1).key for key in keys]
    assert ids[1] == "a-b"
    assert len(set(ids)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", each) for each in ids)


def test_a_long_label_keeps_its_end() -> None:
    assert plots.shortened("mixed_bfloat16", 400) == "mixed_bfloat16"
    short = plots.shortened("resnet_with_a_long_name mixed_bfloat16", 200)
    assert len(short) == 200 // 9
    assert short.endswith("mixed_bfloat16")
    assert short.startswith("resn")


def test_a_history_that_holds_anything_is_drawn_as_far_as_it_can_be() -> None:
    each = run()
    each.report.loss_scale.history = [[1.0], [], [400.0, 2.0**14], [math.nan, 8.0], [9.0, 1.0, 2.0]]
    picture = svg(timelines.scale(series([group([each])])[0]))
    assert picture.find(".//path[@class]") is not None
    each.report.loss_scale.history = [[1.0]]
    timelines.scale(series([group([each])])[0])


@pytest.mark.parametrize("large", [1.7e308, -1.7e308, 5e-324])
def test_the_largest_and_smallest_numbers_are_drawn_as_far_as_they_can_be(large: float) -> None:
    steps = np.arange(3.0)
    curve = Curve(steps, steps, np.array([large, -large, large]))
    runs = [run(i, loss=curve) for i in range(4)]
    for each in runs:
        each.report.loss_scale.history = [[1.0, abs(large)], [2.0, 8.0]]
    drawn = series([group(runs)])
    pictures = [*timelines.curves(drawn, "loss"), *timelines.scales(drawn)]
    assert len(pictures) == 3
    for picture in pictures:
        assert not re.search(r'="[^"]*\b(nan|inf)\b', picture.split("<details")[0])
