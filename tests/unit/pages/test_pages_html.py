"""The HTML pages: well formed, whole in themselves, and everything escaped."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages_study import metrics, report, study, write

from mpt.comparison import Comparison, compare
from mpt.comparison.result import Group, Run
from mpt.pages import comparison_html, html, read_run, run_html
from mpt.pages.cells import Cell, Column, Table
from mpt.report import from_json

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
VOID = {"meta", "br", "img", "link", "input"}


class Structure(HTMLParser):
    """Elements, attributes and text of a page; says where tags do not match."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Structure:
    structure = Structure()
    structure.feed(page)
    structure.close()
    assert structure.open == []
    return structure


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare([study(tmp_path_factory.mktemp("study"))], require="parity")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Run]:
    """A comparison and a run in which every text is an attack."""
    folder = tmp_path_factory.mktemp("hostile")
    for policy in ("float32", "mixed_float16"):
        for seed in range(2):
            path = folder / f"{policy}{seed}"
            content = report(policy, seed, path)
            content |= {"name": HOSTILE, "command": [HOSTILE], "warnings": [HOSTILE]}
            content |= {"artifacts": {HOSTILE: HOSTILE}, "run_id": HOSTILE}
            content["config"]["monitor"] = HOSTILE
            content["config"]["model"] = {"name": HOSTILE, HOSTILE: policy}
            content["config"]["published"] = [{"source": HOSTILE, HOSTILE: HOSTILE}]
            content["metrics"]["final"][HOSTILE] = 0.5 + seed / 100
            content["device"]["name"] = content["environment"]["host"] = HOSTILE
            content["execution"]["choice_reasons"] = {HOSTILE: HOSTILE}
            content["precision"]["table"][0] |= {"path": HOSTILE, "class": HOSTILE}
            if seed:
                content |= {"status": "failed", "exit_code": 1}
                content["reason"] = {"rule": HOSTILE, "message": HOSTILE}
                content["diagnosis"] = [{"message": HOSTILE}]
            rows = [{**row, HOSTILE: 0.5} for row in metrics(content)]
            write(path, content, rows)
    comparison = compare([folder], require="parity")
    comparison.notes.append(HOSTILE)
    for group in comparison.groups:
        group.label = f"{group.policy} {HOSTILE}"
        group.key = f"{group.key} {HOSTILE}"
        group.choices = {HOSTILE: HOSTILE}
    for pairing in comparison.pairings:
        pairing.speed_text = HOSTILE
        pairing.why_not_faster.append(HOSTILE)
    for verdict in comparison.verdicts:
        verdict.sentence = verdict.scope = HOSTILE
        verdict.reasons.append(HOSTILE)
        verdict.recommended = HOSTILE
    return comparison, read_run(folder / "float321")


def pages(comparison: Comparison, run: Run) -> list[str]:
    return [comparison_html(comparison), run_html(run)]


def test_nothing_that_a_user_wrote_becomes_an_element(hostile: tuple[Comparison, Run]) -> None:
    for page in pages(*hostile):
        structure = parsed(page)
        names = {tag for tag, _ in structure.elements}
        assert not names & {"script", "img", "iframe", "object", "link", "a", "form"}
        for _, attributes in structure.elements:
            assert not [name for name in attributes if name.startswith("on")]
        assert structure.text.count("alert(1)") >= 5


def test_a_page_names_nothing_outside_of_itself(found: Comparison) -> None:
    for page in pages(found, found.runs[0]):
        attributes = [each for _, attributes in parsed(page).elements for each in attributes]
        assert not {"src", "href", "action", "srcset", "data", "xlink:href"} & set(attributes)
        style = re.search(r"<style>(.*?)</style>", page, re.S)
        assert style is not None
        assert not re.search(r"@import|url\(", style[1])
        assert "default-src 'none'" in page
        assert "http://" not in page
        assert "https://" not in page


def test_every_id_is_unique_and_every_reference_leads_to_one(found: Comparison) -> None:
    for page in pages(found, found.runs[0]):
        elements = parsed(page).elements
        ids = [str(a["id"]) for _, a in elements if "id" in a]
        assert len(ids) == len(set(ids))
        referred = re.findall(r'(?:aria-labelledby="|url\(#)([^")]+)', page)
        assert {name for each in referred for name in each.split()} <= set(ids)


def test_every_plot_has_its_numbers_in_a_table(found: Comparison) -> None:
    page = comparison_html(found)
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    # The intervals and the plane show what the tables above them hold.
    bare = [figure for figure in figures if "<table" not in figure]
    keys = [re.search(r'<svg id="([^"]+)"', figure)[1] for figure in bare]  # type: ignore[index]
    assert sorted(keys) == ["effect-metric", "effect-speed", "plot-plane"]
    assert len(figures) >= 10


def test_the_verdict_comes_first(found: Comparison) -> None:
    text = parsed(comparison_html(found)).text
    sentence = found.verdicts[0].sentence
    assert text.index(sentence[1:]) < text.index(found.verdicts[0].reasons[0])
    assert text.index(found.verdicts[0].reasons[0]) < text.index("Against the baseline")


