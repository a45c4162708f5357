"""The console: plain lines without a terminal, one live line on it, text taken literally."""

import io
import os
import pty
import select

import pytest

from mpt import console as consoles
from mpt.console import Console, LiveLine
from mpt.errors import ConfigurationError
from mpt.report import RunReport

VALUES = {
    "optimizer/learning_rate": 0.001,
    "train/accuracy": 0.91,
    "train/loss": 0.3104,
    "throughput/examples_per_second": 5200.3,
    "throughput/data_wait_fraction": 0.021,
    "memory/host_rss_bytes": 2.0**29,
    "loss_scale/scale": 32768.0,
    "loss_scale/skipped_steps": 0.0,
}
LINE = "step 200/1120 loss 0.3104 accuracy 0.91 5200 ex/s data_wait 2% scale 32768 skipped 0"


@pytest.fixture
def made() -> RunReport:
    made = RunReport(
        run_id="r", name="cnn_auto", command=[], started_at="2026-01-01T12:00:00Z", config={}
    )
    made.precision.reason = "[red]why[/red]"
    return made


def run(console: Console, made: RunReport, folder) -> None:
    """Say all that a run says."""
    made.warnings = ["float16 is slow here"]
    console.header(made, total_steps=1120)
    console.note("a note")
    console.detail("a detail")
    console.step(200, 1120, VALUES)
    console.validation(200, {"validation/accuracy": 0.9, "validation/loss": 0.4})
    console.close(made, folder)


class Ends(io.StringIO):
    """A stream whose reader ends, or whose disk is full, after some texts."""

    def __init__(self, texts, error):
        super().__init__()
        self.texts, self.error = texts, error

    def write(self, text):
        if self.texts == 0:
            raise self.error
        self.texts -= 1
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space")])
@pytest.mark.parametrize("texts", [0, 3])
def test_a_run_outlives_its_reader(made, tmp_path, texts, error):
    out, err, log = Ends(texts, error), io.StringIO(), []
    console = Console(0, out, err)
    console.attach(log.append)
    run(console, made, tmp_path)
    assert f"stdout cannot be written any more: {error.strerror}" in log
    assert log[-1] == f"run: {tmp_path}"
    assert "a note" in err.getvalue()


def captured(verbosity: int, made: RunReport, folder) -> tuple[list[str], list[str]]:
    out, err = io.StringIO(), io.StringIO()
    run(Console(verbosity, out, err), made, folder)
    return out.getvalue().splitlines(), err.getvalue().splitlines()


def test_results_go_to_stdout_and_the_rest_to_stderr(made, tmp_path):
    out, err = captured(0, made, tmp_path)
    assert LINE in out
    assert "step 200/1120 validation loss 0.4 accuracy 0.9" in out
    assert "status       failed" in out
    assert out[-1] == f"run: {tmp_path}"
    assert err == ["warning: float16 is slow here", "a note"]


def test_quiet_says_where_the_run_lies_and_warns(made, tmp_path):
    out, err = captured(-1, made, tmp_path)
    assert out == [f"run: {tmp_path}"]
    assert err == ["warning: float16 is slow here"]


def test_verbose_adds_every_tag_and_details(made, tmp_path):
    out, err = captured(1, made, tmp_path)
    assert f"{LINE} memory 512 MiB optimizer/learning_rate 0.001" in out
    assert "a detail" in err


def test_what_was_not_measured_is_absent(made):
    out = io.StringIO()
    Console(0, out, io.StringIO()).step(1, 2, {"train/loss": float("nan")})
    assert out.getvalue() == "step 1/2 loss nan\n"


