"""`mpt train`: train one run, or with -m a sweep, as the configuration says."""

import sys
import time
from pathlib import Path
from typing import Any

from mpt import composition, errors, isolation, postmortem, resuming
from mpt.batch_search import SearchFailed, settle
from mpt.commands import Options, resume
from mpt.commands.jobs import job_of
from mpt.commands.sweep import Sweep
from mpt.commands.sweep_task import SweepTask, check_folder
from mpt.config import to_config
from mpt.errors import ConfigurationError, LauncherError
from mpt.guard import lifted
from mpt.isolation import ChildInterrupted, Job, execute, spawn
from mpt.launching import planned, stopping
from mpt.run_folder import HYDRA


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
    overrides, resumed = resume.take(overrides)
    if resumed is not None and not resume.is_sweep(resumed):
        return _run(resume.of_run(resumed, flags, overrides, command, options))
    if resumed is not None:
        overrides = resume.of_sweep(overrides, resumed)
    task = SweepTask(
        command, flags, overrides, options, isolation.this_process(), resuming=resumed is not None
    )
    if "-m" in flags or "--multirun" in flags:
        check_folder(overrides)
    with Sweep(command, resumed) as sweep:
        return _drive(task, sweep)


def _drive(task: SweepTask, sweep: Sweep) -> int:
    """Have Hydra compose the configuration, or a sweep's, and train."""
    codes: list[int] = []
    refusals: list[ConfigurationError] = []

    def job(config: Any) -> float | None:
        if _is_sweep():
            return task(config)
        try:
            codes.append(_single(config, task))
        except ConfigurationError as error:
            refusals.append(error)
        return None

    with stopping(lambda: sweep.stop) as interrupts:
        try:
            with planned(sweep.plan):
                allow = task.options.allow
                code = composition.drive(task.flags, task.overrides, job, allow=allow)
        except KeyboardInterrupt:
            interrupts.seen = True
        except Exception as error:
            if not interrupts.seen:
                return _failed(sweep, error)
        outcome = sweep.close(patient=not interrupts.seen)
        composition.prune()
    if interrupts.seen and not codes:
        if interrupts.insisted or not sweep.ran:
            return interrupts.code
        return errors.SAVED if sweep.unfinished else outcome
    if refusals:
        raise refusals[0]
    if sweep.started:
        return outcome
    return codes[0] if codes else code


def _failed(sweep: Sweep, error: Exception) -> int:
    """End a sweep that could not go on: what its jobs came to stands."""
    if not sweep.started:
        raise error
    if isinstance(error, ConfigurationError):  # in a later batch of an adaptive sweeper
        sweep.close()
        raise error
    # Such as joblib's, when a worker of its own was killed.
    what = "the launcher failed" if isinstance(error, LauncherError) else type(error).__name__
    print(f"error: {what}: {error}", file=sys.stderr)
    sweep.give_up()
    composition.prune()
    return errors.FAILED


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _single(config: Any, task: SweepTask) -> int:
    """Train the one run, in this process."""
    from hydra.core.hydra_config import HydraConfig

    if task.resuming:
        raise ConfigurationError(
            "This is one run, and resume names the folder of a sweep.",
            where="resume",
            remedy="give the sweep's own command, with -m, and add resume=PATH",
        )
    run_dir = HydraConfig.get().runtime.output_dir
    return _run(job_of(config, task.flags, task.overrides, run_dir, task.command, task.options))


def _run(job: Job) -> int:
    """Train, in this process unless its memory is limited."""
    together = job.config["device"]["strategy"] == "multi_worker"
    ended = None if together else resuming.ended(Path(job.run_dir), to_config(job.config))
    if ended is not None:  # told here, for TensorFlow takes seconds to load
        from mpt.console import Console  # not above: the help need not wait for it

        Console(job.verbosity).nothing_left(ended.message, Path(job.run_dir))
        return ended.exit_code
    if job.config["batch_size"] != "max" and job.config["device"]["memory_limit_mb"] is None:
        with lifted():
            return execute(job)
    try:
        job = settle(job)
    except SearchFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    return _in_child(job)


def _in_child(job: Job) -> int:
    """Run `job` in a process of its own, whose memory can run out without ending this one."""
    started, folder = time.time(), Path(job.run_dir)
    try:
        code = spawn(job)
    except ChildInterrupted as interrupt:
        code = interrupt.code
    if folder.is_dir() and (code != errors.INTERRUPTED or (folder / HYDRA).is_dir()):
        config = to_config(job.config)
        postmortem.write(folder, config, command=job.command, exit_code=code, started=started)
    return errors.of_process(code)  # as its report has it


def help_text(argv: list[str]) -> str:
    """The help of `mpt train`, with the choices of every group; `argv` may add --config-dir."""
    from mpt.commands.help import train_help

    return train_help(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Options()))
