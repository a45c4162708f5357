"""The report of a run that could not write its own."""

import json
import os
import signal

import jsonschema
import pytest

from mpt import postmortem, report
from mpt.report.schema import json_schema
from mpt.run_folder import RunFolder


@pytest.fixture
def bury(tmp_path, compose):
    def call(code, *, rows=(), oom=False):
        with RunFolder.create(tmp_path / "3") as folder:
            for row in rows:
                folder.append_metrics(row)
        postmortem.write(
            folder.path,
            compose("seed=4"),
            command=["mpt", "train", "-m"],
            exit_code=code,
            started=1.7e9,
            oom_suspected=oom,
        )
        return report.read(folder.path)

    return call


@pytest.mark.parametrize(
    ("code", "oom", "status", "rule", "exit_code"),
    [
        (-signal.SIGKILL, False, "killed", "killed", 137),
        (-signal.SIGKILL, True, "killed", "oom_suspected", 137),
        (-signal.SIGTERM, True, "killed", "killed", 143),
        (-signal.SIGSEGV, False, "failed", "crash", 139),
        (-signal.SIGABRT, True, "failed", "crash", 134),
        (1, False, "failed", "exit", 1),
        (4, False, "oom", "exit", 4),
        (130, False, "interrupted", "exit", 130),
    ],
)
def test_how_it_ended(bury, code, oom, status, rule, exit_code):
    found = bury(code, oom=oom)
    assert (found.status, found.reason.rule, found.exit_code) == (status, rule, exit_code)


def test_how_far_it_came(bury):
    rows = [
        {"step": 50, "train/loss": 0.5, "loss_scale/scale": 2.0, "loss_scale/skipped_steps": 1.0},
        {"step": 60, "validation/accuracy": 0.75},
    ]
    found = bury(-9, rows=rows)
    assert found.training.steps == 60
    assert found.reason.step == 60
    assert found.metrics.final == {"train/loss": 0.5, "validation/accuracy": 0.75}
    assert (found.loss_scale.final, found.loss_scale.skipped_steps) == (2.0, 1)
    assert found.artifacts == {"metrics": "metrics.jsonl"}


def test_it_is_a_report_like_any_other(bury, tmp_path, compose):
    found = bury(-9)
    content = json.loads((tmp_path / "3" / "report.json").read_text())
    jsonschema.validate(content, json_schema())
    assert found.started_at == "2023-11-14T22:13:20.000Z"
    assert (found.config["seed"], found.name) == (4, "cnn_auto")
    other = report.RunReport("x", "x", [], "", {**found.config, "seed": 5, "run_dir": "y"})
    assert found.group_hash == other.group_hash


@pytest.mark.parametrize("source", ["cgroup", "vmstat"])
def test_the_kernel_s_counts_tell_of_its_kills(tmp_path, monkeypatch, source):
    cgroup, vmstat = tmp_path / "memory.events", tmp_path / "vmstat"
    monkeypatch.setattr(postmortem, "_CGROUP", cgroup)
    monkeypatch.setattr(postmortem, "_VMSTAT", vmstat)
    cgroup.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    vmstat.write_text("nr_free_pages 1\noom_kill 7\n")
    killed = postmortem.oom_kills()
    assert not killed()
    changed = cgroup if source == "cgroup" else vmstat
    changed.write_text(changed.read_text().replace("oom_kill ", "oom_kill 1"))
    assert killed()


def test_without_counts_nothing_is_suspected(tmp_path, monkeypatch):
    monkeypatch.setattr(postmortem, "_CGROUP", tmp_path / "absent")
    monkeypatch.setattr(postmortem, "_VMSTAT", tmp_path / "absent")
    assert not postmortem.oom_kills()()


def test_what_is_known_of_the_cause_is_said(tmp_path, compose):
    folder = tmp_path / "4"
    folder.mkdir()
    postmortem.write(
        folder, compose(), command=[], exit_code=4, started=0.0, message="Not even a batch of 1."
    )
    found = report.read(folder)
    assert (found.status, found.reason.message) == ("oom", "Not even a batch of 1.")


@pytest.mark.parametrize("when", [1.6e9, 1.8e9])
@pytest.mark.parametrize("code", [-9, 130, 3])
def test_a_report_that_is_there_stays(tmp_path, compose, code, when):
    """It is this process's, or one that it would have taken away before it went on."""
    earlier = tmp_path / "report.json"
    earlier.write_text("{}")
    os.utime(earlier, (when, when))
    postmortem.write(tmp_path, compose(), command=[], exit_code=code, started=1.7e9)
    assert earlier.read_text() == "{}"
