"""A run's report as lines and a table for a console."""

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mpt.printable import shell_word
from mpt.report.numbers import count, number, rate, size
from mpt.report.run_report import RunReport

NOT_MEASURED = "not measured"
MOST_BLOCKS = 4
"""Named where a run has many."""
# Artifact -> what it is for, in the order in which one looks.
NEXT = {
    "report": "all figures",
    "metrics": "one row a logged step",
    "tensorboard": "mpt board {path}",
    "model": "keras.saving.load_model",
    "precision": "dtypes of each layer",
    "log": "what the console said",
}


def header(report: RunReport, *, total_steps: int | None = None) -> list[tuple[str, str]]:
    """What is known before training, as (label, text)."""
    device, precision, execution = report.device, report.precision, report.execution
    capability = device.compute_capability
    described = [device.name or "unknown"]
    if device.count is not None and device.count > 1:
        described.append(f"x {device.count}")
    if capability:
        described.append(f"compute capability {'.'.join(map(str, capability))}")
    rows = [
        ("run", report.name),
        ("device", f"{device.kind or NOT_MEASURED}: {', '.join(described)}"),
        ("precision", f"{precision.name} ({precision.reason}){_tf32(report)}"),
        ("loss scale", _loss_scale_settings(report)),
        ("model", _model(report)),
        ("data", _data(report)),
        ("batch", _batch(report, total_steps)),
    ]
    if execution.strategy not in (None, "none"):
        rows.append(("strategy", str(execution.strategy)))
    if execution.rematerialized:
        blocks = execution.rematerialized
        more = f" and {len(blocks) - MOST_BLOCKS} more" if len(blocks) > MOST_BLOCKS else ""
        text = f"{', '.join(blocks[:MOST_BLOCKS])}{more}: computed again in the backward pass"
        rows.append(("blocks", text))
    return rows


def closing_table(report: RunReport) -> Table:
    """What came of the run; what was not measured says so."""
    return labelled(closing_rows(report))


def labelled(rows: Sequence[tuple[str, str]]) -> Table:
    """A table of labels and texts."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(Text(label), Text(text))
    return table


def closing_rows(report: RunReport, *, whole: bool = False) -> list[tuple[str, str]]:
    """The rows of `closing_table`.

    Args:
        whole: show the diagnosis of a step whole, which a training tells when it happens.
    """
    status = report.status
    if report.reason is not None:
        at = "" if report.reason.step is None else f" at step {report.reason.step}"
        status = f"{status}{at} ({report.reason.rule}): {report.reason.message}"
    rows = [("status", status), ("steps", _steps(report))]
    rows += [(part, text) for part in ("train", "validation") if (text := _metrics(report, part))]
    best = report.metrics.best
    if best is not None and best.value is not None:
        rows.append(("best", f"{best.name} {number(best.value)} at step {best.step}"))
    rows += [
        ("throughput", _throughput(report)),
        ("memory", _memory(report)),
        ("loss scale", _loss_scale(report)),
        ("compute", _compute(report)),
        ("seconds", _seconds(report)),
    ]
    for check in report.smoke_checks:
        verdict = "passed" if check.get("passed") else "FAILED"
        rows.append(("smoke check", f"{verdict} {check.get('name')}: {check.get('detail')}"))
    messages = [_diagnosed(entry, whole) for entry in report.diagnosis]
    rows += [("diagnosis", text) for text in messages if text not in status]
    return rows


LABELS = {"best_checkpoint": "best", "last_good_checkpoint": "last good"}


def next_paths(report: RunReport, folder: Path) -> list[tuple[str, str]]:
    """What to look at next, as (what for, path); paths that do not exist are left out."""
    artifacts = {"report": "report.json", "metrics": "metrics.jsonl", "log": "train.log"}
    artifacts |= report.artifacts
    names = [name for name in NEXT if name in artifacts]
    names += [name for name in artifacts if name not in NEXT]
    found = []
    for name in names:
        path = folder / artifacts[name]
        inside = ".." not in path.parts and not os.path.isabs(artifacts[name])
        if inside and os.path.exists(path):
            shown = str(path)
            if name == "tensorboard":  # a command, to be pasted
                shown = NEXT[name].format(path=shlex.quote(shown))
            found.append((LABELS.get(name, name), shown))
    if report.exit_code and "checkpoint" in report.artifacts:
        found.append(("to go on", f"mpt train {shell_word('resume', folder)}"))
    return found


def _diagnosed(entry: dict[str, Any], whole: bool) -> str:
    """A diagnosis; of a step's, unless it is to be shown whole, the first line."""
    message = str(entry.get("message", ""))
    return message if whole or "loss_scale" not in entry else message.split("\n", 1)[0]


def _tf32(report: RunReport) -> str:
    """Whether float32 products may be TensorFloat-32's: on a GPU only, as a CPU has none."""
    if report.device.kind != "gpu" or report.precision.tf32 is None:
        return ""
    return f", TF32 {'on' if report.precision.tf32 else 'off'}"


def _model(report: RunReport) -> str:
    parameters = report.model.parameters
    config = report.config.get("model")
    name = config.get("name") if isinstance(config, dict) else None
    counted = NOT_MEASURED if parameters is None else f"{parameters:,} parameters"
    return f"{name}, {counted}" if name else counted


