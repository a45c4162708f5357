"""A run that is refused once its header is on a terminal: the terminal is as it was."""

import os
import pty
import select
import sys
import threading

import pytest

from mpt.checkpointing import DoesNotFit
from mpt.cli import main
from mpt.run_folder import RunFolder

WORDS = (
    *("train", "run_dir=run", "model=mlp", "model.hidden=[8]", "precision=float32"),
    *("dataset.examples=200", "batch_size=20", "trainer.steps=2", "device=cpu"),
    *("telemetry.tensorboard=false", "telemetry.peak=false"),
)
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture
def on_terminal(monkeypatch, tmp_path):
    """`on_terminal()` trains on a pseudo-terminal: the exit code, and what is written there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("MPT_ALLOW", raising=False)
    parent, child = pty.openpty()
    content, ended = [], threading.Event()

    def read():
        while not ended.is_set() or select.select([parent], [], [], 0)[0]:
            if select.select([parent], [], [], 0.05)[0]:
                content.append(os.read(parent, 65536))

    def train():
        reading = threading.Thread(target=read)
        reading.start()
        try:
            with os.fdopen(child, "w", encoding="utf-8", closefd=False) as stream:
                monkeypatch.setattr(sys, "stdout", stream)
                monkeypatch.setattr(sys, "stderr", stream)
                code = main(list(WORDS))
        finally:
            ended.set()
            reading.join()
        return code, b"".join(content).decode()

    yield train
    os.close(child)
    os.close(parent)


def assert_left_in_order(shown, error):
    """That the live line was there, and is gone; and that the error has a line of its own."""
    assert HIDDEN in shown
    before, found, _ = shown.partition(f"error: {error}")
    assert found, shown
    assert before.count(SHOWN) == before.count(HIDDEN)
    live_line = before.rpartition("first steps")[2]
    assert "\x1b[2K" in live_line, "the live line is not wiped"
    assert shown.rindex(SHOWN) > shown.rindex(HIDDEN)


def test_there_is_a_run_already(on_terminal, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.json").write_text("{}")
    code, shown = on_terminal()
    assert code == 2
    assert_left_in_order(shown, "There is a run in this folder already")


def test_another_process_is_training(on_terminal, tmp_path):
    (tmp_path / "run").mkdir()
    with RunFolder.reopen(tmp_path / "run"):
        code, shown = on_terminal()
    assert code == 2
    assert_left_in_order(shown, "Another process is training")


def test_a_checkpoint_that_does_not_fit(on_terminal, monkeypatch):
    def unfit(*_, **__):
        raise DoesNotFit("It is another model's.")

    monkeypatch.setattr("mpt.training.Training.run", unfit)
    code, shown = on_terminal()
    assert code == 2
    assert_left_in_order(shown, "It is another model's.")
