"""A bisection from its configuration to its find, as steps in order."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpt import errors, report
from mpt.bisection import evidence, policy_file
from mpt.bisection.evidence import Found, Record
from mpt.bisection.layers import Layers
from mpt.bisection.ranking import rank, read_probe
from mpt.bisection.search import Search, SpentError
from mpt.bisection.trials import Trial, Trials, child
from mpt.errors import ConfigurationError
from mpt.isolation import Job
from mpt.run_folder import RunFolder
from mpt.schema import FLOAT8, FLOAT8_BASE, HALF

RECORD = "bisect.json"
PROBE = {"as_json": False, "batches": 1, "reference": "float32", "plot": "svg"}


@dataclass(frozen=True)
class Settings:
    """How far to look.

    Attributes:
        steps: length of a training, unless the configured one is shorter.
        trials: most trainings with some layers in float32.
        tolerance: how far a final loss may be above float32's, as a share of it.
    """

    steps: int = 200
    trials: int = 24
    tolerance: float = 0.1


class EndError(Exception):
    """The bisection ends here: (status of the record, message, exit code)."""

    def __init__(self, status: str, message: str, exit_code: int):
        super().__init__(message)
        self.status, self.message, self.exit_code = status, message, exit_code


def run(job: Job, settings: Settings, argv: list[str]) -> int:
    """Find layers to keep in float32, so that the training of `job` succeeds.

    Args:
        job: the training, composed; its run_dir is the bisection's folder.
        argv: Hydra's flags and overrides that `job` was composed from.

    Returns:
        0 where a set was found; 1 where none was; 130 interrupted; a training's own code where
        it ended for a cause that is not precision.

    Raises:
        ConfigurationError: there is nothing to find, or float32 fails too.
    """
    _check(job)
    return Bisection(job, settings, argv).run()


class Bisection:
    """One bisection; `run` it once.

    Attributes:
        kept: the smallest set of layers that passed so far.
        tried: every set tried, and whether it passed.
    """

    def __init__(self, job: Job, settings: Settings, argv: list[str]):
        self.job, self.settings, self.argv = job, settings, argv
        self.folder = Path(job.run_dir)
        self.quiet = job.verbosity < 0
        self.record = Record(job.command, settings.steps, settings.trials, settings.tolerance)
        self.trials = Trials(job, self.folder, settings.steps, settings.tolerance, self._tell)
        self.record.trials = self.trials.done
        self.kept: frozenset[str] | None = None
        self.tried: dict[frozenset[str], bool] = {}
        self.precision: dict[str, Any] = dict(job.config["precision"])
        self.layers = Layers([])

    def run(self) -> int:
        """See `mpt.bisection.run`."""
        try:
            failing = self._baselines()
            self._rank(failing)
            end = self._search()
        except EndError as stop:
            end = stop
        except KeyboardInterrupt:
            end = self._interrupted()
        except Exception as error:
            self._close(EndError("failed", f"{type(error).__name__}: {error}", errors.FAILED))
            raise
        self._close(end)
        if end.exit_code == errors.INVALID and end.status != "refused":
            raise ConfigurationError(end.message, remedy=_REMEDIES.get(end.status))
        return end.exit_code

    def _baselines(self) -> Trial:
        """Train in float32, then under the policy, whose failure is what is looked for."""
        reference = self.trials.run("00_float32", _float32(self.precision), layers=None)
        self._require(reference)
        if not reference.passed:
            raise EndError(
                "fails_in_float32",
                f"It fails in float32 too, {reference.why}: precision is not the cause.",
                errors.INVALID,
            )
        self.trials.reference = reference.outcome
        failing = self.trials.run("01_policy", self.precision)
        self._require(failing)
        found = report.read(self.folder / failing.folder).precision
        asked = self.precision["policy"]
        self.record.policy = found.policy if asked == "auto" else asked
        self.precision["policy"] = self.record.policy
        self.layers = Layers(found.table)
        if not self.layers.candidates:
            raise EndError(
                "nothing_to_find",
                f"There is nothing to find: {found.policy} ({found.reason}) leaves no layer in "
                "reduced precision.",
                errors.INVALID,
            )
        if failing.passed:
            raise EndError(
                "nothing_to_find",
                f"There is nothing to find: over {failing.outcome.steps} steps "
                f"{self.record.policy} trains as float32 does ({failing.why}; "
                f"{failing.outcome.skipped} steps skipped).",
                errors.INVALID,
            )
        self._advise_on_scaling(found.table)
        self.trials.keep_choices(failing)
        return failing

    def _advise_on_scaling(self, table: list[dict[str, Any]]) -> None:
        """Say so where the loss scale, not a layer, is the likelier remedy."""
        mode = self.job.config["loss_scale"]["mode"]
        float16 = any(row["compute_dtype"] == "float16" for row in table)
        if float16 and mode in ("none", "fixed"):
            self._note(
                f"loss_scale.mode={mode} in float16: try loss_scale=dynamic before anything else; "
                "`mpt probe` tells which scale the gradients need"
            )

    def _require(self, trial: Trial) -> None:
        """End where a training came to nothing for a cause that is not precision."""
        if trial.outcome.outside_precision:
            output = self.folder / trial.folder / "output.log"
            where = f": see {output}" if output.exists() else ""
            code = trial.exit_code if trial.exit_code > 0 else errors.FAILED
            message = f"The training in {trial.folder} ended as {trial.why}{where}"
            raise EndError("refused" if code == errors.INVALID else "failed", message, code)

    def _rank(self, failing: Trial) -> None:
        """Put the layers in the order in which to try them."""
        folder = self.folder / "probe"
        config = {**self.job.config, "precision": _without_float8(self.precision)}
        code = child(replace(self.job, config=config, task="probe", options=dict(PROBE)), folder)
        probed = read_probe(folder)
        if probed is None:
            self._note(f"the probe gave no ranking (exit code {code}): layers come in their order")
        self.record.ranking = rank(self.layers, failing.outcome.diagnosis, probed)
        first = self.record.ranking[0]
        self._say(
            f"ranking: {len(self.record.ranking)} layers, first {first.path} "
            f"(by {first.source}{': ' if first.reason else ''}{first.reason})"
        )

    def _search(self) -> EndError:
        """Grow a set that passes, and make it as small as it goes."""
        ranking = [entry.path for entry in self.record.ranking]
        groups = Search(self._passes_with_children)
        minimal = False
        try:
            if not groups.grow(ranking):
                return self._all_fail()
            groups.minimize()
            minimal = groups.minimal
            assert self.kept is not None
            assert groups.best is not None
            if len(self.kept) > len(groups.best):  # of a layer and its children, some may do
                ordered = [path for path in self.layers.candidates if path in self.kept]
                singles = Search(self._passes, best=tuple(ordered))
                minimal = False
                singles.minimize()
                minimal = singles.minimal
        except SpentError:
            if self.kept is None:
                return EndError(
                    "not_found",
                    f"No set passed within {self.settings.trials} trials; --trials allows more.",
                    errors.FAILED,
                )
        found = self._write_found(minimal=minimal)
        assert found is not None
        return EndError("found", _sentence(found, self.settings.trials), errors.OK)

    def _interrupted(self) -> EndError:
        found = self._write_found(minimal=False)
        so_far = "" if found is None else f"; it passed with {', '.join(found.layers)} in float32"
        return EndError("interrupted", f"Interrupted{so_far}.", errors.INTERRUPTED)

    def _passes_with_children(self, paths: frozenset[str]) -> bool:
        return self._passes(frozenset().union(*map(self.layers.within, paths)))

    def _passes(self, kept: frozenset[str]) -> bool:
        """Whether the training passes with just these layers in float32."""
        if not kept or kept in self.tried:
            return self.tried.get(kept, False)
        if len(self.tried) >= self.settings.trials:
            raise SpentError
        ordered = [path for path in self.layers.candidates if path in kept]
        name = f"{len(self.trials.done):02d}_{_slug(ordered)}"
        trial = self.trials.run(name, self._keeping(kept), layers=ordered)
        self.tried[kept] = trial.passed
        if trial.passed and (self.kept is None or len(kept) < len(self.kept)):
            self.kept = kept
        return trial.passed

    def _keeping(self, kept: frozenset[str]) -> dict[str, Any]:
        rules = [*self.precision["overrides"], *self.layers.overrides(kept)]
        return {**self.precision, "overrides": rules}

    def _all_fail(self) -> EndError:
        left = ["the loss", "the optimizer", "the model's own operations outside its layers"]
        if report.read(self.folder / "trials" / "01_policy").precision.tf32:
            left.append("TensorFloat-32 products (precision.tf32=false)")
        return EndError(
            "not_found",
            f"It fails even with all {len(self.layers.all)} layers in float32. What is left: "
            f"{', '.join(left)}.",
            errors.FAILED,
        )

    def _write_found(self, *, minimal: bool) -> Found | None:
        """Write the policy file of the smallest set that passed, if one did."""
        if self.kept is None:
            return None
        precision = self._keeping(self.kept)
        layers = [path for path in self.layers.candidates if path in self.kept]
        writer = RunFolder(self.folder)
        comments = [
            f"{self.record.policy} with {len(layers)} layers in float32: {', '.join(layers)}",
            f"Found by: {' '.join(self.job.command)}",
        ]
        writer.write_text(policy_file.FILE, policy_file.text(precision, comments))
        command = policy_file.command(self.job, self.argv, precision, self.folder)
        if command is None:
            self._note("no command line composes to what was found: put the file's keys into yours")
        self.record.found = Found(layers, minimal, precision, policy_file.FILE, command)
        return self.record.found

    def _close(self, end: EndError) -> None:
        """Write the record, and print the trials, the find and, last, the folder."""
        self.record.status, self.record.message = end.status, end.message
        self.record.ended_at = evidence.now()
        if not self.folder.is_dir():
            return
        self._save()
        lines = [] if self.quiet else [*evidence.table(self.trials.done), ""]
        if end.status == "failed":
            print(f"error: {end.message}", file=sys.stderr, flush=True)
        elif end.exit_code != errors.INVALID:  # such a one is raised
            more = evidence.settled(self.trials.done)
            lines += [end.message, *([more] if more else [])]
        if self.record.found is not None:
            lines += [
                f"{'policy file':<13}{self.folder / self.record.found.file}",
                f"{'train with':<13}{self.record.found.command or 'see the note'}",
            ]
        lines += [f"{'evidence':<13}{self.folder / RECORD}"] if not self.quiet else []
        print("\n".join([*lines, f"bisection: {self.folder}"]), flush=True)

    def _tell(self, trial: Trial) -> None:
        if self.folder.is_dir():
            self._save()
        self._say(
            f"{trial.folder}: {evidence.in_float32(trial)} in float32, {trial.seconds:.0f} s, "
            f"{evidence.verdict(trial)}"
        )

    def _note(self, text: str) -> None:
        self.record.notes.append(text)
        print(f"note: {text}", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _save(self) -> None:
        RunFolder(self.folder).write_json(RECORD, self.record)


def _check(job: Job) -> None:
    """Refuse what needs no training to be refused."""
    precision = job.config["precision"]
    wanted = [precision["policy"], precision["head"]]
    wanted += [rule["policy"] for rule in precision["overrides"]]
    if not any(name in ("auto", FLOAT8) or name.removeprefix("mixed_") in HALF for name in wanted):
        raise ConfigurationError(
            f"There is nothing to find: {precision['policy']} leaves no layer in reduced "
            "precision.",
            where="precision.policy",
            remedy="name the policy that fails, such as precision=mixed_float16",
        )
    for name in (RECORD, "report.json"):
        if (Path(job.run_dir) / name).exists():
            raise ConfigurationError(
                f"There is a result in this folder already: {name}.",
                where=f"run_dir={job.run_dir}",
                remedy="name another folder, or leave run_dir out to get a new one",
            )


def _float32(precision: Mapping[str, Any]) -> dict[str, Any]:
    """The group for plain float32; rules that widen a layer stay."""
    wide = [rule for rule in precision["overrides"] if rule["policy"] in ("float32", "float64")]
    return {**precision, "policy": "float32", "tf32": False, "head": "float32", "overrides": wide}


def _without_float8(precision: Mapping[str, Any]) -> dict[str, Any]:
    """The group with what float8 lies over: a probe cannot take float8's gradients."""

    def plain(policy: str) -> str:
        return FLOAT8_BASE if policy == FLOAT8 else policy

    rules = [{**rule, "policy": plain(rule["policy"])} for rule in precision["overrides"]]
    return {**precision, "policy": plain(precision["policy"]), "overrides": rules}


def _slug(layers: list[str]) -> str:
    if len(layers) > 1:
        return f"{len(layers)}_layers"
    return re.sub(r"[^\w.-]+", "-", layers[0])[:60]


def _sentence(found: Found, limit: int) -> str:
    count = len(found.layers)
    what = f"Keep {'this layer' if count == 1 else f'these {count} layers'} in float32: "
    what += f"{', '.join(found.layers)}."
    if found.minimal:
        return what + ("" if count == 1 else " Without any one of them it fails.")
    return f"{what} {limit} trials did not do to see whether fewer would (--trials allows more)."


_REMEDIES = {
    "fails_in_float32": "look at the data, the loss and the learning rate; then bisect again",
    "nothing_to_find": "a failure that comes later needs more --steps, a smaller one a lower "
    "--tolerance",
}
