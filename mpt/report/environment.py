"""What a run stands on: versions, host, commit."""

import platform
import socket
import subprocess
from importlib import metadata

from mpt.report.run_report import Environment


def environment() -> Environment:
    """The present environment, read without importing TensorFlow.

    `git_commit` is that of the working directory's repository, with "-dirty" where tracked files
    differ from it; None outside a repository.
    """
    return Environment(
        python=platform.python_version(),
        tensorflow=_version("tensorflow", "tensorflow-cpu", "tensorflow-macos"),
        keras=_version("keras"),
        os=platform.platform(),
        host=socket.gethostname(),
        git_commit=_git_commit(),
    )


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _git_commit() -> str | None:
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
