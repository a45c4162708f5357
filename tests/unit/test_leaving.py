"""The end of a process with TensorFlow in it."""

import subprocess
import sys

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
