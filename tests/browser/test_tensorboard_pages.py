"""TensorBoard's pages over a run that `mpt train` made, in a real browser."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpt.cli import main
from mpt.report import RunReport
from mpt.telemetry import hparams
from mpt.telemetry.tensorboard import Board

TRAIN = (
    "train",
    "precision=mixed_float16",
    "loss_scale=dynamic",
    "trainer.steps=6",
    "trainer.log_every=2",
    "trainer.warmup_steps=0",
    "dataset.examples=200",
    "batch_size=20",
    "telemetry.peak=false",
    "seed=7",
)
# All text of the page, through shadow roots, in the order of the document.
TEXTS = """
const found = [];
const walk = (node) => {
  if (['STYLE', 'SCRIPT', 'NOSCRIPT', 'TEMPLATE'].includes(node.tagName)) return;
  if (node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    found.push(node.textContent.trim());
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return found;
"""
# The elements that a selector finds, through shadow roots; each as its text.
ALL = """
const found = [];
const walk = (root) => {
  root.querySelectorAll(arguments[0]).forEach((each) => found.push(each.textContent.trim()));
  root.querySelectorAll('*').forEach((each) => each.shadowRoot && walk(each.shadowRoot));
};
walk(document);
return found;
"""
# The table of the HParams page: the cells of its header and of each row.
TABLE = """
let grid = null;
const walk = (root) => {
  grid = grid || root.querySelector('tf-hparams-table-view');
  root.querySelectorAll('*').forEach((each) => each.shadowRoot && walk(each.shadowRoot));
};
walk(document);
grid = grid && (grid.shadowRoot || grid).querySelector('vaadin-grid');
if (!grid) return [];
const ours = 'th, td:not([part~="details-cell"])';
const cells = (row) => [...row.querySelectorAll(ours)].map((cell) => {
  const content = grid.querySelector(`[slot="${cell.querySelector('slot').name}"]`);
  const texts = [];
  const read = (node) => {
    if (['STYLE', 'TEMPLATE'].includes(node.tagName)) return;
    if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
    if (node.shadowRoot) read(node.shadowRoot);
    node.childNodes.forEach(read);
  };
  read(content);
  return texts.join('').trim();
});
const rows = [...grid.shadowRoot.querySelectorAll('thead tr, #items tr:not([hidden])')];
return rows.map(cells);
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `good`, and one that was killed half-way, `killed`."""
    folder = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, f"run_dir={folder}/good"]) == 0
    config = report_of(folder)["config"] | {"seed": 8}
    killed = RunReport("killed", "killed", ["mpt"], "2026-01-01T00:00:00Z", config)
    killed.precision.requested = "mixed_float16"
    with Board(folder / "killed" / "tensorboard") as board:
        hparams.begin(board, killed)
        board.scalars(2, {"loss_scale/skipped_steps": 1})
    return folder


@pytest.fixture(scope="module")
def address(runs: Path, browser):
    """The address of `mpt board` over the runs."""
    command = [sys.executable, "-m", "mpt", "board", str(runs), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        yield process.stdout.readline().removeprefix("board: ").strip()
        process.kill()


def report_of(runs: Path) -> dict:
    return json.loads((runs / "good" / "report.json").read_text())


def wait_for(question, seconds: float = 30.0):
    """The first answer that is not empty."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.1)
    return answer


def opened(browser, address: str, page: str):
    driver = browser(1600, 1200)
    driver.get(f"{address}#{page}")
    return driver


def check_no_errors(driver):
    assert [each for each in driver.get_log("browser") if each["level"] == "SEVERE"] == []


def shown(value: float) -> str:
    """A number as the page writes it, which is JavaScript's toPrecision(5)."""
    return f"{value:#.5g}".rstrip(".")


@pytest.mark.slow
def test_the_hparams_page_shows_what_the_report_holds(browser, address, runs):
    driver = opened(browser, address, "hparams")

    def rows():
        head, *body = driver.execute_script(TABLE) or [()]
        found = {row[0]: dict(zip(head, row, strict=True)) for row in body}
        return found if set(found) == {"good/tensorboard", "killed/tensorboard"} else None

    table = wait_for(rows)
    report = report_of(runs)
    good, killed = table["good/tensorboard"], table["killed/tensorboard"]
    assert float(good["seed"]) == report["config"]["seed"] == 7
    assert float(good["batch_size"]) == report["training"]["batch_size"] == 20
    assert good["validation/accuracy"] == shown(report["metrics"]["final"]["validation/accuracy"])
    assert good["examples/s"] == shown(report["throughput"]["examples_per_second"])
    memory = report["memory"]["host_rss_peak_bytes"] / 2**20
    assert good["peak host memory (MiB)"] == shown(memory)
    assert float(good["skipped steps"]) == report["loss_scale"]["skipped_steps"]
    assert float(killed["seed"]) == 8
    assert float(killed["skipped steps"]) == 1
    assert killed["examples/s"] == killed["validation/accuracy"] == ""
    check_no_errors(driver)


def test_the_text_page_shows_the_configuration_and_the_layers(browser, address, runs):
    driver = opened(browser, address, "text")
    configuration = wait_for(lambda: driver.execute_script(ALL, "pre code"))
    assert configuration == [(runs / "good" / ".hydra" / "config.yaml").read_text().strip()]
    cells = driver.execute_script(ALL, "td")
    columns = ("path", "class", "variable_dtype", "compute_dtype", "source")
    table = json.loads((runs / "good" / "precision.json").read_text())["table"]
    assert cells == [row[column] for row in table for column in columns]
    assert driver.execute_script(ALL, "th") == list(columns)
    check_no_errors(driver)


def test_the_custom_scalars_page_has_mixed_precision_on_one_page(browser, address):
    driver = opened(browser, address, "custom_scalars")
    wanted = ["loss scale", "skipped steps", "examples a second", "memory (bytes)"]

    def charts():
        texts = driver.execute_script(TEXTS)
        drawn = [text for text in texts if text in (*wanted, "Mixed precision", "Training")]
        return drawn if "Training" in drawn and len(drawn) >= 6 else None

    drawn = wait_for(charts)
    assert drawn[:6] == ["Mixed precision", *wanted, "Training"]
    wait_for(lambda: "Matches (1)" in driver.execute_script(TEXTS))
    check_no_errors(driver)


def test_the_scalars_page_has_every_tag_of_the_run(browser, address, runs):
    driver = opened(browser, address, "timeseries")
    with (runs / "good" / "metrics.jsonl").open() as lines:
        tags = set().union(*(json.loads(line) for line in lines)) - {"step", "epoch"}
    groups = {tag.partition("/")[0] for tag in tags if "/" in tag}
    wait_for(lambda: groups <= set(driver.execute_script(TEXTS)))
    check_no_errors(driver)
