"""The content of all outputs: what a comparison says, as tables and sentences."""

from pathlib import Path

import pytest
from pages_study import study

from mpt.comparison import Comparison, compare
from mpt.comparison.result import Interval, Spread
from mpt.pages import cells, tables
from mpt.pages.cells import Table
from mpt.report.numbers import rate, size


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = study(tmp_path_factory.mktemp("study"))
    return compare([folder], require="speedup>=1.2,memory<=0.5")


def cell(table: Table, row: str, key: str) -> cells.Cell:
    index = [column.key for column in table.columns].index(key)
    return next(each[index] for each in table.rows if each[0].text == row)


def test_a_group_shows_its_median_its_range_and_the_full_number(found: Comparison) -> None:
    spread = found.groups[0].throughput
    assert spread is not None
    speed = cell(tables.groups(found), "float32", "throughput")
    assert speed.value == spread.median
    assert speed.text == f"{spread.median:.0f} ({spread.low:.0f} to {spread.high:.0f})"


def test_failed_runs_are_counted_apart(found: Comparison) -> None:
    table = tables.groups(found)
    assert cell(table, "mixed_float16", "runs") == cells.Cell("5, 1 failed", 5, "bad")
    assert cell(table, "float32", "runs").text == "5"
    (failure,) = tables.failures(found).rows
    assert [each.text for each in failure[:2]] == ["mixed_float16", "1"]
    assert "max_consecutive_skips at step 700" in failure[2].text


def test_what_no_run_measured_has_no_column_and_is_named(found: Comparison) -> None:
    saved = [group.device_memory for group in found.groups]
    for group in found.groups:
        group.device_memory = None
    try:
        table = tables.groups(found)
    finally:
        for group, spread in zip(found.groups, saved, strict=True):
            group.device_memory = spread
    assert "device_memory" not in [column.key for column in table.columns]
    assert table.notes == ["Not measured in any run: device memory."]


def test_what_one_group_did_not_measure_is_a_dash_not_a_zero(found: Comparison) -> None:
    saved, found.groups[0].device_memory = found.groups[0].device_memory, None
    try:
        shown = cell(tables.groups(found), "float32", "device_memory")
    finally:
        found.groups[0].device_memory = saved
    assert shown == cells.Cell("-")


def test_a_pairing_shows_ratios_with_their_intervals(found: Comparison) -> None:
    pairing = found.pairings[0]
    table = tables.pairings(found)
    assert pairing.speedup is not None
    speed = cell(table, "mixed_bfloat16", "speedup")
    assert speed.value == pairing.speedup.estimate
    low, high = pairing.speedup.low, pairing.speedup.high
    assert speed.text == f"{pairing.speedup.estimate:.2f}x ({low:.2f} to {high:.2f})"
    assert cell(table, "mixed_bfloat16", "speed") == cells.Cell("faster", "faster", "good")
    assert cell(table, "mixed_bfloat16", "memory_ratio").value == pairing.memory_ratio


def test_a_pairing_without_a_verdict_says_so(found: Comparison) -> None:
    pairing = found.pairings[0]
    saved = pairing.speedup, pairing.speed, pairing.parity
    pairing.speedup, pairing.speed, pairing.parity = None, "none", None
    try:
        table = tables.pairings(found)
    finally:
        pairing.speedup, pairing.speed, pairing.parity = saved
    assert cell(table, "mixed_bfloat16", "speedup").text == "-"
    assert cell(table, "mixed_bfloat16", "speed").text == "no verdict"
    assert cell(table, "mixed_bfloat16", "parity").text == "not compared"


def test_what_the_verdict_says_is_not_said_again(found: Comparison) -> None:
    pairing = found.pairings[0]
    assert tables.remarks(found, pairing) == []
    reasons, found.verdicts[0].reasons = found.verdicts[0].reasons, []
    pairing.why_not_faster.append("bound by input: 40% of the time waiting for data")
    try:
        said = tables.remarks(found, pairing)
    finally:
        found.verdicts[0].reasons = reasons
        pairing.why_not_faster.clear()
    assert pairing.parity is not None
    assert said == [
        ("speed", pairing.speed_text),
        ("parity", pairing.parity.text),
        ("why not faster", "bound by input: 40% of the time waiting for data"),
    ]


def test_published_figures_stand_above_what_was_measured(found: Comparison) -> None:
    published, ours = tables.published(found).rows
    assert [each.text for each in published] == ["A vendor, 2018", "V100", "1.7", "0.98"]
    assert "mixed_bfloat16 1.8" in ours[2].text
    assert "NVIDIA T4" in ours[1].text
    assert "float32 0.98" in ours[3].text


def test_requirements_say_what_was_found(found: Comparison) -> None:
    rows = tables.requirements(found).rows
    found_of = {(row[1].text, row[2].text.split(":")[0]): row[0].text for row in rows}
    assert found_of == {
        ("speedup>=1.2", "mixed_bfloat16"): "met",
        ("speedup>=1.2", "mixed_float16"): "NOT MET",  # a run of it failed
        ("memory<=0.5", "mixed_bfloat16"): "NOT MET",
        ("memory<=0.5", "mixed_float16"): "NOT MET",
    }


def test_an_environment_that_differs_counts_the_runs(found: Comparison) -> None:
    run = found.runs[0]
    saved, run.report.environment.keras = run.report.environment.keras, "3.14.0"
    try:
        table = tables.environment(found)
    finally:
        run.report.environment.keras = saved
    text = cell(table, "keras", "value").text
    assert text == "3.14.0 (1 run); 3.15.1 (15 runs)"
    assert cell(tables.environment(found), "keras", "value").text == "3.15.1"


def test_the_unit_is_said_once() -> None:
    giga = 2.0**30
    spread = Spread(4.5 * giga, 4.4 * giga, 4.6 * giga, (4.4 * giga, 4.6 * giga))
    assert cells.spread(spread, size).text == "4.50 GiB (4.40 to 4.60)"
    mixed = Spread(giga, 2.0**20, 2 * giga, (2.0**20, 2 * giga))
    assert cells.spread(mixed, size).text == "1.00 GiB (1 MiB to 2.00 GiB)"
    assert cells.spread(Spread(7.0, 7.0, 7.0, (7.0,)), rate).text == "7"
    assert cells.spread(Spread(17.0, 17.0, 19.0, (17.0, 17.0, 19.0)), rate).text == "17 (17 to 19)"
    one = Interval(1.5, None, None, 0.95, 1, paired=True)
    assert cells.interval(one, cells.times).text == "1.50x"


def test_a_target_that_some_runs_reached_says_how_many(found: Comparison) -> None:
    group = found.groups[0]
    saved = group.seconds_to_target
    group.seconds_to_target = Spread(10.0, 9.0, 11.0, (9.0, 11.0))
    try:
        some = cell(tables.groups(found), "float32", "seconds_to_target")
        group.seconds_to_target = None
        none = cell(tables.groups(found), "float32", "seconds_to_target")
    finally:
        group.seconds_to_target = saved
    assert some.text == "10 (9 to 11), 2 of 5 runs"
    assert none.text == "not reached"


def test_a_comparison_without_a_metric_has_no_columns_for_it(tmp_path: Path) -> None:
    comparison = compare([study(tmp_path / "few", seeds=1)])
    assert comparison.target is not None
    comparison.metric = comparison.target = None
    keys = [column.key for column in tables.groups(comparison).columns]
    assert "final" not in keys
    assert "best" not in keys
    assert "seconds_to_target" not in keys
    assert tables.groups(comparison).notes == []
