"""The closing table says what was measured, and what was not."""

import io
import math
import shlex

import pytest
from rich.console import Console

from mpt import report
from mpt.report import RunReport, numbers, render


@pytest.fixture
def made() -> RunReport:
    return RunReport(
        run_id="r", name="n", command=[], started_at="2026-01-01T12:00:00Z", config={"seed": 0}
    )


def rows(made: RunReport) -> dict[str, str]:
    return dict(render.closing_rows(made))


def test_nothing_measured_is_said_and_never_zero(made):
    shown = rows(made)
    for label in ("throughput", "memory", "loss scale", "compute", "seconds", "steps"):
        assert "not measured" in shown[label], label
        assert "0" not in shown[label], label
        assert "None" not in shown[label], label


def test_what_was_measured_is_shown(made):
    made.status = "completed"
    made.training = report.Training(steps=440, epochs=40.0, batch_size=128)
    made.execution = report.Execution(16, False, "none")
    made.metrics.final = {"train/accuracy": 0.99, "train/loss": 0.1, "validation/loss": math.nan}
    made.metrics.best = report.Best(0.98, 400, "validation/accuracy")
    made.throughput = report.Throughput(5200.4, report.StepTime(24.4, 23.1, 26.0), 20, 420, 0.021)
    made.memory.host_rss_peak_bytes = 3 * 2**29
    made.loss_scale = report.LossScale("dynamic", 32768, 4096, 4096, 65536, 4, 2, 77)
    made.compute = report.Compute(4.2e10, 0.4, 1.05e11, 3.12e14)
    made.wall_seconds = report.WallSeconds(total=12.34, train=3.0)
    assert rows(made) == {
        "status": "completed",
        "steps": "440 (40 epochs), 16 a call, XLA off",
        "train": "loss 0.1, accuracy 0.99",
        "validation": "loss nan",
        "best": "validation/accuracy 0.98 at step 400",
        "throughput": "5200 examples/s, step 24.4 ms (23.1 to 26), over 420 steps after a warm-up "
        "of 20, 2% waiting for data",
        "memory": "device peak not measured, host peak 1.50 GiB",
        "loss scale": "dynamic, 4096 (from 4096 to 65536), skipped 4 steps, at most 2 in a row, "
        "the last at step 77",
        "compute": "42 GFLOP/s, 40% of the measured peak of 105 GFLOP/s (datasheet: 312 TFLOP/s)",
        "seconds": "12.3 (training 3.0)",
    }


def test_a_run_that_went_on_and_went_back_says_so(made):
    made.training = report.Training(steps=440, batch_size=128, resumed_from_step=200)
    made.training.rollbacks = [{"from_step": 300, "to_step": 250, "rule": "max_loss"}]
    assert rows(made)["steps"] == "440, went on from step 200, went back 1 time"
    made.training.rollbacks *= 2
    assert rows(made)["steps"].endswith("went back 2 times")


def test_a_run_with_a_checkpoint_that_is_not_done_says_how_it_goes_on(made, tmp_path):
    made.exit_code = 75
    assert "to go on" not in dict(render.next_paths(made, tmp_path))
    made.artifacts["checkpoint"] = "checkpoints/step-00000500.ckpt"
    assert dict(render.next_paths(made, tmp_path))["to go on"] == f"mpt train resume={tmp_path}"
    made.exit_code = 0
    assert "to go on" not in dict(render.next_paths(made, tmp_path))


def test_why_a_run_ended_and_what_to_try_come_first_and_once(made):
    made.status = "diverged"
    made.reason = report.Reason("max_loss", 100, "the loss is 1e+09")
    texts = ("the loss is 1e+09", "lower the learning rate")
    made.diagnosis = [{"message": text, "step": 100} for text in texts]
    made.smoke_checks = [{"name": "loss_finite", "passed": False, "detail": "train/loss nan"}]
    shown = render.closing_rows(made)
    assert shown[0] == ("status", "diverged at step 100 (max_loss): the loss is 1e+09")
    assert shown[-2:] == [
        ("smoke check", "FAILED loss_finite: train/loss nan"),
        ("diagnosis", "lower the learning rate"),
    ]


def test_a_steps_diagnosis_was_told_in_full_before(made):
    message = "step 3: Dense 'a' overflowed\n  to do:   less"
    made.diagnosis = [{"message": message, "step": 3, "loss_scale": 1.0}]
    assert render.closing_rows(made)[-1] == ("diagnosis", "step 3: Dense 'a' overflowed")
    made.reason = report.Reason("max_consecutive_skips", 9, "step 3: Dense 'a' overflowed; less")
    assert render.closing_rows(made)[-1][0] != "diagnosis", "the status line says it"


def test_a_steps_diagnosis_is_shown_whole_where_it_is_asked_for(made):
    message = "step 3: Dense 'a' overflowed\n  to do:   less"
    made.diagnosis = [{"message": message, "step": 3, "loss_scale": 1.0}]
    made.reason = report.Reason("max_consecutive_skips", 9, "step 3: Dense 'a' overflowed; less")
    assert render.closing_rows(made, whole=True)[-1] == ("diagnosis", message)
    made.diagnosis.append({"message": made.reason.message, "step": 9})
    assert render.closing_rows(made, whole=True)[-1] == ("diagnosis", message), "that is said"