@pytest.mark.parametrize(("scale", "skipped", "told"), [(1, 0, ""), (1, 2, "scale 1 skipped 2")])
def test_a_scale_that_does_nothing_is_not_told(scale, skipped, told):
    values = {"loss_scale/scale": float(scale), "loss_scale/skipped_steps": float(skipped)}
    assert " ".join(consoles.step_parts(values)) == told


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"FORCE_COLOR": "1"},
        {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"},
        {"NO_COLOR": "1"},
        {"TERM": "dumb"},
    ],
    ids=lambda environment: " ".join(environment) or "plain",
)
def test_no_control_codes_without_a_terminal(made, tmp_path, monkeypatch, environment):
    for name in ("FORCE_COLOR", "NO_COLOR", "TERM", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, err = io.StringIO(), io.StringIO()
    console = Console(0, out, err)
    run(console, made, tmp_path)
    console.error("broken")
    text = out.getvalue() + err.getvalue()
    assert [c for c in text if not c.isprintable() and c != "\n"] == []


def test_long_paths_are_never_split(made, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / ("deep" * 30) / ("deeper" * 20)
    folder.mkdir(parents=True)
    (folder / "report.json").touch()
    out, _ = captured(0, made, folder)
    assert out[-1] == f"run: {folder}"
    assert f"report       {folder / 'report.json'}" in out


def test_text_of_the_user_is_shown_as_it_is(made, tmp_path):
    out, _ = captured(0, made, tmp_path)
    assert any("[red]why[/red]" in line for line in out)
    err = io.StringIO()
    console = Console(0, io.StringIO(), err)
    console.error(
        ConfigurationError("No [red] here.", where="a[0]", allowed=["[b]", ":smile:"], value="[b")
    )
    assert err.getvalue() == (
        "error: No [red] here.\n  where:   a[0]\n  allowed: [b], :smile:\n  did you mean '[b]'?\n"
    )


def test_an_unforeseen_error_is_named_by_its_type():
    err = io.StringIO()
    Console(-1, io.StringIO(), err).error(KeyError("scale"))
    assert err.getvalue() == "error: KeyError: 'scale'\n"


def test_control_characters_in_text_are_escaped(made):
    err = io.StringIO()
    Console(0, io.StringIO(), err).warning("a\x1b[31mb\tc\r\nd")
    assert err.getvalue() == "warning: a\\x1b[31mb\\tc\\r\nd\n"


def test_a_stream_that_cannot_hold_a_character_gets_its_escape():
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(0, out, io.StringIO())
    console.validation(1, {"validation/précision": 0.5})
    assert raw.getvalue() == b"step 1 validation pr\\xe9cision 0.5\n"


def test_everything_is_logged_whatever_is_shown(made, tmp_path):
    lines: list[str] = []
    console = Console(-1, io.StringIO(), io.StringIO())
    console.note("before the folder was there")
    console.attach(lines.append)
    run(console, made, tmp_path)
    assert lines[0] == "before the folder was there"
    assert {LINE, "a note", "a detail", "warning: float16 is slow here"} <= set(lines)
    assert lines[-1] == f"run: {tmp_path}"
    assert len([line for line in lines if line == LINE]) == 1


def read_terminal(fd: int) -> str:
    """What was written to a pseudo-terminal so far."""
    content = b""
    while select.select([fd], [], [], 0.3)[0]:
        content += os.read(fd, 65536)
    return content.decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    parent, child = pty.openpty()
    with os.fdopen(child, "w", encoding="utf-8") as stream:
        yield parent, stream
    os.close(parent)


def test_a_terminal_gets_one_live_line_and_the_table(made, tmp_path, terminal):
    parent, stream = terminal
    lines: list[str] = []
    console = Console(0, stream, stream)
    console.attach(lines.append)
    made.warnings = []
    console.header(made, total_steps=1120)
    console.step(200, 1120, VALUES)
    shown = read_terminal(parent)
    for part in (
        "200/1120",
        "ETA",
        "loss 0.3104",
        "5200 ex/s",
        "512 MiB",
        "scale 32768",
        "skipped",
    ):
        assert part in shown.replace("\r\n", " "), part
    assert "step 200/1120" not in shown
    assert "\x1b[?25l" in shown
    console.validation(200, {"validation/accuracy": 0.9})
    console.warning("beware")
    console.close(made, tmp_path)
    shown = read_terminal(parent)
    assert "beware" in shown
    assert "validation accuracy 0.9" in shown.replace("\r\n", " ")
    assert "step 200/1120 validation" not in shown
    assert "\x1b[?25h" in shown
    assert shown.rstrip().endswith(f"run: {tmp_path}")
    assert {LINE, "step 200/1120 validation accuracy 0.9"} <= set(lines)


def test_a_dumb_terminal_gets_plain_lines(made, tmp_path, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    parent, stream = terminal
    console = Console(0, stream, stream)
    run(console, made, tmp_path)
    shown = read_terminal(parent)
    assert "\x1b" not in shown
    assert LINE in shown.splitlines()


def test_an_error_takes_the_live_line_away(made, terminal):
    parent, stream = terminal
    console = Console(0, stream, stream)
    console.header(made, total_steps=10)
    console.error("broken")
    shown = read_terminal(parent)
    assert shown.rindex("\x1b[?25h") < shown.rindex("error: broken")


def test_quiet_has_no_live_line(made, terminal):
    parent, stream = terminal
    console = Console(-1, stream, stream)
    console.header(made, total_steps=10)
    console.step(5, 10, VALUES)
    assert read_terminal(parent) == ""


def test_time_left_follows_the_pace_since_the_first_logged_step():
    now = [100.0]
    line = LiveLine(clock=lambda: now[0])
    line.total = 1000
    assert line.text().endswith("0/1000 first steps")
    line.update(100, 1000, ["loss 2"])
    assert line.seconds_left() is None
    assert "ETA -:--" in line.text()
    now[0] = 110.0
    line.update(200, 1000, ["loss 1"])
    assert line.seconds_left() == pytest.approx(80)
    now[0] = 115.0
    assert line.seconds_left() == pytest.approx(75)
    assert line.text() == "━━╌╌╌╌╌╌╌╌ 200/1000 ETA 1:15 loss 1"
    line.ascii = True
    assert line.text().startswith("##........ ")


def test_the_device_memory_is_shown_where_the_device_tells():
    values = {"memory/host_rss_bytes": 2.0**30, "memory/device_in_use_bytes": 2.0**20 * 7}
    assert consoles.live_parts(values) == ["7 MiB"]
