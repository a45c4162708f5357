"""The pages in Chromium: values against report.json, on a phone, dark, and printed."""

import base64
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages_study import POLICIES, study

from mpt.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its pages: compare.html and run.html."""
    folder = tmp_path_factory.mktemp("pages")
    study(folder / "runs")
    require = "speedup>=1.2,memory<=0.5"
    page = str(folder / "compare.html")
    assert main(["compare", str(folder / "runs"), "--html", page, "--require", require]) == 5
    run = str(folder / "runs" / "mixed_float16_1")
    assert main(["show", run, "--html", str(folder / "run.html")]) == 0
    return folder


def reports(folder: Path, policy: str) -> list[dict[str, Any]]:
    files = sorted((folder / "runs").glob(f"{policy}_*/report.json"))
    return [json.loads(file.read_text()) for file in files]


def value(page: Any, table: str, row: str, key: str) -> Any:
    """The number behind a cell, and the text that is seen."""
    cell = page.find_element(
        "css selector", f'[data-table="{table}"] [data-row="{row}"][data-key="{key}"]'
    )
    return float(cell.get_attribute("data-value")), cell.text


def opened(page: Any, file: Path) -> Any:
    page.get(file.as_uri())
    return page


@pytest.mark.parametrize("policy", POLICIES)
def test_the_values_of_a_comparison_are_those_of_the_reports(
    browser: Callable[..., Any], folder: Path, policy: str
) -> None:
    page = opened(browser(), folder / "compare.html")
    found = reports(folder, policy)
    expected = {
        "throughput": [each["throughput"]["examples_per_second"] for each in found],
        "step_time_ms": [each["throughput"]["step_time_ms"]["median"] for each in found],
        "device_memory": [each["memory"]["device_peak_bytes"] for each in found],
        "final": [each["metrics"]["final"]["validation/accuracy"] for each in found],
        "best": [each["metrics"]["best"]["value"] for each in found],
        "skipped_steps": [each["loss_scale"]["skipped_steps"] for each in found],
    }
    for key, values in expected.items():
        number, text = value(page, "groups", policy, key)
        assert number == statistics.median(values), key
        assert text
    number, text = value(page, "groups", policy, "throughput")
    low, high = min(expected["throughput"]), max(expected["throughput"])
    assert " ".join(text.split()) == f"{number:.0f} ({low:.0f} to {high:.0f})"


def test_the_ratios_are_those_of_the_reports(browser: Callable[..., Any], folder: Path) -> None:
    page = opened(browser(), folder / "compare.html")
    wide, narrow = reports(folder, "float32"), reports(folder, "mixed_bfloat16")

    def speed(each: dict[str, Any]) -> float:
        return float(each["throughput"]["examples_per_second"])

    ratios = [speed(b) / speed(a) for a, b in zip(wide, narrow, strict=True)]
    number, text = value(page, "pairings", "mixed_bfloat16", "speedup")
    assert number == pytest.approx(statistics.geometric_mean(ratios), rel=1e-9)
    assert text.startswith(f"{number:.2f}x")
    peaks = [
        statistics.median(each["memory"]["device_peak_bytes"] for each in group)
        for group in (narrow, wide)
    ]
    number, _ = value(page, "pairings", "mixed_bfloat16", "memory_ratio")
    assert number == pytest.approx(peaks[0] / peaks[1], rel=1e-9)


def test_the_verdict_is_what_is_seen_first(browser: Callable[..., Any], folder: Path) -> None:
    page = opened(browser(), folder / "compare.html")
    heading = page.find_element("css selector", "h1")
    assert heading.text.startswith("Use mixed_bfloat16: 1.8 times faster, 41% less memory")
    assert 0 < heading.rect["y"] < 200
    sizes = page.execute_script(
        "return ['h1', 'h2', 'p'].map(name =>"
        " parseFloat(getComputedStyle(document.querySelector('main ' + name)).fontSize))"
    )
    assert sizes[0] > 1.3 * sizes[1]
    met = page.find_elements("css selector", '[data-table="requirements"] tbody tr')
    # A failed run rules out its group.
    assert ["NOT MET" in row.text for row in met] == [False, True, True, True]


def test_the_values_of_a_run_are_those_of_its_report(
    browser: Callable[..., Any], folder: Path
) -> None:
    page = opened(browser(), folder / "run.html")
    report = reports(folder, "mixed_float16")[1]
    for tag, expected in report["metrics"]["final"].items():
        number, _ = value(page, "metrics", tag, "final")
        assert number == expected
    rows = page.find_elements("css selector", '[data-table="precision"] tbody tr')
    assert [row.text.split() for row in rows] == [
        [row["path"], row["class"], row["variable_dtype"], row["compute_dtype"], row["source"]]
        for row in report["precision"]["table"]
    ]
    speed = page.find_element("css selector", 'dd[data-key="throughput"]').text
    assert f"{report['throughput']['examples_per_second']:.0f} examples/s" in speed
    best = report["metrics"]["best"]
    assert f"{best['value']:.4g} at step {best['step']}" in page.find_element("tag name", "h1").text
    skips = page.find_elements("css selector", "svg .skip")
    assert len(skips) == report["loss_scale"]["skipped_steps"]


@pytest.mark.parametrize("name", ["compare.html", "run.html"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_scrolls_sideways(
    browser: Callable[..., Any], folder: Path, name: str, width: int
) -> None:
    page = opened(browser(width), folder / name)
    page.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    # What is wider than the page scrolls in its own box; nothing else sticks out.
    beyond = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter(each =>"
        " !each.closest('.scroll, pre, svg') &&"
        " each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML)"
    )
    assert beyond == []


@pytest.mark.parametrize("name", ["compare.html", "run.html"])
def test_plots_are_as_wide_as_a_phone_and_their_text_can_be_read(
    browser: Callable[..., Any], folder: Path, name: str
) -> None:
    page = opened(browser(360), folder / name)
    sizes = page.execute_script(
        "return [...document.querySelectorAll('.plot svg')].map(svg =>"
        " [svg.getBoundingClientRect().width, svg.viewBox.baseVal.width,"
        "  ...[...svg.querySelectorAll('text')].map(text =>"
        "  parseFloat(getComputedStyle(text).fontSize))])"
    )
    assert sizes
    for width, units, *texts in sizes:
        assert 300 <= width <= 360
        assert min(texts) * width / units >= 9.5


@pytest.mark.parametrize("name", ["compare.html", "run.html"])
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_have_contrast(
    browser: Callable[..., Any], folder: Path, name: str, dark: bool
) -> None:
    page = opened(browser(dark=dark), folder / name)
    colours = page.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " ...[...document.querySelectorAll('h1, p, dt, dd, td, th, summary, figcaption')]"
        " .map(each => getComputedStyle(each).color),"
        " ...[...document.querySelectorAll('svg text')]"
        " .map(each => getComputedStyle(each).fill)]"
    )
    paper, *texts = [luminance(colour) for colour in colours]
    assert (paper < 0.05) == dark
    for text in texts:  # WCAG 2.1, 1.4.3: at least 4.5 to 1
        assert (max(paper, text) + 0.05) / (min(paper, text) + 0.05) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_lines_and_bars_stand_out(browser: Callable[..., Any], folder: Path, dark: bool) -> None:
    page = opened(browser(dark=dark), folder / "compare.html")
    paper, *marks = page.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " ...[...document.querySelectorAll('.swatch')]"
        " .map(each => getComputedStyle(each).backgroundColor)]"
    )
    assert len(set(marks)) == 3
    for mark in set(marks):  # WCAG 2.1, 1.4.11: at least 3 to 1
        pair = sorted((luminance(mark), luminance(paper)))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3


def luminance(colour: str) -> float:
    """The relative luminance of "rgb(r, g, b)", by WCAG 2.1."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", ["compare.html", "run.html"])
