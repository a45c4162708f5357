"""`mpt train`: train one run, or with -m a sweep, as the configuration says."""

import sys
from typing import Any

from mpt import composition, errors
from mpt.commands import Options
from mpt.commands.jobs import job_of
from mpt.commands.sweep import Sweep
from mpt.errors import ConfigurationError
from mpt.isolation import execute


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
            prepared = job_of(config, flags, overrides, run_dir, command, options)
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


def help_text(argv: list[str]) -> str:
    """The help of `mpt train`, with the choices of every group; `argv` may add --config-dir."""
    from mpt.commands.help import train_help

    return train_help(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Options()))
