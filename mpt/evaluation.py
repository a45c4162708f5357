"""One evaluation of a trained model, from its run's configuration to a table of metrics."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import tensorflow as tf

from mpt import ending, errors, report, stall
from mpt.console import Console
from mpt.data.errors import input_error
from mpt.errors import ConfigurationError
from mpt.loop import EvaluationLoop
from mpt.preparation import Prepared, prepare
from mpt.printable import columns
from mpt.replicas import iterate
from mpt.run_folder import REPORT
from mpt.schema import TrainConfig
from mpt.stall import StallWatch


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    as_json: bool = False,
) -> int:
    """Evaluate the weights at `config.init_from` on the validation data; write nothing.

    Args:
        run_dir: folder of the run that trained them.
        command: the command line.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        composed: has no use here.
        as_json: print one JSON object on stdout, and nothing else there.

    Returns:
        0; 4 where memory does not suffice.

    Raises:
        ConfigurationError: the configuration or the input cannot be used, or there are no
            validation data.
    """
    console = Console(verbosity)
    try:
        # What a builder prints would come before the object.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            prepared = prepare(config, allow)
            for text in prepared.warnings:
                console.warning(text)
            metrics = evaluate(prepared)
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        size = config.batch_size if isinstance(config.batch_size, int) else None
        console.error(ending.out_of_memory(size, error))
        return errors.OUT_OF_MEMORY
    content = _content(prepared, run_dir, metrics)
    if as_json:
        print(json.dumps(report.encode(content), indent=2, allow_nan=False))
    else:
        _show(content)
    return errors.OK


def evaluate(prepared: Prepared) -> dict[str, float]:
    """One pass over the validation data: metric name -> value.

    Raises:
        ConfigurationError: there are none, or a batch of them cannot be made.
    """
    data = prepared.data
    if data.validation is None:
        raise ConfigurationError(
            f"dataset {data.name} has no validation examples",
            where="dataset",
            remedy="set dataset.validation_fraction, as the run that trained the model had it",
        )
    iterator = iterate(data.validation, prepared.strategy, prepared.team)
    loop = EvaluationLoop(prepared.model, prepared.strategy, iterator, data.validation_batches)

    def stalled(waited: float) -> None:
        stall.give_up(stall.stalled(f"validation batch {loop.awaited()}", waited))

    try:
        with StallWatch(data.stall_seconds, loop.awaited, stalled):
            found = loop.run()
    except (tf.errors.OpError, StopIteration) as error:
        raise input_error(error, data) or error from error
    assert found is not None  # nothing halts it
    return found


def _content(prepared: Prepared, run_dir: Path, metrics: dict[str, float]) -> dict[str, Any]:
    """What is told: the metrics, under which policy, and those of the training."""
    try:
        trained = report.read(run_dir / REPORT)
    except ConfigurationError:
        before, policy = {}, None
    else:
        before, policy = trained.metrics.final, trained.precision.name
    prefix = "validation/"
    return {
        "run": str(run_dir),
        "policy": prepared.choice.name,
        "device": prepared.device.name,
        "batch_size": prepared.batch_size,
        "examples": prepared.data.validation_examples,
        "source": prepared.data.validation_source,
        "metrics": metrics,
        "trained": {
            "policy": policy,
            "metrics": {
                tag[len(prefix) :]: value for tag, value in before.items() if tag.startswith(prefix)
            },
        },
    }


def _show(content: dict[str, Any]) -> None:
    trained = content["trained"]
    print(f"examples     {content['examples']} ({content['source']}), {content['device']}")
    rows = [("", content["policy"], f"trained, {trained['policy']}", "difference")]
    for name, value in content["metrics"].items():
        before = trained["metrics"].get(name)
        both = isinstance(before, int | float)
        rows.append(
            (
                name,
                f"{value:.6g}",
                f"{before:.6g}" if both else "-",
                f"{value - before:+.3g}" if both else "-",
            )
        )
    print("\n".join(columns(rows)))
