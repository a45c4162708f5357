"""`mpt compare` as it is called, on runs that never ran."""

import json
from typing import Any

import pytest


def three_seeds(write_run: Any) -> str:
    for seed in range(3):
        write_run(seed=seed, speed=1000 + seed)
        write_run(seed=seed, speed=1500 + 3 * seed, policy="mixed_bfloat16")
    return str(write_run.folder)


def test_json_is_alone_on_stdout(mpt: Any, write_run: Any) -> None:
    folder = three_seeds(write_run)
    (write_run.folder / "broken").mkdir()
    (write_run.folder / "broken" / "report.json").write_text("{")
    done = mpt("compare", folder, "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["schema_version"] == 1
    assert [group["label"] for group in result["groups"]] == ["float32", "mixed_bfloat16"]
    assert [len(group["runs"]) for group in result["groups"]] == [3, 3]
    assert result["groups"][0]["runs"][0]["seed"] == 0
    (pairing,) = result["pairings"]
    assert (pairing["group"], pairing["baseline"]) == ("mixed_bfloat16", "float32")
    assert pairing["speedup"]["estimate"] == pytest.approx(1.5, rel=0.01)
    (row,) = result["unreadable"]
    assert f"warning: {row['path']}: {row['reason']}" in done.err


def test_warnings_are_left_out_when_quiet(mpt: Any, write_run: Any) -> None:
    folder = three_seeds(write_run)
    (write_run.folder / "x" / ".hydra").mkdir(parents=True)
    assert "warning" in mpt("compare", folder, "--json").err
    assert mpt("compare", folder, "--json", "-q").err == ""


def test_numbers_that_are_not_finite_are_valid_json(mpt: Any, write_run: Any) -> None:
    write_run(loss_scale__final="Infinity", **{"metrics__final__validation/accuracy": "NaN"})
    done = mpt("compare", str(write_run.folder), "--json")
    assert done.code == 0
    json.loads(done.out, parse_constant=pytest.fail)


@pytest.mark.parametrize(("require", "code"), [("speedup>=1.2", 0), ("speedup>=1.2,parity", 5)])
def test_require_is_the_exit_code(mpt: Any, write_run: Any, require: str, code: int) -> None:
    done = mpt("compare", three_seeds(write_run), "--json", "--require", require)
    assert done.code == code
    assert ("not met: parity: mixed_bfloat16: accuracy" in done.err) is (code == 5)
    shown = mpt("compare", str(write_run.folder), "--require", require)
    assert ("NOT MET: parity: mixed_bfloat16: accuracy" in shown.out) is (code == 5)
    assert "not met" not in shown.err
    assert json.loads(done.out)["requirements"][0]["met"] is True


def test_flags_reach_the_comparison(mpt: Any, write_run: Any) -> None:
    words = ("--baseline=precision=mixed_bfloat16", "--metric", "loss", "--margin", "2")
    done = mpt("compare", three_seeds(write_run), "--json", *words, "--target=0.25")
    result = json.loads(done.out)
    assert result["pairings"][0]["baseline"] == "mixed_bfloat16"
    assert result["metric"] == "validation/loss"
    assert result["pairings"][0]["parity"]["margin"] == pytest.approx(0.002)
    assert result["target"] == 0.25


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "needs a folder of runs"),
        (("nowhere",), "no such file or folder"),
        (("RUNS", "--jsn"), "did you mean '--json'?"),
        (("RUNS", "--json", "--markdown"), "both want stdout"),
        (("RUNS", "--margin", "x"), "not a number"),
        (("RUNS", "--margin=-1"), "at least 0"),
        (("RUNS", "--require", "sped>1"), "cannot be required"),
        (("RUNS", "--baseline", "precision=float64"), "precision=float32"),
        (("RUNS", "--metric", "x"), "validation/accuracy"),
        (("EMPTY",), "There is no run in these folders"),
    ],
)
def test_what_is_wrong_is_said_in_one_block(
    mpt: Any, write_run: Any, words: tuple[str, ...], said: str
) -> None:
    folder = three_seeds(write_run)
    empty = write_run.folder / "0" / "empty"
    empty.mkdir()
    places = {"RUNS": folder, "EMPTY": str(empty)}
    done = mpt("compare", *(places.get(word, word) for word in words))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert said in done.err
    assert "Traceback" not in done.err


def test_help(mpt: Any) -> None:
    done = mpt("compare", "--help")
    assert done.code == 0
    for flag in ("--baseline", "--margin", "--metric", "--target", "--require", "--html"):
        assert flag in done.out


def test_the_console_markdown_and_a_page(mpt: Any, write_run: Any, tmp_path: Any) -> None:
    folder = three_seeds(write_run)
    verdict = "no answer yet on mixed_bfloat16: 1.5 times faster"
    assert verdict in mpt("compare", folder).out
    page = tmp_path / "page.html"
    done = mpt("compare", folder, "--markdown", "--html", str(page))
    assert (done.code, done.err) == (0, f"page: {page}\n")
    assert verdict in done.out
    assert verdict in page.read_text()


def test_a_page_that_cannot_be_written(mpt: Any, write_run: Any, tmp_path: Any) -> None:
    done = mpt("compare", three_seeds(write_run), "--html", str(tmp_path / "no" / "page.html"))
    assert done.code == 2
    assert "The page cannot be written" in done.err


def test_what_cannot_be_read_is_told_once(mpt: Any, write_run: Any) -> None:
    folder = three_seeds(write_run)
    for index in range(25):
        (write_run.folder / f"x{index}" / ".hydra").mkdir(parents=True)
    shown = mpt("compare", folder)
    assert shown.err == ""
    assert shown.out.count("no report: still running, or killed") == 25
    for flag in ("--json", "--markdown"):
        lines = mpt("compare", folder, flag).err.splitlines()
        assert len(lines) == 21
        assert lines[-1] == "warning: 5 more cannot be read"


def test_no_name_forges_a_line_on_stderr(mpt: Any, write_run: Any) -> None:
    label = "cnn\nnot met: nothing\x1b[2J"
    for policy in ("float32", "mixed_bfloat16"):
        for model in ("mlp", label):
            write_run(policy=policy, config__model__name=model)
    (write_run.folder / "y\nerror: x\x1b[2J" / ".hydra").mkdir(parents=True)
    err = mpt("compare", str(write_run.folder), "--json", "--require", "parity").err
    assert "\x1b" not in err
    starts = [line.split(":")[0] for line in err.splitlines()]
    assert set(starts) == {"warning", "not met"}
    assert "not met: nothing" not in err.splitlines()
    assert not [line for line in err.splitlines() if line.startswith("not met: nothing")]


def test_no_error_holds_a_control_code(mpt: Any, write_run: Any) -> None:
    folder = write_run.folder / "a\x1b[2J"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"schema_version": 99, "mpt_version": "1\\u001b\\nb: 2"}')
    forged = write_run.folder / "a\x1b[2J\nc: 3"
    forged.mkdir()
    (forged / "report.json").write_text("{")
    for command in ("compare", "show"):
        said = mpt(command, str(forged)).err
        assert not [line for line in said.splitlines() if line.startswith("c: 3")]
    err = mpt("compare", str(folder)).err
    assert "a\\x1b[2J" in err
    assert "\x1b" not in err
    assert not [line for line in err.splitlines() if line.startswith("b: 2")]
    assert "\n" not in mpt("show", str(folder)).err.split("1\\x1b")[1].split("b: 2")[0]
