"""The end of a process with TensorFlow in it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What a run over a user's generator is at its end: a thread of tf.data's is inside the generator.
SLOW = """
import atexit, time
import tensorflow as tf
from mpt.leaving import leave

def rows():
    while True:
        time.sleep(0.2)
        yield 1

dataset = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec((), tf.int32))
iterator = iter(dataset.prefetch(4))
next(iterator)
atexit.register(print, "registered")
print("said", end=" ")
leave(75)
"""


def test_a_generator_at_work_keeps_no_process():
    done = subprocess.run(
        [sys.executable, "-c", SLOW], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (75, "said registered\n"), done.stderr


def test_without_tensorflow_a_process_ends_as_any_other():
    words = "from mpt.leaving import leave; leave(3)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 3


def test_the_code_of_a_signal_stands_where_its_interrupt_came_through_code_of_a_string(tmp_path):
    """As while a dataclass is made: `python -m` notes that, and would end by SIGINT."""
    lines = (
        "import atexit",
        "from mpt.leaving import leave",
        "atexit.register(print, 'registered')",
        "try: exec('raise KeyboardInterrupt')",
        "except KeyboardInterrupt: leave(143)",
    )
    (tmp_path / "program.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (143, "registered\n")


HELD = """
import time
from mpt.leaving import killed_after

with killed_after(30, "not this"):
    pass
with killed_after(0.5, "error: it took too long"):
    time.sleep(30)
"""


def test_a_block_that_takes_too_long_ends_the_process():
    done = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (-9, "error: it took too long\n")
