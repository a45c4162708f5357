"""What a child process found that imported TensorFlow, however it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from mpt.doctor import tensorflow_child
from mpt.doctor.facts import TensorFlow

CHILD = (sys.executable, "-P", tensorflow_child.__file__)  # a file: it needs nothing of mpt
SECONDS = 180.0  # a first import from a network's disk takes a minute
TIMEOUT = "timeout"


def gather(command: Sequence[str] = CHILD, seconds: float = SECONDS) -> TensorFlow:
    """Start the child, wait for it, and read its lines.

    Args:
        command: the child's command line.
        seconds: after which it is killed.
    """
    child = subprocess.Popen(
        command,
        cwd=None if os.path.isdir(".") else sys.prefix,  # the current folder may be gone
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = child.communicate(timeout=seconds)
        late = False
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        late = True
    except BaseException:  # Ctrl-C: the child must not outlive this process
        child.kill()
        child.wait()
        raise
    found = read(out.decode(errors="replace"))
    if late:
        found.ended_by = TIMEOUT
        found.error = f"no answer within {seconds:g} s"
    elif child.returncode < 0:
        found.ended_by = signal.Signals(-child.returncode).name
    if found.error is None and child.returncode != 0:
        found.error = last_line(err.decode(errors="replace"))
    if found.error is None and child.returncode > 0:
        found.error = f"its process ended with {child.returncode}"
    return found


def read(text: str) -> TensorFlow:
    """The facts in the child's lines; lines of anybody else are passed over."""
    found = TensorFlow()
    for line in text.splitlines():
        try:
            stage = json.loads(line)
        except ValueError:
            continue
        if isinstance(stage, dict) and "stage" in stage:
            for name, value in stage.items():
                setattr(found, name, tuple(value) if isinstance(value, list) else value)
    return found


def last_line(text: str) -> str | None:
    """The last line that says something: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
