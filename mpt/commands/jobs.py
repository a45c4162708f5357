"""From a composed configuration to a job, checked as far as that goes without TensorFlow."""

from pathlib import Path
from typing import Any

from mpt import composition
from mpt.commands import Options
from mpt.commands.flags import own_flags
from mpt.common_flags import COMMON, COMPOSING
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.instantiate import check_allowed, check_arguments
from mpt.isolation import Job, execute
from mpt.schema import TrainConfig


def single(
    task: str,
    argv: list[str],
    options: Options,
    *,
    own: dict[str, Any] | None = None,
    folder: str | None = None,
) -> int:
    """Compose one configuration and do `task` with it, in this process.

    Args:
        task: one of `mpt.isolation.TASKS`; the subcommand's name too.
        argv: Hydra's flags and overrides.
        own: the task's own arguments, by keyword.
        folder: what takes the place of "runs" in the path of the job's folder.

    Returns:
        The task's exit code.

    Raises:
        ConfigurationError: the configuration or the input is wrong. No folder is left.
    """
    job, code = compose(task, argv, options, own=own, folder=folder)
    return code if job is None else execute(job)


def arranged(task: str, argv: list[str]) -> tuple[list[str], list[str]]:
    """`composition.arrange` for a subcommand with flags of its own."""
    return composition.arrange(argv, [*own_flags(task), *COMPOSING, *COMMON])


def compose(
    task: str,
    argv: list[str],
    options: Options,
    *,
    own: dict[str, Any] | None = None,
    folder: str | None = None,
) -> tuple[Job | None, int]:
    """The job of `single`; None, with the exit code, where Hydra itself answered (--cfg)."""
    flags, overrides = arranged(task, argv)
    if {"-m", "--multirun"} & set(flags):
        raise ConfigurationError(
            f"mpt {task} takes one configuration, not a sweep",
            where="command line",
            remedy=f"leave -m out; call mpt {task} once for each configuration",
        )
    command = ["mpt", task, *argv]
    overrides = ["hydra.mode=RUN", *overrides]  # whatever a recipe sweeps: its base is one job
    if folder is not None and not any(o.lstrip("+").startswith("run_dir=") for o in overrides):
        overrides = [composition.run_dir_in(folder), *overrides]
    jobs: list[Job] = []
    refusals: list[ConfigurationError] = []

    def note(config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        run_dir = HydraConfig.get().runtime.output_dir
        try:
            job = job_of(config, flags, overrides, run_dir, command, options)
        except ConfigurationError as error:
            refusals.append(error)
            return
        if job.config["batch_size"] == "max":
            refusals.append(_no_search(task))
            return
        job.task, job.options = task, dict(own or {})
        jobs.append(job)

    code = composition.drive(flags, overrides, note, allow=options.allow)
    composition.prune()
    if refusals:
        raise refusals[0]
    return (jobs[0] if jobs else None), code


def _no_search(task: str) -> ConfigurationError:
    return ConfigurationError(
        f"mpt {task} needs a number; only mpt train searches for the largest batch.",
        where="batch_size=max",
        remedy="give one, such as training.batch_size in a finished run's report.json",
    )


def job_of(
    config: Any,
    flags: list[str],
    overrides: list[str],
    run_dir: str,
    command: list[str],
    options: Options,
) -> Job:
    """The job of a composed configuration, to train; inside a job of Hydra's."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    try:
        if Path(str(config.run_dir)).resolve() != Path(run_dir).resolve():
            config.run_dir = run_dir  # a sweep's job has its folder from the sweep
        typed = to_config(config)
        values = OmegaConf.to_container(config, resolve=True)
    except ConfigurationError:
        raise
    except Exception as error:
        raise composition.explain(error, flags, overrides) from error
    checked(typed, options)
    assert isinstance(values, dict)
    hydra = HydraConfig.get()
    return Job(
        config={str(key): value for key, value in values.items()},
        run_dir=run_dir,
        command=command,
        composed={
            "config": OmegaConf.to_yaml(config, resolve=True),
            "overrides": OmegaConf.to_yaml(hydra.overrides.task),
            "hydra": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        },
        verbosity=options.verbosity,
        allow=options.allow,
        debug=options.debug,
    )


def checked(config: TrainConfig, options: Options) -> TrainConfig:
    """`config`, if nothing in it is wrong that can be told without building anything.

    Raises:
        ConfigurationError: it names code that is not admitted, or arguments that do not fit.
    """
    if config.resume is not None:
        raise ConfigurationError(
            "resume belongs on the command line of mpt train, not in a configuration.",
            where="resume",
            remedy="leave it out here",
        )
    for key in ("model", "dataset", "optimizer", "loss", "metrics"):
        check_allowed(getattr(config, key), where=key, allow=options.allow)
    check_allowed(config.trainer.callbacks, where="trainer.callbacks", allow=options.allow)
    check_arguments(config.model, where="model", supplied=("shape", "classes"))
    check_arguments(config.dataset, where="dataset", supplied=("batch_size", "seed"))
    return config
