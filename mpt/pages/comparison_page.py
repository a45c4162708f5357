"""The page of a comparison: the verdict first, then the evidence."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from mpt import __version__
from mpt.comparison.result import Comparison, Verdict
from mpt.pages import html, plots, tables, timelines
from mpt.pages.series import series
from mpt.report.numbers import rate

UPRIGHT = 5
"""Up to so many groups stand side by side, so that all that was measured of them is in view."""


LONG = 90
"""Characters of a verdict beyond which its type is smaller."""


def comparison_html(comparison: Comparison) -> str:
    """The comparison as one file that needs nothing else."""
    drawn = series(comparison.groups)
    colours = plots.swatches(drawn)
    shown = [
        _head(comparison),
        html.section("requirements", "Requirements", html.table(tables.requirements(comparison))),
        html.section(
            "pairings",
            "Against the baseline",
            html.table(tables.pairings(comparison), swatches=colours),
            _grid(plots.effects(comparison, drawn)),
            _remarks(comparison),
        ),
        html.section(
            "groups",
            "What was measured",
            html.table(
                tables.groups(comparison),
                swatches=colours,
                upright=len(comparison.groups) <= UPRIGHT,
            ),
            _grid(
                [
                    plots.bars(drawn, "throughput", "Throughput", "examples/s", rate),
                    *plots.memory_bars(drawn),
                    plots.plane(comparison, drawn),
                ]
            ),
        ),
        _curves(comparison),
        html.section(
            "failures",
            "Failures",
            html.table(tables.failures(comparison), swatches=colours),
            html.table(tables.unreadable(comparison), caption=True),
        ),
        html.section("published", "Published figures", html.table(tables.published(comparison))),
        html.section(
            "settings",
            "Where the configurations differ",
            html.table(tables.settings(comparison), swatches=colours),
            html.table(tables.choices(comparison), swatches=colours, caption=True),
        ),
        html.section("environment", "Environment", html.table(tables.environment(comparison))),
        html.section(
            "runs",
            "Runs",
            html.details(
                f"All {len(comparison.runs)} runs",
                html.table(tables.runs(comparison), swatches=colours),
            ),
        ),
        _foot(),
    ]
    title = comparison.verdicts[0].sentence if comparison.verdicts else "Comparison of runs"
    return html.page(f"{title} - mpt compare", "\n".join(part for part in shown if part))


def _head(comparison: Comparison) -> str:
    devices = list(dict.fromkeys(group.device for group in comparison.groups))
    said = [
        f"{_counted(len(comparison.runs), 'run')} in {_counted(len(comparison.groups), 'group')}",
        f"On {'; '.join(devices)}" if devices else "",
    ]
    if comparison.metric is not None:
        said.append(f"metric {comparison.metric}")
    if comparison.target is not None:
        source = f" ({comparison.target_source})" if comparison.target_source else ""
        said.append(f"target {tables.target(comparison)}{source}")
    verdicts = "".join(_verdict(each) for each in comparison.verdicts)
    if not verdicts:
        verdicts = '<div class="verdict"><h1>Nothing to hold against a baseline</h1></div>'
    many = ' class="many"' if len(comparison.verdicts) > 1 else ""
    return (
        f"<header{many}>{html.paragraph(_sentences(said), 'kicker')}{verdicts}"
        f"{html.items(comparison.notes, 'note')}</header>"
    )


def _verdict(verdict: Verdict) -> str:
    scope = f'<span class="scope">{escape(verdict.scope)}</span>' if verdict.scope else ""
    recommended = escape(verdict.recommended or "")
    long = ' class="long"' if len(verdict.sentence) > LONG else ""
    return (
        f'<div class="verdict" data-recommended="{recommended}">'
        f"<h1{long}>{scope}{escape(_capital(verdict.sentence))}</h1>"
        f"{html.items(verdict.reasons, 'reasons')}</div>"
    )


def _remarks(comparison: Comparison) -> str:
    parts = []
    for pairing in comparison.pairings:
        remarks = tables.remarks(comparison, pairing)
        if remarks:
            title = f"{pairing.group.label} against {pairing.baseline.label}"
            rows = "".join(
                f'<dt>{escape(_capital(kind))}</dt><dd data-remark="{escape(kind)}">'
                f"{escape(text)}</dd>"
                for kind, text in remarks
            )
            parts.append(f"<h3>{escape(title)}</h3><dl>{rows}</dl>")
    return "".join(parts)


def _curves(comparison: Comparison) -> str:
    """Curves of each tag, in a legend's company; then the loss scales."""
    drawn = series(comparison.groups)
    tags = ["train/loss", "validation/loss"]
    if comparison.metric is not None and comparison.metric not in tags:
        tags.insert(0, comparison.metric)
    found = [picture for tag in tags for picture in timelines.curves(drawn, tag)]
    grid = _grid(found)
    return "\n".join(
        filter(
            None,
            [
                html.section("curves", "Over training", plots.legend(drawn), grid) if grid else "",
                html.section("loss-scale", "Loss scale", _grid(timelines.scales(drawn))),
            ],
        )
    )


def _grid(figures: list[str]) -> str:
    found = "".join(figures)
    return f'<div class="plots">{found}</div>' if found else ""


def _foot() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f'<footer class="note">mpt {escape(__version__)}, {now}</footer>'


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _sentences(texts: list[str]) -> str:
    return " ".join(f"{_capital(text)}." for text in texts if text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
