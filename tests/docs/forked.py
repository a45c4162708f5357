"""A process that has imported TensorFlow, and forks a fresh one for each command.

Each line of stdin is a JSON object: `words` after the program's name, `folder`, `environment`, and
`output`, a file. Its answer is a line with the exit code; negative, the signal that ended it. What
a fork saves is the import, which takes longer than the training of two steps.
"""

import gc
import json
import os
import signal
import sys
from typing import Any, NoReturn

SECONDS = 240


def main() -> None:
    """Answer every line of stdin."""
    import keras
    import tensorflow

    assert keras.backend.backend() == "tensorflow"
    assert tensorflow.__version__
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(job)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(job: dict[str, Any]) -> NoReturn:
    """Be the program `mpt` with the job's words."""
    code = 70
    try:
        signal.alarm(SECONDS)
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        from mpt.cli import main as mpt

        code = mpt(job["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
