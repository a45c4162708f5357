"""The page of one run: how it ended, what it reached, and what its numbers did."""

from __future__ import annotations

from html import escape
from typing import Any

from mpt.comparison.result import Group, Run
from mpt.pages import html, timelines
from mpt.pages.cells import Cell, Column, Table, plain, short_tag
from mpt.pages.series import series
from mpt.report import RunReport, render
from mpt.report.numbers import number

STATUS = {
    "completed": "Completed",
    "stopped_early": "Stopped early",
    "diverged": "Diverged",
    "oom": "Out of memory",
    "interrupted": "Interrupted",
    "failed": "Failed",
    "killed": "Killed",
}
SHOWN_FIRST = ("train/loss", "validation/loss")
# Other tags worth a picture, where a run recorded them.
ALSO = (
    "throughput/examples_per_second",
    "throughput/data_wait_fraction",
    "memory/device_in_use_bytes",
    "memory/host_rss_bytes",
    "gradients/global_norm",
    "gradients/headroom_bits",
    "gradients/zero_fraction",
    "gradients/subnormal_fraction",
    "optimizer/learning_rate",
)


def run_html(run: Run) -> str:
    """The report of one run as one file that needs nothing else."""
    report = run.report
    settings = Table("config", "", [_column("key"), _column("value")], _flat(report.config))
    parts = [
        _head(report),
        html.section("diagnosis", "Diagnosis", _diagnosis(report)),
        html.section("warnings", "Warnings", html.items(report.warnings)),
        html.section("results", "Results", _pairs(render.closing_rows(report)), _metrics(report)),
        _curves(run),
        html.section("run", "The run", _pairs(render.header(report))),
        html.section("precision", "Precision of each layer", html.table(precision_table(report))),
        html.section("environment", "Environment", _pairs(_environment(report))),
        html.section(
            "config",
            "Configuration",
            html.details(f"{len(settings.rows)} keys", html.table(settings)),
        ),
        html.section("files", "Files", _pairs(list(report.artifacts.items()))),
        html.paragraph(f"{' '.join(report.command)}; mpt {report.mpt_version}", "note"),
    ]
    return html.page(f"{report.name}: {report.status} - mpt show", "\n".join(filter(None, parts)))


def precision_table(report: RunReport) -> Table:
    """Dtypes of every layer, and where they come from."""
    keys = ("path", "class", "variable_dtype", "compute_dtype", "source")
    heads = ("layer", "class", "variables", "computes in", "set by")
    rows = [[Cell(_dtype_text(row, key)) for key in keys] for row in report.precision.table]
    columns = [Column(key, head, numeric=False) for key, head in zip(keys, heads, strict=True)]
    return Table("precision", "Precision of each layer", columns, rows)


def _dtype_text(row: dict[str, Any], key: str) -> str:
    text = str(row.get(key, "-"))
    if key == "compute_dtype" and row.get("quantization") is not None:
        return f"{text}, products in {row['quantization']}"
    return text


def headline(report: RunReport) -> str:
    """How the run ended, and what it reached."""
    text = STATUS.get(report.status, report.status)
    best = report.metrics.best
    if report.reason is not None and report.status not in ("completed", "stopped_early"):
        at = "" if report.reason.step is None else f" at step {report.reason.step}"
        return (
            f"{text}{at}: {report.reason.message.strip().splitlines()[0]}"
            if (report.reason.message.strip())
            else f"{text}{at}"
        )
    if best is not None and best.value is not None:
        text += f": best {short_tag(best.name)} {number(best.value)} at step {best.step}"
    return text


def _head(report: RunReport) -> str:
    kind = "" if report.exit_code == 0 else ' class="bad"'
    said = f"mpt show: {report.name}, {report.precision.name or 'precision not known'}"
    said += f", {report.started_at}"
    return (
        f"<header>{html.paragraph(said, 'kicker')}"
        f'<h1{kind} data-status="{escape(report.status)}">{escape(headline(report))}</h1></header>'
    )


def _diagnosis(report: RunReport) -> str:
    texts = [str(entry.get("message", "")) for entry in report.diagnosis]
    reason = report.reason
    if reason is not None and reason.message not in texts:
        texts.insert(0, f"{reason.rule}: {reason.message}" if reason.message else reason.rule)
    return "".join(html.paragraph(text, "block") for text in texts if text)


def _metrics(report: RunReport) -> str:
    rows = [
        [Cell(tag), Cell("not measured") if value is None else Cell(number(value), value)]
        for tag, value in report.metrics.final.items()
    ]
    columns = [Column("tag", "tag", numeric=False), Column("final", "last value")]
    return html.table(Table("metrics", "", columns, rows))


def _curves(run: Run) -> str:
    """Curves by step and by time; other tags by step; the loss scale."""
    report = run.report
    policy = report.precision.name or ""
    if policy == "float32" and report.precision.tf32:
        policy = "tf32"
    group = Group(
        key="run",
        label=policy or report.name,
        settings={},
        policy=policy,
        device="",
        batch_size=None,
        largest_batch=False,
        runs=[run],
    )
    drawn = series([group])
    named = [tag for tag in run.curves if tag.startswith(("train/", "validation/"))]
    tags = sorted(named, key=lambda tag: tag not in SHOWN_FIRST)
    found = [picture for tag in tags for picture in timelines.curves(drawn, tag)]
    found += [timelines.curves(drawn, tag)[0] for tag in ALSO if tag in run.curves]
    found.append(timelines.scale(drawn[0], named=False))
    pictures = "".join(found)
    grid = f'<div class="plots">{pictures}</div>' if pictures else ""
    return html.section("curves", "Over training", grid)


def _environment(report: RunReport) -> list[tuple[str, str]]:
    values: dict[str, Any] = {**vars(report.environment), **vars(report.device)}
    reasons = report.execution.choice_reasons
    rows = [(_words(k), plain(v)) for k, v in values.items() if v is not None]
    return rows + [(f"choice of {name}", text) for name, text in reasons.items()]


def _pairs(rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    inside = "".join(
        f'<dt>{escape(label)}</dt><dd data-key="{escape(label)}">{escape(text)}</dd>'
        for label, text in rows
    )
    return f"<dl>{inside}</dl>"


def _flat(config: dict[str, Any], prefix: str = "") -> list[list[Cell]]:
    rows = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append([Cell(f"{prefix}{key}"), Cell(plain(value), value)])
    return rows


def _column(name: str) -> Column:
    return Column(name, name, numeric=False)


def _words(key: str) -> str:
    return key.replace("_", " ")
