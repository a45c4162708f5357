"""One inspection, from its configuration to its exit code."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import tensorflow as tf

from mpt import errors, report
from mpt.console import Console, rich_console
from mpt.inspection.inspection import inspect
from mpt.inspection.subject import examine
from mpt.inspection.tables import show
from mpt.schema import TrainConfig


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    as_json: bool = False,
    strict: bool = False,
) -> int:
    """Show what the layers of the configured model compute in, and what to change.

    Args:
        run_dir, command, composed: of a job; nothing is written, and they are not used.
        verbosity: -1 shows the findings only.
        allow: modules and files whose code the user admits.
        as_json: print one JSON object on stdout, and nothing else there.
        strict: end with 2 on a finding.

    Returns:
        The exit code of the process: 0; 2 on a finding with `strict`; 4 where memory does not
        suffice to build the model.

    Raises:
        ConfigurationError: the configuration or the input cannot be used.
    """
    console = Console(verbosity)
    try:
        # What a builder prints would come before the object.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            inspection = inspect(examine(config, allow))
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        console.error(
            f"out of memory while the model is built: {cause}\n"
            f"  to do:   a smaller batch_size (now {config.batch_size}), or a smaller model"
        )
        return errors.OUT_OF_MEMORY
    for text in inspection.warnings:
        console.warning(text)
    if as_json:
        print(json.dumps(report.encode(inspection.as_json()), indent=2))
    else:
        show(inspection, rich_console(sys.stdout), quiet=verbosity < 0)
    return errors.INVALID if strict and inspection.findings else errors.OK
