"""Whatever a report and metrics hold: `mpt show` and `mpt compare` read them or say why not."""

import copy
import json
import math
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import damaged, examples, mutilated, odd, plain

from mpt import postmortem
from mpt.cli import main
from mpt.report import RunReport, config_hash, group_hash
from mpt.run_folder import RunFolder, read_metrics
from mpt.schema import PrecisionConfig, TrainConfig

SHOW = ((), ("--json",), ("-v",), ("--html", "page.html"))
COMPARE = (
    (),
    ("--json",),
    ("--html", "page.html", "--markdown"),
    ("--require", "speedup>=1,parity,memory<=2,host_memory<=2,skipped<=1,failures<=1"),
    ("--metric", "train/loss", "--target", "0.1", "--margin", "1"),
)


@pytest.fixture(scope="module")
def whole(trained):
    """The report of a real run, and its rows of metrics."""
    return json.loads((trained / "report.json").read_text()), read_metrics(trained)


@pytest.fixture(scope="module")
def compared(trained, whole, tmp_path_factory):
    """Four runs of two seeds and two policies, all of them that one run but for its settings."""
    folder = tmp_path_factory.mktemp("compared")
    for seed in (0, 1):
        for policy in ("float32", "mixed_bfloat16"):
            run = folder / f"{policy}-{seed}"
            run.mkdir()
            shutil.copy(trained / "metrics.jsonl", run)
            content = copy.deepcopy(whole[0])
            content["config"] |= {"seed": seed}
            content["config"]["precision"] |= {"policy": policy}
            content["precision"] |= {"requested": policy, "policy": policy}
            content["config_hash"] = config_hash(content["config"])
            content["group_hash"] = group_hash(content["config"])
            (run / "report.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Runs a command on a folder: its exit code is one of those that are allowed."""
    place = tmp_path_factory.mktemp("answers")

    def call(capsys, allowed, command, folder, *flags):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            capsys.readouterr()
            code = main([command, str(folder), *flags])
        out, err = capsys.readouterr()
        assert code in allowed, err
        assert ("error: " in err) == (code == 2), err
        assert "Traceback" not in err
        assert all(c.isprintable() or c == "\n" for c in err)
        assert "\x1b" not in out
        if "--json" in flags and code != 2:
            json.loads(out, parse_constant=pytest.fail)  # neither NaN nor Infinity
        return code

    return call


def dumped(content):
    """JSON as Python writes it, NaN and lone surrogates too."""
    return json.dumps(content).encode()


@examples(60)
@given(st.data())
def test_reports_that_say_something_else(answers, capsys, tmp_path, whole, data):
    content = data.draw(mutilated(whole[0]))
    (tmp_path / "report.json").write_bytes(dumped(content))
    answers(capsys, (0, 2), "show", tmp_path, *data.draw(st.sampled_from(SHOW)))


@examples(60)
@given(st.data())
def test_reports_of_damaged_bytes(answers, capsys, tmp_path, whole, data):
    (tmp_path / "report.json").write_bytes(data.draw(damaged(json.dumps(whole[0]).encode())))
    answers(capsys, (0, 2), "show", tmp_path, *data.draw(st.sampled_from(SHOW)))


@examples(60)
@given(st.binary(max_size=100) | plain.map(dumped))
@example(b"[" * 100_000)
@example(b'{"schema_version": ' + b"9" * 5000 + b"}")
@example(b'{"schema_version": 1e999}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"schema_version": 1, "status": "\\ud800"}')
def test_reports_of_anything(answers, capsys, tmp_path, content):
    (tmp_path / "report.json").write_bytes(content)
    assert answers(capsys, (0, 2), "show", tmp_path) == 2


rows = st.lists(
    st.dictionaries(
        st.sampled_from(("step", "epoch", "wall_seconds", "train/loss", "loss_scale/scale", "x")),
        odd | plain,
        max_size=6,
    ),
    max_size=6,
)


@st.composite
def metrics_files(draw, whole):
    """The bytes of a metrics.jsonl of a run, or of something that should be one."""
    if draw(st.booleans()):
        content = draw(mutilated(whole))
        lines = [dumped(row) for row in content]
    else:
        lines = [dumped(row) for row in draw(rows)]
    content = b"".join(line + b"\n" for line in lines)
    return draw(damaged(content)) if draw(st.booleans()) else content


@examples(60)
@given(st.data())
def test_metrics_of_anything(answers, capsys, tmp_path, trained, whole, data):
    shutil.copy(trained / "report.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(data.draw(metrics_files(whole[1])))
    answers(capsys, (0, 2), "show", tmp_path, *data.draw(st.sampled_from((SHOW[0], SHOW[3]))))


@examples(20)
@given(st.data())
def test_the_metrics_of_a_killed_run(tmp_path, whole, data):
    (tmp_path / "report.json").unlink(missing_ok=True)
    (tmp_path / "metrics.jsonl").write_bytes(data.draw(metrics_files(whole[1])))
    config = TrainConfig(precision=PrecisionConfig(), model={"name": "mlp"})
    postmortem.write(tmp_path, config, command=["mpt"], exit_code=-9, started=0.0)
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert (content["status"], content["exit_code"]) == ("killed", 137)
    assert main(["show", str(tmp_path)]) == 0


@examples(60)
@given(st.data())
def test_the_metrics_of_a_run_that_goes_on(tmp_path, whole, data):
    """What is left of a file after it was cut can be read, and grow."""
    (tmp_path / "metrics.jsonl").write_bytes(data.draw(metrics_files(whole[1])))
    folder = RunFolder(tmp_path)
    folder.cut_metrics(data.draw(st.integers(0, 5000)))
    left = (tmp_path / "metrics.jsonl").read_bytes()
    assert left == b"" or left.endswith(b"\n")
    assert not left or isinstance(json.loads(left.splitlines()[-1]), dict)
    folder.append_metrics({"step": 1})
    folder.close()
    last = (tmp_path / "metrics.jsonl").read_bytes()[len(left) :]
    assert json.loads(last) == {"step": 1}


@examples(20)
@given(st.data())
def test_comparisons_of_anything(answers, capsys, tmp_path_factory, compared, data):
    folder = tmp_path_factory.mktemp("folder")
    shutil.copytree(compared, folder, dirs_exist_ok=True)
    for run in sorted(folder.iterdir()):
        how = data.draw(st.sampled_from(("whole", "report", "report", "bytes", "metrics")))
        report, metrics = run / "report.json", run / "metrics.jsonl"
        if how == "report":
            report.write_bytes(dumped(data.draw(mutilated(json.loads(report.read_bytes())))))
        elif how == "bytes":
            report.write_bytes(data.draw(damaged(report.read_bytes())))
        elif how == "metrics":
            metrics.write_bytes(data.draw(metrics_files(read_metrics(metrics))))
    answers(capsys, (0, 2, 5), "compare", folder, *data.draw(st.sampled_from(COMPARE)))
    shutil.rmtree(folder)


def test_the_whole_ones_are_read(answers, capsys, compared):
    for flags in COMPARE:
        assert answers(capsys, (0, 5), "compare", compared, *flags) in (0, 5)
    for flags in SHOW:
        assert answers(capsys, (0,), "show", compared / "float32-0", *flags) == 0


def test_a_report_of_defaults_is_read(answers, capsys, tmp_path):
    report = RunReport(run_id="x", name="x", command=[], started_at="", config={})
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    assert not math.isnan(report.wall_seconds.total or 0)
    for flags in SHOW:
        assert answers(capsys, (0,), "show", tmp_path, *flags) == 0