def test_a_cell_has_its_row_its_column_and_its_number_either_way() -> None:
    columns = [Column("g", "group", numeric=False), Column("k", "kind"), Column("n", "number")]
    rows = [[Cell("a"), Cell("x"), Cell("1.5 (1 to 2)", 1.5)], [Cell("b"), Cell("y"), Cell("2", 2)]]
    made = Table("t", "T", columns, rows)
    for upright in (False, True):
        cells = {
            (a["data-row"], a["data-key"]): a.get("data-value")
            for tag, a in parsed(html.table(made, upright=upright)).elements
            if tag == "td" and "data-row" in a
        }
        assert cells == {("a", "k"): None, ("a", "n"): "1.5", ("b", "k"): None, ("b", "n"): "2"}


def test_an_infinite_number_is_written_as_in_json() -> None:
    made = Table(
        "t", "", [Column("a", ""), Column("b", "")], [[Cell("r"), Cell("inf", float("inf"))]]
    )
    assert 'data-value="Infinity"' in html.table(made)


def test_a_comparison_of_nothing_is_a_page(tmp_path: Path) -> None:
    write(tmp_path / "one", report("float32", 0, tmp_path / "one"), [])
    page = comparison_html(compare([tmp_path]))
    assert "What was measured" in parsed(page).text


def test_a_run_that_measured_nothing_is_a_page(tmp_path: Path) -> None:
    content = report("float32", 0, tmp_path)
    kept = ("schema_version", "run_id", "name", "command", "started_at", "config")
    bare = from_json({key: content[key] for key in kept})
    text = parsed(run_html(Run(tmp_path, bare))).text
    assert "Failed" in text
    assert "not measured" in text


def test_groups_of_one_key_do_not_share_an_id(found: Comparison) -> None:
    runs = found.groups[-1].runs
    twins = [
        Group(f"{'k' * 70}{n}", f"twin {n}", {}, "mixed_float16", "gpu", 128, False, runs)
        for n in (1, 2)
    ]
    made = Comparison(twins, [], [], None, None, None, "")
    ids = re.findall(r' id="([^"]+)"', comparison_html(made))
    assert len(ids) == len(set(ids))


def test_two_hundred_runs_make_a_page_in_time_and_of_a_size_to_send(tmp_path: Path) -> None:
    """The page's share of the five seconds for 200 runs."""
    runs = study(tmp_path / "many", seeds=3)
    comparison = compare([runs])
    for group in comparison.groups:
        group.runs = [group.runs[i % 3] for i in range(67)]
        for run in group.runs:
            curve = run.curves["train/loss"]
            long = [float(i) for i in range(500)]
            run.curves["train/loss"] = type(curve)(long, long, [1 / (1 + i) for i in long])
    begun = time.perf_counter()
    page = comparison_html(comparison)
    assert time.perf_counter() - begun < 2
    assert len(page) < 1_000_000


def test_why_a_group_is_not_faster_is_on_the_page(found: Comparison) -> None:
    why = found.pairings[0].why_not_faster
    why.append("bound by input: 40% of the time waiting for data")
    try:
        text = parsed(comparison_html(found)).text
    finally:
        why.clear()
    assert "Why not faster" in text
    assert "bound by input: 40% of the time waiting for data" in text


def test_the_reason_of_a_failure_comes_before_its_diagnosis(tmp_path: Path) -> None:
    content = report("mixed_float16", 0, tmp_path)
    content |= {"status": "diverged", "exit_code": 3}
    content["reason"] = {"rule": "max_loss", "step": 7, "message": "the loss passed 100"}
    content["diagnosis"] = [{"message": "dense broke first\n  try this"}]
    page = run_html(Run(tmp_path, from_json(content)))
    text = parsed(page).text
    assert "Diverged at step 7: the loss passed 100" in text
    assert text.index("max_loss: the loss passed 100") < text.index("dense broke first\n  try this")


def test_the_page_of_a_run_has_its_whole_configuration(tmp_path: Path) -> None:
    content = report("mixed_float16", 0, tmp_path)
    run = Run(tmp_path, from_json(content))
    cells = {
        a["data-row"]: a.get("data-value")
        for tag, a in parsed(run_html(run)).elements
        if tag == "td" and a.get("data-key") == "value"
    }
    assert cells["model.filters"] == "32"
    assert cells["precision.policy"] == "mixed_float16"
    assert cells["seed"] == "0"


def test_control_characters_do_not_reach_a_page(tmp_path: Path) -> None:
    content = report("float32", 0, tmp_path / "run")
    content["name"] = "a\x00b\x1b[31mc\x07d\x9be\u202ef\u2066g\u3000h\u200di"
    content["warnings"] = [content["name"]]
    write(tmp_path / "run", content, metrics(content))
    page = run_html(read_run(tmp_path / "run"))
    assert "a\\x00b\\x1b[31mc\\x07d\\x9be\\u202ef\\u2066g\u3000h\u200di" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
