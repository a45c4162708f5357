"""`mpt board`: TensorBoard's server over runs that `mpt train` made."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mpt.telemetry.tensorboard import Board

MPT = (sys.executable, "-m", "mpt")
TINY = (
    "trainer.steps=6",
    "trainer.log_every=2",
    "trainer.warmup_steps=0",
    "dataset.examples=200",
    "batch_size=20",
    "telemetry.peak=false",
)


@contextmanager
def board(folder: Path, *words: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`mpt board` over `folder` in a session of its own: its address and its process."""
    process = subprocess.Popen(
        [*MPT, "board", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("board: http://127.0.0.1:"), line
        yield line.removeprefix("board: ").strip(), process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def get(url: str, content: dict | None = None):
    """The JSON of a page; `content` is posted, where there is some."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def wait_for(question, seconds: float = 20.0):
    """The first answer that is not empty."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} s")


def sessions(address: str) -> dict[str, dict]:
    """The rows of the HParams page, by run."""
    statuses = [f"STATUS_{each}" for each in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    asked = {"experimentName": "", "allowedStatuses": statuses, "colParams": [], "sliceSize": 100}
    found = get(f"{address}data/plugin/hparams/session_groups", asked)
    return {group["name"]: group for group in found.get("sessionGroups", [])}


def close_to(value: float):
    return pytest.approx(value, rel=1e-6)  # an event file holds float32


@pytest.fixture
def events(tmp_path: Path) -> Path:
    with Board(tmp_path / "sweep" / "0" / "tensorboard") as writer:
        writer.layout()
        writer.scalars(1, {"train/loss": 0.5})
    return tmp_path / "sweep"


@pytest.mark.slow
def test_the_hparams_page_of_runs_holds_what_their_reports_hold(mpt, tmp_path):
    """One run that is completed and one that diverges."""
    assert mpt("train", *TINY, "seed=5", "run_dir=runs/good").code == 0
    stop = ("trainer.stop.max_loss=0.001", "precision=mixed_float16", "loss_scale=dynamic")
    assert mpt("train", *TINY, *stop, "run_dir=runs/bad").code == 3
    with board(tmp_path / "runs") as (address, _):
        rows = wait_for(lambda: len(found := sessions(address)) == 2 and found)
        experiment = get(f"{address}data/plugin/hparams/experiment", {"experimentName": ""})
        texts = get(f"{address}data/plugin/text/tags")
        layout = get(f"{address}data/plugin/custom_scalars/layout")
    statuses = {"good": "STATUS_SUCCESS", "bad": "STATUS_FAILURE"}
    for name, status in statuses.items():
        report = json.loads((tmp_path / "runs" / name / "report.json").read_text())
        row = rows[f"{name}/tensorboard"]
        assert row["sessions"][0]["status"] == status
        assert row["hparams"]["seed"] == report["config"]["seed"]
        assert row["hparams"]["batch_size"] == report["training"]["batch_size"]
        assert row["hparams"]["model.name"] == report["config"]["model"]["name"]
        assert row["hparams"]["precision.policy"] == report["precision"]["policy"]
        assert row["hparams"]["loss_scale.mode"] == report["loss_scale"]["mode"]
        values = {each["name"]["tag"]: each["value"] for each in row["metricValues"]}
        assert values.get("validation/accuracy") == (
            close_to(report["metrics"]["final"]["validation/accuracy"]) if name == "good" else None
        )
        assert values["report/examples_per_second"] == close_to(
            report["throughput"]["examples_per_second"]
        )
        assert values["report/host_rss_peak_mib"] == close_to(
            report["memory"]["host_rss_peak_bytes"] / 2**20
        )
        assert values["loss_scale/skipped_steps"] == report["loss_scale"]["skipped_steps"]
    differing = {info["name"] for info in experiment["hparamInfos"] if info["differs"]}
    assert {"seed", "precision.policy", "loss_scale.mode"} <= differing
    assert "optimizer.learning_rate" not in differing
    assert set(texts["good/tensorboard"]) == {"run/config", "run/layers", "run/precision"}
    first, *_ = layout["category"]
    assert first["title"] == "Mixed precision"
    assert [chart["title"] for chart in first["chart"]] == [
        "loss scale",
        "skipped steps",
        "examples a second",
        "memory (bytes)",
    ]


def test_it_serves_this_machine_only_until_control_c_and_leaves_no_process(events):
    with board(events, "--port", "0") as (address, process):
        sockets = psutil.Process(process.pid).net_connections()
        listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
        assert [f"http://{ip}:{port}/" for ip, port in listening] == [address]
        assert get(f"{address}data/environment")["data_location"] == str(events)
        assert wait_for(lambda: get(f"{address}data/runs")) == ["0/tensorboard"]
        assert get(f"{address}data/plugin/custom_scalars/layout")["category"]
        # TensorBoard imports TensorFlow when it first needs it, as for the layout.
        assert "tensorflow/" not in Path(f"/proc/{process.pid}/maps").read_text()
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert (out, err) == ("", "")
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)


def test_a_port_that_is_taken_is_an_error(events):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*MPT, "board", str(events), "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("program", ["/nonexistent", "/bin/false"])
def test_it_does_without_the_data_server(events, program):
    with board(events, TENSORBOARD_DATA_SERVER_BINARY=program) as (address, process):
        running = [each.status() for each in psutil.Process(process.pid).children()]
        assert set(running) <= {psutil.STATUS_ZOMBIE}
        assert wait_for(lambda: get(f"{address}data/runs")) == ["0/tensorboard"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_ended_in_another_way_it_leaves_no_process_either(events, number, code):
    with board(events) as (_, process):
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        psutil.wait_procs(children, timeout=10)
        assert not any(child.is_running() for child in children)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no folder"),
        (("one", "two"), "one folder, not 2"),
        (("absent",), "no such folder"),
        (("file",), "a file"),
        (("empty",), "no TensorBoard event files"),
        (("empty", "--host", "0.0.0.0"), "has no flag --host"),
        (("empty", "--port", "many"), "not a whole number"),
        (("empty", "--port", "-1"), "out of range"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(mpt, tmp_path, words, told):
    (tmp_path / "empty" / "0").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    done = mpt("board", *words)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_the_help_names_the_flags(mpt):
    done = mpt("board", "--help")
    assert done.code == 0
    assert "--port" in done.out
    assert "mpt board runs" in done.out