@pytest.mark.parametrize(
    ("steps", "begun", "examples", "said"),
    [
        (50, 5, 1438, "50 (4.5 epochs)"),  # 11 batches of 128 a pass
        (11, 1, 1438, "11 (1 epoch)"),
        (4, 1, 1438, "4 (0.4 epochs)"),
        (110, 10, 1438, "110 (10 epochs)"),
        (1, 1, 12800, "1 (0.01 epochs)"),
        (1099, 100, 1438, "1099 (99.9 epochs)"),
        (219, 20, 1438, "219 (19.9 epochs)"),
        (50, 5, None, "50 (5 epochs)"),
        (1, 1, None, "1 (1 epoch)"),
        (50, 9, 1438, "50 (9 epochs)"),  # the data were not run through as the report has them
        (5, 1, 100, "5 (1 epoch)"),
    ],
)
def test_epochs_are_told_as_far_as_they_came(made, steps, begun, examples, said):
    made.training = report.Training(steps=steps, epochs=begun, batch_size=128)
    made.data.train_examples = examples
    assert rows(made)["steps"] == said


def test_the_table_takes_text_literally(made):
    made.reason = report.Reason("error", None, "[red]not markup[/red]")
    console = Console(file=io.StringIO(), width=200)
    console.print(render.closing_table(made))
    assert "[red]not markup[/red]" in console.file.getvalue()


def test_only_paths_that_exist_are_pointed_at(made, tmp_path):
    (tmp_path / "report.json").touch()
    (tmp_path / "tensorboard").mkdir()
    made.artifacts = {"tensorboard": "tensorboard", "model": "model.keras"}
    assert render.next_paths(made, tmp_path) == [
        ("report", str(tmp_path / "report.json")),
        ("tensorboard", f"mpt board {tmp_path / 'tensorboard'}"),
    ]


def test_the_command_for_a_folder_with_a_space_can_be_pasted(made, tmp_path):
    folder = tmp_path / "my runs"
    (folder / "tensorboard").mkdir(parents=True)
    made.artifacts = {"tensorboard": "tensorboard"}
    ((_, command),) = render.next_paths(made, folder)
    assert shlex.split(command) == ["mpt", "board", str(folder / "tensorboard")]


def test_artifacts_that_cannot_be_paths_are_left_out(made, tmp_path):
    made.artifacts = {"long": "x" * 300, "zero": "a\0b"}
    assert render.next_paths(made, tmp_path) == []


def test_the_header_names_the_policy_and_why(made):
    made.device = report.Device(kind="gpu", name="A100", count=2, compute_capability=[8, 0])
    made.precision = report.Precision("auto", "mixed_bfloat16", "auto: compute capability 8.0")
    made.loss_scale = report.LossScale("dynamic", 32768)
    made.model.parameters = 1234567
    made.config["model"] = {"name": "cnn"}
    made.training.batch_size = 128
    shown = dict(render.header(made, total_steps=440))
    assert shown["device"] == "gpu: A100, x 2, compute capability 8.0"
    assert shown["precision"] == "mixed_bfloat16 (auto: compute capability 8.0)"
    assert shown["loss scale"] == "dynamic, starting at 32768"
    assert shown["model"] == "cnn, 1,234,567 parameters"
    assert shown["batch"] == "128 examples, 440 steps"


@pytest.mark.parametrize(
    ("kind", "tf32", "shown"),
    [
        ("gpu", True, "float32 (asked for), TF32 on"),
        ("gpu", False, "float32 (asked for), TF32 off"),
        ("gpu", None, "float32 (asked for)"),
        ("cpu", True, "float32 (asked for)"),
    ],
)
def test_the_header_of_a_gpu_says_whether_tf32_is_on(made, kind, tf32, shown):
    made.device = report.Device(kind=kind, name="A100")
    made.precision = report.Precision("float32", "float32", "asked for", tf32)
    assert dict(render.header(made))["precision"] == shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.number(32768.0), "32768"),
        (numbers.number(2**24), "16777216"),
        (numbers.number(2**-14), "6.104e-05"),
        (numbers.number(math.nan), "nan"),
        (numbers.number(math.inf), "inf"),
        (numbers.number(1e30), "1e+30"),
        (numbers.rate(5200.4), "5200"),
        (numbers.rate(0.123), "0.12"),
        (numbers.rate(math.nan), "nan"),
        (numbers.size(512), "512 B"),
        (numbers.size(2**30), "1.00 GiB"),
        (numbers.count(999, "FLOP/s"), "999 FLOP/s"),
        (numbers.count(2e16, "FLOP/s"), "20 PFLOP/s"),
        (numbers.duration(59.9), "0:59"),
        (numbers.duration(3661), "1:01:01"),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected
