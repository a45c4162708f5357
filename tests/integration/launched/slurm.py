"""A stand-in for Slurm's commands: `python slurm.py sbatch SCRIPT`, srun, sacct, scontrol.

A job array's tasks start at once, on this machine. SLURM_STAND_IN names the folder in which it
notes the script and, by task, the process that runs it.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["SLURM_STAND_IN"])
JOB = 4000


def sbatch(path):
    script = Path(path).read_text()
    (STATE / "script").write_text(script)
    for task in range(int(re.search(r"--array=0-(\d+)", script)[1]) + 1):
        start(task)
    print(f"Submitted batch job {JOB}")


def start(task):
    slurm = {
        "SLURM_JOB_ID": JOB + 1 + task,
        "SLURM_ARRAY_JOB_ID": JOB,
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": 1,
        "SLURM_NTASKS": 1,
        "SLURM_NODEID": 0,
        "SLURM_PROCID": 0,
        "SLURM_LOCALID": 0,
    }
    process = subprocess.Popen(
        ["bash", STATE / "script"],
        env={**os.environ, **{key: str(value) for key, value in slurm.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (STATE / f"{task}.pid").write_text(str(process.pid))
    (STATE / f"{task}.requeued").unlink(missing_ok=True)


def srun(*words):
    words = list(words)
    streams = {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            streams[option] = words.pop(0)
    for number, option in ((1, "--output"), (2, "--error")):
        path = streams[option].replace("%A", str(JOB)).replace("%t", "0")
        path = path.replace("%a", os.environ["SLURM_ARRAY_TASK_ID"])
        # A real cluster is slower than submitit, which writes this once the jobs are submitted.
        while not list(Path(path).parent.glob("*_submitted.pkl")):
            time.sleep(0.05)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.execvp(words[0], words)


def sacct(*_):
    print("JobID|State|NodeList")
    for file in STATE.glob("*.pid"):
        state = "RUNNING" if alive(file) else "COMPLETED"
        state = "REQUEUED" if file.with_suffix(".requeued").exists() else state
        print(f"{JOB}_{file.stem}|{state}|localhost")


def scontrol(_requeue, job):
    task = job.split("_")[1]
    (STATE / f"{task}.requeued").touch()
    subprocess.Popen([sys.executable, __file__, "restart", task], start_new_session=True)


def restart(task):
    while alive(STATE / f"{task}.pid"):
        time.sleep(0.1)
    start(int(task))


def alive(file):
    try:
        state = Path(f"/proc/{file.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {each.__name__: each for each in (sbatch, srun, sacct, scontrol, restart)}[command](*arguments)
