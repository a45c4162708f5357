"""Tab pressed in real shells, each on a terminal of its own."""

import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

from mpt.completion import SHELLS

ROOT = Path(__file__).resolve().parents[2]
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
INSTALL = {
    "bash": 'eval "$(mpt completion bash)"',
    "zsh": 'eval "$(mpt completion zsh)"',
    "fish": "mpt completion fish | source",
}
SECONDS = 30.0


class Terminal:
    """A shell on a pseudo-terminal, with `mpt` on its PATH."""

    def __init__(self, shell, folder):
        (folder / "bin").mkdir()
        program = folder / "bin/mpt"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mpt "$@"\n')
        program.chmod(0o755)
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ |= {
                "PATH": f"{folder}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "TERM": "xterm",
                "PS1": "$ ",
                "HOME": str(folder),
                "COLUMNS": "200",
            }
            os.execvp(START[shell][0], START[shell])
        self.shown = ""

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def wait(self, pattern, start=0):
        """What is shown once `pattern` is in it."""
        end = time.monotonic() + SECONDS
        while not re.search(pattern, self.shown[start:]):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} is not in {self.shown!r}"
            if select.select([self.descriptor], [], [], left)[0]:
                self.shown += os.read(self.descriptor, 65536).decode(errors="replace")
        return self.shown[start:]

    def close(self):
        os.kill(self.pid, 9)
        os.close(self.descriptor)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=SHELLS)
def terminal(request, tmp_path):
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    found = Terminal(shell, tmp_path)
    found.type(f"{INSTALL[shell]}; echo rea''dy\n")
    found.wait("ready")
    yield found
    found.close()


def completed(terminal, line, result):
    """Type `line` and Tab, and see it become `result`; then clear the line."""
    start = len(terminal.shown)
    terminal.type(f"{line}\t")
    rest = re.escape(result.removeprefix(line)[1:])  # shells may draw the joint again
    terminal.wait(rest, start)
    terminal.type("\x15")  # Ctrl-U
    time.sleep(0.1)


def test_words_are_completed(terminal, tmp_path):
    (tmp_path / "runs").mkdir()
    completed(terminal, "mpt tra", "mpt train")
    completed(terminal, "mpt train precision=mixed_b", "mpt train precision=mixed_bfloat16")
    completed(terminal, "mpt train trainer.log", "mpt train trainer.log_every=")
    completed(terminal, "mpt train -m seed=0,1 precision=float32,mixed_b",
              "mpt train -m seed=0,1 precision=float32,mixed_bfloat16")  # fmt: skip
    completed(terminal, "mpt train resume=ru", "mpt train resume=runs/")
    completed(terminal, "mpt train --mul", "mpt train --multirun")


def test_what_is_ambiguous_is_listed(terminal):
    start = len(terminal.shown)
    terminal.type("mpt train loss_scale=\t\t")
    shown = terminal.wait("(?s)(auto.*dynamic.*fixed.*none)", start)
    assert "dynamic" in shown
