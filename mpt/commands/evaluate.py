"""`mpt evaluate`: a trained model on its validation data, under its own policy or another."""

from pathlib import Path
from typing import Any

from mpt import resuming, run_configuration, yaml_files
from mpt.commands import Options
from mpt.commands.flags import Flag, own_flags, refuse_flags, take
from mpt.commands.resume import assign, job_with
from mpt.config import configs_dir
from mpt.errors import ConfigurationError
from mpt.isolation import Job, execute

FLAGS = {"--json": Flag()}
GROUPS = ("precision", "device")  # whose choices can be named
KEYS = ("precision", "device", "dataset", "batch_size", "metrics")  # that may be others
USAGE = """\
usage: mpt evaluate RUN [OVERRIDE ...] [FLAG ...]

Load the model that a run has saved, and evaluate it on the run's validation data, under the
precision it was trained in or another. Nothing is written.

examples:
  mpt evaluate runs/2026-11-25/10-00-00_cnn_float32_1a2b
  mpt evaluate RUN precision=mixed_bfloat16
  mpt evaluate RUN precision=float16 batch_size=512 device=cpu
  mpt evaluate RUN dataset.path=other.npz --json | jq .metrics

overrides: precision=CHOICE, device=CHOICE, and values of these groups' keys, of dataset.*,
batch_size and metrics

flags:
  --json                   print one JSON object, and nothing else
"""


def main(argv: list[str], options: Options) -> int:
    """Evaluate the run that `argv` names.

    Returns:
        0; 4 where memory does not suffice.

    Raises:
        ConfigurationError: there is no such run, or an override is wrong.
    """
    values, words = take(argv, FLAGS)
    job = trained("evaluate", words, ["mpt", "evaluate", *argv], options)
    job.options = {"as_json": values["json"]}
    return execute(job)


def trained(task: str, words: list[str], command: list[str], options: Options) -> Job:
    """The job of doing `task` with the model of the run that `words` name, beside overrides.

    Raises:
        ConfigurationError: there is no such run, or an override is wrong.
    """
    refuse_flags(task, words, own_flags(task))
    paths = [word for word in words if "=" not in word]
    if len(paths) != 1:
        raise ConfigurationError(
            f"mpt {task} takes one run, and {len(paths)} were given",
            where="command line",
            remedy="name a run's folder, then overrides such as precision=float16",
        )
    folder = Path(paths[0])
    overrides = [word for word in words if "=" in word]
    config = run_configuration.read(folder, resuming=False)
    for override in overrides:
        _set(config, override, task)
    config["init_from"] = str(folder.resolve() / "model.keras")
    if config["batch_size"] == "max":
        config["batch_size"] = resuming.batch_size(folder)
    job = job_with(config, folder, overrides, command, options)
    job.task = task
    return job


def _set(config: dict[str, Any], override: str, task: str) -> None:
    """Set a key, or take a group's choice, in `config`."""
    key, _, choice = override.partition("=")
    if key.partition(".")[0] not in KEYS:
        raise ConfigurationError(
            f"{override} has no place in mpt {task}.", where=key, allowed=KEYS, value=key
        )
    if key not in GROUPS:
        assign(config, override, allowed=list(KEYS))
        return
    folder = configs_dir() / key
    choices = sorted(file.stem for file in folder.glob("*.yaml"))
    if choice not in choices:
        raise ConfigurationError(
            f"there is no {key}={choice}", where=key, allowed=choices, value=choice
        )
    config[key] = yaml_files.plain(folder / f"{choice}.yaml")


def help_text(argv: list[str]) -> str:
    """The help of `mpt evaluate`."""
    return USAGE
