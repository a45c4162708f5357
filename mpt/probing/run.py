"""One probe, from its configuration to its folder."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from itertools import islice
from pathlib import Path

import tensorflow as tf

from mpt import errors, report
from mpt.console import Console
from mpt.errors import ConfigurationError
from mpt.precision import is_container
from mpt.preparation import Prepared, prepare
from mpt.probing import checks, picture, tables
from mpt.probing.document import Findings, document
from mpt.probing.measuring import Measured, measure
from mpt.probing.observation import draws_on_its_own, without_noise
from mpt.probing.ranking import rank
from mpt.probing.recommendation import recommend
from mpt.report.numbers import power_of_two
from mpt.run_folder import RunFolder
from mpt.schema import TrainConfig

PROBE = "probe.json"


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    as_json: bool = False,
    batches: int = 1,
    reference: str = "float32",
    plot: str = "svg",
) -> int:
    """Probe the configured policy; write probe.json and the histogram's picture to `run_dir`.

    Args:
        command: the command line.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        composed: YAML texts for `.hydra/`: config, overrides, hydra.
        as_json: print the content of probe.json on stdout, and nothing else there.
        batches: batches to look at.
        reference: "float32" or "float64".
        plot: "svg" or "png".

    Returns:
        0; 4 where memory does not suffice.

    Raises:
        ConfigurationError: the configuration or the input cannot be used, nothing is in half
            precision, or a batch or the reference is not finite; nothing was written.
    """
    run_dir = Path(os.path.abspath(run_dir))
    _refuse_another(run_dir)
    console = Console(verbosity)
    try:
        # What a builder prints would come before the object.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            findings = _findings(config, allow, batches, reference, console)
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        console.error(
            f"out of memory: {str(error).splitlines()[0] if str(error) else 'on the host'}\n"
            f"  to do:   a smaller batch_size (now {config.batch_size}) tells as much"
        )
        return errors.OUT_OF_MEMORY
    content = report.encode(document(findings))
    with RunFolder.create(run_dir) as folder:
        folder.write_hydra(**composed)
        folder.write_json(PROBE, content)
        name = picture.draw(findings, folder.path, plot)
    if as_json:
        print(json.dumps(content, indent=2, allow_nan=False))
        console.note(f"probe: {run_dir}")
        return errors.OK
    if verbosity >= 0:
        tables.show(findings)
        print(f"picture: {run_dir / name}")
    print(f"probe: {run_dir}", flush=True)
    return errors.OK


def _refuse_another(run_dir: Path) -> None:
    if (run_dir / PROBE).exists():
        raise ConfigurationError(
            f"There is a probe in this folder already: {PROBE}.",
            where=f"run_dir={run_dir}",
            remedy="name another folder, or leave run_dir out to get a new one",
        )


def _findings(
    config: TrainConfig, allow: tuple[str, ...], batches: int, reference: str, console: Console
) -> Findings:
    prepared = prepare(replace(config, device=replace(config.device, strategy="none")), allow)
    model = prepared.model
    checks.has_half(model, prepared.choice.requested, prepared.choice.policy)
    checks.no_float8(model)
    for text in prepared.warnings:
        console.warning(text)
    taken = list(islice(prepared.data.train, batches))
    for number, batch in enumerate(taken, start=1):
        checks.finite_batch(batch, number)
    own_scale = float(prepared.optimizer.dynamic_scale.numpy())
    with without_noise(model) as quieted, tables.progress(console.verbosity) as tell:
        measured = measure(prepared, taken, reference, own_scale, tell)
    recommendation = recommend(measured.layers, measured.scales, prepared.choice.policy)
    judged = own_scale
    if prepared.optimizer.mode == "dynamic" and recommendation.initial_scale is not None:
        judged = recommendation.initial_scale
    return Findings(
        policy=prepared.choice.policy,
        reference=reference,
        batches=len(taken),
        batch_size=config.batch_size,
        scale=own_scale,
        model=model.name,
        layers=measured.layers,
        scales=measured.scales,
        recommendation=recommendation,
        ranking=rank(measured.layers, judged),
        notes=_notes(config, prepared, measured, quieted),
    )


def _notes(
    config: TrainConfig, prepared: Prepared, measured: Measured, quieted: list[str]
) -> list[str]:
    """What to know about how it was measured."""
    model = prepared.model
    notes = []
    if quieted:
        notes.append(
            f"Dropout, noise and random augmentation were off ({_named(quieted)}): what they draw "
            "depends on the dtype."
        )
    drawing = draws_on_its_own(model)
    if drawing:
        notes.append(
            f"{_named(drawing)} may draw random numbers that depend on the dtype; if so, errors "
            "from there on are overstated."
        )
    if measured.uncalled:
        notes.append(
            f"{_named(measured.uncalled)}: not called as a layer in the step, so that only the "
            "gradients of its weights are measured."
        )
    elif model._trainable_variables and not is_container(model):
        notes.append(
            f"{model.name} computes with weights of its own between its layers: what happens "
            "there shows only in its row as a whole."
        )
    if config.device.strategy != "none":
        notes.append(f"Measured on one device, without device.strategy={config.device.strategy}.")
    if config.init_from is None:
        notes.append("The weights are those that training starts from; init_from=RUN takes others.")
    own = float(prepared.optimizer.dynamic_scale.numpy())
    row = next(row for row in measured.scales if row.scale == own)
    if not row.finite and row.scale != 1 and any(each.finite for each in measured.scales):
        effect = (
            "a dynamic scale skips steps and shrinks until they fit"
            if prepared.optimizer.mode == "dynamic"
            else "every such step would be skipped"
        )
        notes.append(
            f"At this run's first scale, {power_of_two(own)}, gradients overflow: {effect}."
        )
    return notes


def _named(paths: list[str]) -> str:
    return ", ".join(paths) if len(paths) <= 3 else f"{paths[0]} and {len(paths) - 1} more"