def _data(report: RunReport) -> str:
    data = report.data
    text = f"{data.name}, {data.train_examples} training"
    text += f" and {data.validation_examples} validation examples"
    if data.bad_rows:
        text += f", {data.bad_rows} bad {'row' if data.bad_rows == 1 else 'rows'} left out"
    return text


def _batch(report: RunReport, total_steps: int | None) -> str:
    text = f"{report.training.batch_size} examples"
    return text if total_steps is None else f"{text}, {total_steps} steps"


def _loss_scale_settings(report: RunReport) -> str:
    scale = report.loss_scale
    settings = report.config.get("loss_scale")
    mode = scale.mode or (settings.get("mode") if isinstance(settings, dict) else None)
    if mode in (None, "none"):
        return f"{mode or NOT_MEASURED}"
    return str(mode) if scale.initial is None else f"{mode}, starting at {number(scale.initial)}"


def _steps(report: RunReport) -> str:
    training, execution = report.training, report.execution
    if training.steps is None:
        return NOT_MEASURED
    text = f"{training.steps}"
    if (epochs := _epochs(report)) is not None:
        text += f" ({epochs})"
    if execution.steps_per_execution is not None:
        text += f", {execution.steps_per_execution} a call"
    if execution.jit_compile is not None:
        text += f", XLA {'on' if execution.jit_compile else 'off'}"
    if training.resumed_from_step is not None:
        text += f", went on from step {training.resumed_from_step}"
    if times := len(training.rollbacks):
        text += f", went back {times} {'time' if times == 1 else 'times'}"
    return text


def _epochs(report: RunReport) -> str | None:
    """Passes over the training data, the last one as far as it came: "4.5 epochs", "1 epoch"."""
    training, examples = report.training, report.data.train_examples
    passes = training.epochs  # those begun
    if passes is None or training.steps is None:
        return None
    if examples and training.batch_size and (whole := examples // training.batch_size):
        done = training.steps / whole
        passes = done if math.ceil(done) == passes else passes
    text = number(passes) if f"{passes:.1f}".endswith(".0") else f"{passes:.1f}"
    return f"{text} {'epoch' if text == '1' else 'epochs'}"


def _metrics(report: RunReport, part: str) -> str:
    prefix = f"{part}/"
    named = {
        tag[len(prefix) :]: value
        for tag, value in report.metrics.final.items()
        if tag.startswith(prefix) and value is not None
    }
    return ", ".join(
        f"{name} {number(named[name])}" for name in sorted(named, key=lambda name: name != "loss")
    )


def _throughput(report: RunReport) -> str:
    measured = report.throughput
    if measured.examples_per_second is None:
        if measured.warmup_steps is None:
            return NOT_MEASURED
        return f"{NOT_MEASURED} (no step after a warm-up of {measured.warmup_steps})"
    text = f"{rate(measured.examples_per_second)} examples/s"
    times = measured.step_time_ms
    if times is not None and times.median is not None:
        text += f", step {times.median:.3g} ms"
        if times.p10 is not None and times.p90 is not None:
            text += f" ({times.p10:.3g} to {times.p90:.3g})"
    text += f", over {measured.measured_steps} steps after a warm-up of {measured.warmup_steps}"
    if measured.data_wait_fraction is not None:
        text += f", {100 * measured.data_wait_fraction:.0f}% waiting for data"
    return text


def _memory(report: RunReport) -> str:
    memory = report.memory
    device, host = memory.device_peak_bytes, memory.host_rss_peak_bytes
    return (
        f"device peak {NOT_MEASURED if device is None else size(device)}, "
        f"host peak {NOT_MEASURED if host is None else size(host)}"
    )


def _loss_scale(report: RunReport) -> str:
    scale = report.loss_scale
    if scale.mode is None:
        return NOT_MEASURED
    text = scale.mode
    if scale.final is not None and scale.mode != "none":
        text += f", {number(scale.final)}"
        if scale.min is not None and scale.max is not None and scale.min != scale.max:
            text += f" (from {number(scale.min)} to {number(scale.max)})"
    if scale.skipped_steps is not None:
        text += f", skipped {scale.skipped_steps} steps"
    if scale.skipped_steps:
        text += f", at most {scale.max_consecutive_skips} in a row"
        text += f", the last at step {scale.last_overflow_step}"
    return text


def _compute(report: RunReport) -> str:
    compute = report.compute
    if compute.model_flops_per_second is None:
        return NOT_MEASURED
    text = count(compute.model_flops_per_second, "FLOP/s")
    if compute.utilization is not None and compute.peak_flops_per_second is not None:
        peak = count(compute.peak_flops_per_second, "FLOP/s")
        text += f", {100 * compute.utilization:.0f}% of the measured peak of {peak}"
    if compute.datasheet_flops_per_second is not None:
        text += f" (datasheet: {count(compute.datasheet_flops_per_second, 'FLOP/s')})"
    return text


def _seconds(report: RunReport) -> str:
    wall = report.wall_seconds
    parts = {
        "startup": wall.startup,
        "tuning": wall.tuning,
        "training": wall.train,
        "evaluation": wall.evaluate,
        "diagnosis": wall.diagnose,
        "saving": wall.save,
    }
    text = NOT_MEASURED if wall.total is None else f"{wall.total:.1f}"
    shown = [f"{name} {value:.1f}" for name, value in parts.items() if value is not None]
    return f"{text} ({', '.join(shown)})" if shown else text
