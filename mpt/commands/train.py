"""`mpt train`: train one run, or with -m a sweep, as the configuration says."""

import sys
from pathlib import Path
from typing import Any

from mpt import composition, errors
from mpt.commands import Options
from mpt.commands.sweep import Sweep
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.instantiate import check_allowed, check_arguments
from mpt.isolation import Job, execute


def main(argv: list[str], options: Options) -> int:
    """Compose the configuration that `argv` asks for, and train.

    Args:
        argv: Hydra's flags and overrides.
        options: what the command line said besides.

    Returns:
        The exit code: the run's, or a sweep's common one.

    Raises:
        ConfigurationError: the configuration or the input is wrong. No folder is left.
    """
    flags, overrides = composition.arrange(argv)
    command = ["mpt", "train", *argv]
    sweep = Sweep(command)
    codes: list[int] = []
    refusals: list[ConfigurationError] = []

    def job(config: Any) -> None:
        run_dir, varied, is_sweep = _place()
        try:
            if is_sweep:
                _check_folder(varied)
            prepared = _job(config, flags, overrides, run_dir, command, options)
        except ConfigurationError as error:
            if not is_sweep:
                refusals.append(error)
                return
            sweep.refuse(error, run_dir, varied)
            return
        if is_sweep:
            sweep.add(prepared, varied)
        else:
            codes.append(execute(prepared))

    if "-m" in flags or "--multirun" in flags:
        _check_folder(overrides)
    try:
        code = composition.drive(flags, overrides, job)
    except KeyboardInterrupt:
        sweep.close()
        return errors.INTERRUPTED
    composition.prune()
    if refusals:
        raise refusals[0]
    if sweep.outcomes:
        sweep.close()
        return sweep.exit_code()
    return codes[0] if codes else code


def _place() -> tuple[str, list[str], bool]:
    """The folder that Hydra gave this job, what sets the job apart, and whether it is a sweep's."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    varied = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(varied, list)
    return hydra.runtime.output_dir, [str(o) for o in varied], hydra.mode == RunMode.MULTIRUN


def _check_folder(overrides: list[str]) -> None:
    if any(override.lstrip("+").startswith("run_dir=") for override in overrides):
        raise ConfigurationError(
            "run_dir is the folder of one run, and a sweep has many",
            where="run_dir",
            remedy="choose the sweep's folder by hydra.sweep.dir=PATH",
        )


def _job(
    config: Any,
    flags: list[str],
    overrides: list[str],
    run_dir: str,
    command: list[str],
    options: Options,
) -> Job:
    """The job of a composed configuration, checked as far as that goes without TensorFlow."""
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
    for key in ("model", "dataset", "optimizer", "loss", "metrics"):
        check_allowed(getattr(typed, key), where=key, allow=options.allow)
    check_allowed(typed.trainer.callbacks, where="trainer.callbacks", allow=options.allow)
    check_arguments(typed.model, where="model", supplied=("shape", "classes"))
    check_arguments(typed.dataset, where="dataset", supplied=("batch_size", "seed"))
    assert isinstance(values, dict)
    hydra = HydraConfig.get()
    return Job(
        config={str(key): value for key, value in values.items()},
        run_dir=run_dir,
        command=command,
        composed={
            "config": OmegaConf.to_yaml(config),
            "overrides": OmegaConf.to_yaml(hydra.overrides.task),
            "hydra": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra})),
        },
        verbosity=options.verbosity,
        allow=options.allow,
        debug=options.debug,
    )


def help_text(argv: list[str]) -> str:
    """The help of `mpt train`, with the choices of every group; `argv` may add --config-dir."""
    from mpt.commands.help import train_help

    return train_help(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Options()))