def test_a_page_asks_for_nothing_and_complains_of_nothing(
    browser: Callable[..., Any], folder: Path, name: str
) -> None:
    page = opened(browser(), folder / name)
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.find_elements("css selector", "script") == []


def test_the_numbers_of_a_plot_open_without_a_script(
    browser: Callable[..., Any], folder: Path
) -> None:
    page = browser()
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(page, folder / "compare.html")
        figure = page.find_element("css selector", "figure:has(#plot-throughput)")
        table = figure.find_element("css selector", "table")
        assert not table.is_displayed()
        figure.find_element("css selector", "summary").click()
        assert table.is_displayed()
        expected = reports(folder, "float32")
        speeds = [each["throughput"]["examples_per_second"] for each in expected]
        number, _ = value(page, "throughput", "float32", "median")
        assert number == statistics.median(speeds)
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("name", ["compare.html", "run.html"])
def test_print_is_dark_on_light_and_opens_what_is_closed(
    browser: Callable[..., Any], folder: Path, name: str
) -> None:
    page = opened(browser(718, dark=True), folder / name)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    try:
        ink, paper = page.execute_script(
            "const style = getComputedStyle(document.body);"
            " return [style.color, style.backgroundColor]"
        )
        assert luminance(ink) < 0.05 < 0.9 < luminance(paper)
        hidden = page.execute_script(
            "return [...document.querySelectorAll('details table')].filter(each =>"
            " !each.checkVisibility() || each.getBoundingClientRect().height == 0).length"
        )
        assert hidden == 0
        wide = page.execute_script(
            "return [...document.querySelectorAll('main table, main svg')].filter(each =>"
            " each.getBoundingClientRect().right > innerWidth + 1)"
            " .map(each => each.outerHTML.slice(0, 99))"
        )
        assert wide == []
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(page.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")


@pytest.mark.slow
def test_a_run_that_was_trained_is_shown_as_it_was(
    browser: Callable[..., Any], mpt_process: Callable[..., Any], tmp_path: Path
) -> None:
    words = ("model=mlp", "precision=mixed_bfloat16", "trainer.steps=60", "run_dir=run")
    assert mpt_process("train", *words).code == 0
    assert mpt_process("show", "run", "--html", "run.html").code == 0
    page = opened(browser(), tmp_path / "run.html")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    for tag, expected in report["metrics"]["final"].items():
        assert value(page, "metrics", tag, "final")[0] == expected
    rows = page.find_elements("css selector", '[data-table="precision"] tbody tr')
    assert len(rows) == len(report["precision"]["table"]) > 0
    captions = [each.text for each in page.find_elements("css selector", "figcaption")]
    assert {"validation/loss by step", "validation/loss by wall time"} <= set(captions)
    assert page.get_log("browser") == []
