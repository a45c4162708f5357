"""Reports go to JSON and come back; the schema in the package is theirs."""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields

import jsonschema
import numpy as np
import pytest

from mpt import report
from mpt.errors import ConfigurationError
from mpt.report import RunReport
from mpt.report.schema import PATH, json_schema

KEYS = {
    "schema_version": None,
    "mpt_version": None,
    "run_id": None,
    "name": None,
    "command": None,
    "status": None,
    "exit_code": None,
    "reason": {"rule", "step", "message"},
    "started_at": None,
    "ended_at": None,
    "config": None,
    "config_hash": None,
    "group_hash": None,
    "environment": {"python", "tensorflow", "keras", "os", "host", "git_commit"},
    "device": {
        "kind",
        "name",
        "count",
        "compute_capability",
        "driver",
        "concurrent_jobs",
        "bfloat16_units",
        "float16_units",
    },
    "precision": {"requested", "policy", "reason", "tf32", "fused_batch_norm", "table"},
    "execution": {
        "steps_per_execution",
        "jit_compile",
        "strategy",
        "rematerialized",
        "fused_kernels",
        "choice_reasons",
    },
    "model": {"parameters", "forward_flops_per_example"},
    "data": {
        "name",
        "train_examples",
        "validation_examples",
        "bad_rows",
        "bad_row_names",
        "fingerprint",
    },
    "training": {"steps", "epochs", "batch_size", "resumed_from_step", "rollbacks"},
    "throughput": {
        "examples_per_second",
        "step_time_ms",
        "warmup_steps",
        "measured_steps",
        "data_wait_fraction",
    },
    "memory": {"device_peak_bytes", "device_in_use_bytes", "host_rss_peak_bytes"},
    "loss_scale": {
        "mode",
        "initial",
        "final",
        "min",
        "max",
        "skipped_steps",
        "max_consecutive_skips",
        "last_overflow_step",
        "history",
    },
    "compute": {
        "model_flops_per_second",
        "utilization",
        "peak_flops_per_second",
        "datasheet_flops_per_second",
        "float32_flops_fraction",
        "cast_bytes_per_example",
    },
    "metrics": {"final", "best"},
    "wall_seconds": {"total", "startup", "tuning", "train", "evaluate", "diagnose", "save"},
    "diagnosis": None,
    "warnings": None,
    "smoke_checks": None,
    "artifacts": None,
}


def minimal(**changes) -> RunReport:
    values = {
        "run_id": "12_00_00_cnn",
        "name": "cnn_auto",
        "command": ["mpt", "train"],
        "started_at": "2026-01-01T12:00:00Z",
        "config": {"seed": 0, "name": "auto", "run_dir": "runs/x", "batch_size": 128},
    }
    return RunReport(**{**values, **changes})


def full() -> RunReport:
    made = minimal(status="diverged", exit_code=3, ended_at="2026-01-01T12:01:00Z")
    made.reason = report.Reason("max_consecutive_skips", 70, "50 steps in a row were skipped")
    made.environment = report.environment()
    made.device = report.Device("gpu", "A100", 2, [8, 0], "550.1", 1)
    made.precision.table = [
        {
            "path": "cnn/conv",
            "class": "Conv2D",
            "variable_dtype": "float32",
            "compute_dtype": "float16",
            "source": "global",
        }
    ]
    made.execution.choice_reasons = {"jit_compile": "faster"}
    made.training.epochs = 3
    made.throughput = report.Throughput(5200.5, report.StepTime(24.0, 23.0, 26.0), 20, 300, 0.02)
    made.loss_scale.history = [[1, 32768.0], [70, 0.5]]
    made.metrics.final = {"train/loss": math.nan, "validation/loss": math.inf}
    made.metrics.best = report.Best(0.9, 40, "validation/accuracy")
    made.smoke_checks = [{"name": "loss_finite", "passed": False, "detail": "nan"}]
    made.diagnosis = [
        {
            "message": "Dense 'a' overflowed",
            "step": 20,
            "path": "block/a",
            "class": "Dense",
            "direction": "backward",
            "largest_finite": 61000.0,
            "dtype": "float16",
            "float32_finite": None,
            "bad_rows": [],
            "loss_scale": 2.0**15,
        },
        {"message": "out of memory"},
    ]
    made.artifacts = {"model": "model.keras"}
    return made


def through_text(made: RunReport) -> dict:
    return json.loads(json.dumps(made.to_json(), allow_nan=False))


@pytest.mark.parametrize("made", [minimal(), full()], ids=["minimal", "full"])
def test_every_report_fits_the_packaged_schema(made):
    schema = json.loads(PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(through_text(made), schema)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "finished"),
        ("exit_code", "3"),
        ("schema_version", 2),
        ("loss_scale", {}),
        ("metrics", {"final": {"train/loss": "nan"}, "best": None}),
        ("smoke_checks", [{"name": "x"}]),
        ("diagnosis", ["a text"]),
        ("diagnosis", [{"step": 1}]),
        ("diagnosis", [{"message": "x", "direction": "sideways"}]),
    ],
)
def test_the_schema_refuses_what_is_not_a_report(key, value):
    content = {**through_text(full()), key: value}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema())


def test_the_packaged_schema_is_up_to_date():
    assert json.loads(PATH.read_text()) == json_schema(), "run python -m mpt.report.schema"


def test_every_promised_key_is_there():
    content = through_text(minimal(reason=report.Reason("signal", 3, "SIGINT")))
    assert set(content) == set(KEYS)
    for key, inner in KEYS.items():
        if inner is not None:
            assert set(content[key]) == inner, key
    assert {f.name for f in fields(report.StepTime)} == {"median", "p10", "p90"}
    assert {f.name for f in fields(report.Best)} == {"value", "step", "name"}


def test_what_was_not_measured_is_null_never_zero():
    content = through_text(minimal())
    for part in ("throughput", "memory", "compute", "wall_seconds", "model"):
        assert set(content[part].values()) == {None}, part


def test_a_report_comes_back_as_it_was():
    made = full()
    again = report.from_json(through_text(made))
    assert math.isnan(again.metrics.final.pop("train/loss"))
    made.metrics.final.pop("train/loss")
    assert again == made
    assert type(again.training.epochs) is float
    assert isinstance(again.throughput.step_time_ms, report.StepTime)


def test_non_finite_numbers_are_strings_in_the_file():
    values = {"a": math.nan, "b": [math.inf, -math.inf], "c": np.float32("nan"), "d": np.arange(2)}
    encoded = {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": "NaN", "d": [0, 1]}
    assert report.encode(values) == encoded
    assert report.decode("-Infinity") == -math.inf
    assert report.decode("relu") == "relu"


def test_a_value_without_json_is_an_error_not_a_guess():
    with pytest.raises(TypeError, match="object"):
        report.encode({"a": object()})


def test_unknown_keys_are_ignored_and_missing_ones_get_defaults():
    content = through_text(full())
    content["tomorrow"] = 1
    content["memory"]["swap"] = 2
    del content["wall_seconds"], content["model"]["parameters"]
    again = report.from_json(content)
    assert again.model.parameters is None
    assert again.wall_seconds == report.WallSeconds()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"schema_version": None}, "not a report"),
        ({"exit_code": "0"}, "a whole number"),
        ({"exit_code": True}, "a whole number"),
        ({"command": "mpt train"}, "a list"),
        ({"training": {"epochs": "three"}}, "a number"),
        ({"training": 3}, "an object"),
    ],
)
def test_a_report_that_cannot_be_understood_says_where(change, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        report.from_json({**through_text(full()), **change}, where="runs/a/report.json")
    assert "runs/a/report.json" in caught.value.where


def test_reading_from_a_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="No report"):
        report.read(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        report.read(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(through_text(full())))
    assert report.read(tmp_path).status == "diverged"
    assert report.read(tmp_path / "report.json").exit_code == 3


def test_a_pipe_in_place_of_a_report_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        report.read(tmp_path)


def test_a_report_that_is_a_folder_or_a_link_to_itself(tmp_path):
    (tmp_path / "a" / "report.json").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="No report can be read: Is a directory"):
        report.read(tmp_path / "a")
    loop = tmp_path / "report.json"
    loop.symlink_to(loop)
    with pytest.raises(ConfigurationError, match="No report can be read"):
        report.read(tmp_path)
    with pytest.raises(ConfigurationError, match="No report can be read"):
        report.read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("depth", [200, 100_000])
def test_a_report_nested_without_end_is_refused(tmp_path, depth):
    content = {**through_text(full()), "config": "HERE"}
    nested = json.dumps(content).replace('"HERE"', '{"a":' * depth + "1" + "}" * depth)
    (tmp_path / "report.json").write_text(nested)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        report.read(tmp_path)


@pytest.mark.parametrize("key", ["exit_code", "training"])
def test_numbers_that_no_float_holds_are_refused(key):
    value = 10**400 if key == "exit_code" else {"epochs": 10**400}
    with pytest.raises(ConfigurationError, match="number goes"):
        report.from_json({**through_text(full()), key: value})


def test_hashes_tell_configurations_apart_as_far_as_they_should():
    config = {"seed": 0, "name": "a", "run_dir": "r/1", "batch_size": 128, "loss_scale": {"x": 1}}
    moved = {**config, "run_dir": "r/2"}
    seeded = {**moved, "seed": 1, "name": "b"}
    other = {**config, "loss_scale": {"x": 2}}
    shuffled = dict(reversed(config.items()))
    assert report.config_hash(config) == report.config_hash(moved) == report.config_hash(shuffled)
    assert report.config_hash(config) != report.config_hash(seeded)
    assert report.group_hash(config) == report.group_hash(seeded)
    assert report.group_hash(config) != report.group_hash(other)
    assert minimal(config=config).group_hash == report.group_hash(config)


def test_a_report_that_was_never_finished_reads_as_failed():
    assert (minimal().status, minimal().exit_code) == ("failed", 1)


def test_reading_reports_does_not_import_tensorflow():
    code = (
        "import sys, mpt.report, mpt.run_folder, mpt.console; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_environment_names_versions(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = report.environment()
    assert found.keras
    assert found.tensorflow
    assert found.git_commit is None


def test_the_environment_names_the_commit_and_whether_it_was_changed(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    monkeypatch.chdir(tmp_path)
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = report.environment().git_commit
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert report.environment().git_commit == f"{commit}-dirty"
