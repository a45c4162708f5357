"""`mpt bisect` from its command line to its files, with children that only pretend to train."""

import copy
import json
import shlex
import sys
from collections import namedtuple
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from mpt import bisection
from mpt.bisection import Settings
from mpt.commands import Options
from mpt.commands.bisect import FLAGS
from mpt.commands.flags import take
from mpt.commands.jobs import compose
from mpt.errors import ConfigurationError
from mpt.report import RunReport, encode

Result = namedtuple("Result", "code out err")
LAYERS = ("a", "b", "b/c", "b/d", "e", "f")
ROWS = [("net", "Functional"), *((path, "Dense") for path in LAYERS), ("head", "Dense")]


def computes(precision):
    """Path -> dtype, by the rules of mpt.precision for the model of ROWS."""

    def dtype(policy):
        return {"auto": "bfloat16", "float8": "bfloat16"}.get(policy, policy.removeprefix("mixed_"))

    found = {path: dtype(precision["policy"]) for path, _ in ROWS} | {"head": "float32"}
    for rule in precision["overrides"]:
        for path in found:
            if any(
                fnmatchcase(part, rule["match"]) for part in (path, path.rpartition("/")[0])
            ) or (rule["match"] == "net"):
                found[path] = dtype(rule["policy"])
    return found


class Children:
    """Stands in for `spawn`: what a training comes to is decided by what it keeps in float32.

    Attributes:
        passes: given the paths in float32, whether the training succeeds.
        outcomes: by folder's name, keys of the report that differ from the usual.
        codes: by folder's name, exit codes of children that leave nothing.
        probe: the probe's ranking; None: it fails.
        jobs: what was asked for.
    """

    def __init__(self):
        self.passes = lambda kept: "b/c" in kept
        self.outcomes = {}
        self.codes = {}
        self.probe = [{"path": "b/c", "score": 1.0, "reason": "its outputs are not finite"}]
        self.jobs = []
        self.interrupt_at = None

    def __call__(self, job, *, output):
        self.jobs.append(job)
        folder = Path(job.run_dir)
        if folder.name == self.interrupt_at:
            raise KeyboardInterrupt
        if folder.name in self.codes:
            output.write("error: refused\n")
            return self.codes[folder.name]
        if job.task == "probe" and self.probe is None:
            return 1
        folder.mkdir(parents=True)
        if job.task == "probe":
            (folder / "probe.json").write_text(json.dumps({"ranking": self.probe}))
            return 0
        output.write("warning: slow\n")
        dtypes = computes(job.config["precision"])
        kept = {path for path in LAYERS if dtypes[path] == "float32"}
        good = len(kept) == len(LAYERS) or self.passes(kept)
        result = self.report(job, folder, dtypes, good)
        (folder / "report.json").write_text(json.dumps(result))
        loss = 0.5 if good else 0.7
        rows = [{"step": step, "train/loss": loss} for step in (5, 10, 15, 20)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return result["exit_code"]

    def report(self, job, folder, dtypes, good):
        made = RunReport(
            run_id=folder.name, name="net", command=job.command, started_at="", config=job.config
        )
        made.status, made.exit_code, made.training.steps = "completed", 0, 20
        made.loss_scale.skipped_steps = 0
        made.execution.jit_compile, made.execution.steps_per_execution = True, 4
        made.precision.policy = job.config["precision"]["policy"].replace("auto", "mixed_bfloat16")
        made.precision.table = [
            {
                "path": path,
                "class": kind,
                "variable_dtype": "float32",
                "compute_dtype": dtypes[path],
                "source": "global",
            }
            for path, kind in ROWS
        ]
        if not good:
            made.diagnosis = [{"message": "too small", "step": 1}]
        values = encode(asdict(made))
        for key, value in self.outcomes.get(folder.name, {}).items():
            values[key] = value
        return values


@pytest.fixture
def children(monkeypatch):
    stand_in = Children()
    monkeypatch.setattr("mpt.bisection.trials.spawn", stand_in)
    return stand_in


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The job of `mpt bisect precision=mixed_float16 seed=3`; Hydra takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("composed"))
        job, _ = compose("bisect", ["precision=mixed_float16", "seed=3"], Options())
    return job


@pytest.fixture
def bisect(composed, children, tmp_path, monkeypatch, capfd):
    """`bisect(*argv, **precision)` runs a bisection as the command line would, without Hydra."""
    monkeypatch.setattr("mpt.bisection.policy_file.command", lambda *_: "mpt train ...")

    def call(*argv, verbosity=0, trainer=None, loss_scale=None, **precision):
        values, _ = take(list(argv), FLAGS)
        config = copy.deepcopy(composed.config)
        config["precision"] |= precision
        config["trainer"] |= trainer or {}
        config["loss_scale"] |= loss_scale or {}
        job = replace(composed, config=config, run_dir=str(tmp_path / "found"), verbosity=verbosity)
        capfd.readouterr()
        try:
            code = bisection.run(job, Settings(**values), [])
        except ConfigurationError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
        return Result(code, *capfd.readouterr())

    return call


def folder_of(result):
    last = result.out.splitlines()[-1]
    assert last.startswith("bisection: ")
    return Path(last.removeprefix("bisection: "))


def record_of(result):
    return json.loads((folder_of(result) / "bisect.json").read_text())


def names(record):
    return [trial["folder"] for trial in record["trials"]]


def test_from_the_command_line_to_a_command_line(mpt, children, runs, tmp_path):
    words = ("precision=mixed_float16", "seed=3", "precision.head=policy", "--steps=20")
    result = mpt("bisect", *words)
    assert result.code == 0
    record, folder = record_of(result), folder_of(result)
    assert folder.parent.parent == tmp_path / "bisections"
    assert (record["steps"], record["command"]) == (20, ["mpt", "bisect", *words])
    command = shlex.split(record["found"]["command"])
    assert f"train with   {record['found']['command']}" in result.out
    assert command[:2] == ["mpt", "train"]
    assert mpt(*command[1:]).code == 0
    (run,) = runs
    assert asdict(run.config.precision) == children.jobs[-1].config["precision"]
    assert run.config.seed == 3
    assert run.config.trainer.epochs == 100  # as configured, not shortened


def test_the_layer_alone_a_file_that_is_ready_and_the_evidence(bisect):
    result = bisect()
    assert result.code == 0
    record, folder = record_of(result), folder_of(result)
    assert record["status"] == "found"
    assert record["found"]["layers"] == ["b/c"]
    assert record["found"]["minimal"] is True
    assert names(record) == ["trials/00_float32", "trials/01_policy", "trials/02_b-c"]
    assert [trial["passed"] for trial in record["trials"]] == [True, False, True]
    assert (
        record["trials"][1]["why"]
        == "final loss 0.7, 40% above float32's 0.5, more than the tolerance"
    )
    assert record["ranking"][0] == {
        "path": "b/c",
        "source": "probe",
        "reason": "its outputs are not finite",
    }
    written = yaml.safe_load((folder / "precision" / "bisected.yaml").read_text())
    assert written["policy"] == "mixed_float16"
    assert written["overrides"] == [{"match": "b/c", "policy": "float32"}]
    assert "Keep this layer in float32: b/c." in result.out
    assert "trials/02_b-c" in result.out


def test_trainings_are_short_quiet_and_otherwise_the_same(bisect, children, composed):
    bisect("--steps", "40", trainer={"early_stopping": {"patience": 1, "min_delta": 0}})
    float32, policy, probe, trial = children.jobs
    for job in (float32, policy, trial):
        trainer = job.config["trainer"]
        assert trainer["log_every"] == 4
        assert trainer["early_stopping"]["patience"] is None
        assert trainer["epochs"] == 100
        assert job.config["telemetry"]["tensorboard"] is False
        assert job.config["loss_scale"]["max_consecutive_skips"] == 40
        assert (job.task, job.options, job.verbosity) == ("train", {"steps": 40}, -1)
        assert yaml.safe_load(job.composed["config"])["precision"] == job.config["precision"]
    assert float32.config["precision"] == {
        **composed.config["precision"],
        "policy": "float32",
        "head": "float32",
        "tf32": False,
    }
    assert policy.config["trainer"]["jit_compile"] == "auto"
    assert trial.config["trainer"]["jit_compile"] is True  # as the policy's run chose
    assert trial.config["trainer"]["steps_per_execution"] == 4
    assert (probe.task, probe.config["precision"]) == ("probe", policy.config["precision"])
    assert len({job.run_dir for job in children.jobs}) == 4
    assert all(job.config["run_dir"] == job.run_dir for job in children.jobs)


def test_what_trainings_say_is_kept_in_their_folders(bisect, children):
    result = bisect()
    trials = folder_of(result) / "trials"
    assert (trials / "01_policy" / "output.log").read_text() == "warning: slow\n"
    assert "slow" not in result.out + result.err


def test_the_user_s_own_rules_stay_and_float32_keeps_the_wide_ones(bisect, children):
    own = [{"match": "a", "policy": "float32"}, {"match": "e", "policy": "mixed_bfloat16"}]
    result = bisect(overrides=own)
    rules = [job.config["precision"]["overrides"] for job in children.jobs if job.task == "train"]
    assert rules[:2] == [own[:1], own]
    assert rules[2] == [*rules[1], {"match": "b/c", "policy": "float32"}]
    assert record_of(result)["found"]["precision"]["overrides"] == rules[2]


def test_two_layers_that_only_help_together(bisect, children):
    children.passes = lambda kept: {"a", "f"} <= kept
    result = bisect()
    assert record_of(result)["found"]["layers"] == ["a", "f"]
    assert record_of(result)["found"]["minimal"] is True
    assert "Without any one of them it fails." in result.out


def test_of_a_layer_and_its_children_only_what_is_needed(bisect, children):
    children.probe = [{"path": "b", "score": 1.0, "reason": "non-finite"}]
    children.passes = lambda kept: "b/d" in kept
    record = record_of(bisect())
    assert record["trials"][2]["layers"] == ["b/c", "b/d", "b"]
    assert record["trials"][2]["overrides"] == [{"match": "b", "policy": "float32"}]
    assert record["found"]["layers"] == ["b/d"]


def test_the_run_s_own_diagnosis_comes_before_the_probe(bisect, children):
    diagnosis = [{"message": "f overflowed", "path": "f", "direction": "forward", "step": 1}]
    children.outcomes["01_policy"] = {"diagnosis": diagnosis}
    children.passes = lambda kept: "f" in kept
    record = record_of(bisect())
    assert names(record)[2:] == ["trials/02_f"]
    assert record["trials"][1]["why"] == "f overflowed"


def test_float8_is_probed_as_what_it_lies_over(bisect, children):
    bisect(policy="float8", overrides=[{"match": "a", "policy": "float8"}])
    _, policy, probe, *_ = children.jobs
    assert policy.config["precision"]["policy"] == "float8"
    assert probe.config["precision"] == {
        **policy.config["precision"],
        "policy": "mixed_bfloat16",
        "overrides": [{"match": "a", "policy": "mixed_bfloat16"}],
    }


def test_without_a_probe_the_model_s_order_does(bisect, children):
    children.probe = None
    result = bisect()
    assert result.code == 0
    record = record_of(result)
    assert {entry["source"] for entry in record["ranking"]} == {"order"}
    assert "the probe gave no ranking (exit code 1)" in record["notes"][0]
    assert record["notes"][0] in result.err
    assert record["found"]["layers"] == ["b/c"]


def test_auto_is_written_as_what_it_was(bisect, children):
    record = record_of(bisect(policy="auto"))
    assert record["policy"] == "mixed_bfloat16"
    assert record["found"]["precision"]["policy"] == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("mode", "policy", "advised"),
    [
        ("none", "mixed_float16", True),
        ("fixed", "mixed_float16", True),
        ("auto", "mixed_float16", False),
        ("none", "mixed_bfloat16", False),
    ],
)
def test_a_loss_scale_may_be_all_that_is_missing(bisect, mode, policy, advised):
    result = bisect(policy=policy, loss_scale={"mode": mode})
    assert ("try loss_scale=dynamic" in result.err) == advised
    assert bool(record_of(result)["notes"]) == advised


def test_nothing_to_find(bisect, children):
    children.passes = lambda kept: True
    result = bisect()
    assert result.code == 2
    assert "There is nothing to find: over 20 steps mixed_float16 trains as float32 does" in (
        result.err
    )
    assert "final loss 0.5 against 0.5 in float32" in result.err
    assert "--steps" in result.err
    assert record_of(result)["status"] == "nothing_to_find"
    assert len(children.jobs) == 2


def test_float32_fails_too(bisect, children):
    reason = {"rule": "max_loss", "step": 9, "message": "the loss rose"}
    children.outcomes["00_float32"] = {"status": "diverged", "exit_code": 3, "reason": reason}
    result = bisect()
    assert result.code == 2
    assert (
        "fails in float32 too, diverged after 20 steps (max_loss): precision is not the cause"
        in (result.err)
    )
    assert len(children.jobs) == 1


@pytest.mark.parametrize("policy", ["float32", "tf32", "float64"])
def test_a_policy_without_reduced_precision_trains_nothing(bisect, children, tmp_path, policy):
    result = bisect(policy=policy)
    assert result.code == 2
    assert f"There is nothing to find: {policy} leaves no layer in reduced precision" in result.err
    assert "where:   precision.policy" in result.err
    assert children.jobs == []
    assert list(tmp_path.iterdir()) == []


def test_float32_with_a_layer_in_half_precision_is_worth_a_look(bisect, children):
    children.passes = lambda kept: len(kept) < len(LAYERS)  # all but what the rule narrows
    bisect(policy="float32", overrides=[{"match": "b/c", "policy": "float16"}])
    assert children.jobs[0].config["precision"]["overrides"] == []
    assert children.jobs[1].config["precision"]["overrides"] == [
        {"match": "b/c", "policy": "float16"}
    ]


def test_auto_that_turns_out_to_be_float32(bisect, children):
    children.report = lambda job, folder, dtypes, good: {
        **Children.report(children, job, folder, dict.fromkeys(dtypes, "float32"), good),
        "precision": {"policy": "float32", "reason": "auto: no units", "table": []},
    }
    result = bisect(policy="auto")
    assert result.code == 2
    assert "float32 (auto: no units) leaves no layer in reduced precision" in result.err


def test_all_layers_in_float32_still_fail(bisect, children):
    children.passes = lambda kept: False
    outcome = {"status": "diverged", "exit_code": 3}
    children.outcomes = {f"{n:02d}_{m}_layers": outcome for n in range(9) for m in range(9)}
    result = bisect()
    assert result.code == 1
    assert "It fails even with all 6 layers in float32. What is left: the loss" in result.out
    record = record_of(result)
    assert (record["status"], record["found"]) == ("not_found", None)
    assert not (folder_of(result) / "precision").exists()


def test_too_few_trials_to_find_one(bisect, children):
    children.probe = [{"path": path, "score": 0, "reason": ""} for path in ("a", "e", "f")]
    result = bisect("--trials=1")
    assert result.code == 1
    assert "No set passed within 1 trials" in result.out
    assert len(record_of(result)["trials"]) == 3


def test_too_few_trials_for_the_smallest(bisect, children):
    children.probe = [{"path": path, "score": 0, "reason": ""} for path in ("a", "e", "f")]
    result = bisect("--trials=3")
    assert result.code == 0
    record = record_of(result)
    assert (record["found"]["layers"], record["found"]["minimal"]) == (
        ["a", "b/c", "e", "f"],
        False,
    )
    assert "3 trials did not do" in result.out
    written = yaml.safe_load((folder_of(result) / "precision" / "bisected.yaml").read_text())
    assert {rule["match"] for rule in written["overrides"]} == {"a", "b/c", "e", "f"}


def test_an_interrupt_leaves_what_was_found_so_far(bisect, children):
    children.probe = [{"path": path, "score": 0, "reason": ""} for path in ("a", "b/c", "f")]
    children.interrupt_at = "04_b-c"
    result = bisect()
    assert result.code == 130
    record = record_of(result)
    assert record["status"] == "interrupted"
    assert (record["found"]["layers"], record["found"]["minimal"]) == (["a", "b/c"], False)
    assert (folder_of(result) / "precision" / "bisected.yaml").exists()
    assert "Interrupted; it passed with a, b/c in float32." in result.out


def test_an_interrupt_before_anything_was_found(bisect, children):
    children.interrupt_at = "01_policy"
    result = bisect()
    assert (result.code, record_of(result)["found"]) == (130, None)


def test_a_refused_configuration_leaves_nothing(bisect, children, tmp_path):
    children.codes["00_float32"] = 2
    result = bisect()
    assert (result.code, result.out) == (2, "")
    assert result.err.count("error:") == 1
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_says_nothing_about_precision(bisect, children):
    children.outcomes["00_float32"] = {"status": "oom", "exit_code": 4}
    result = bisect()
    assert result.code == 4
    assert "error: The training in trials/00_float32 ended as oom" in result.err
    assert "output.log" in result.err


def test_a_trial_that_was_killed_does_not_end_the_search(bisect, children):
    children.probe = [{"path": path, "score": 0, "reason": ""} for path in ("a", "b/c")]
    children.codes["02_a"] = -9
    record = record_of(bisect())
    assert record["trials"][2]["outcome"]["status"] == "killed"
    assert record["found"]["layers"] == ["b/c"]


def test_a_folder_of_one_s_own_is_used_once(bisect):
    assert bisect().code == 0
    result = bisect()
    assert result.code == 2
    assert "a result in this folder already: bisect.json" in result.err


def test_quiet_leaves_the_find(bisect, children):
    result = bisect(verbosity=-1)
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0] == "Keep this layer in float32: b/c."
    assert [line.split(maxsplit=1)[0] for line in lines[1:]] == ["policy", "train", "bisection:"]


def test_a_sweep_is_refused(mpt, children):
    result = mpt("bisect", "-m", "seed=0,1")
    assert result.code == 2
    assert "mpt bisect takes one configuration" in result.err


def test_hydra_s_own_answers_start_nothing(mpt, children):
    result = mpt("bisect", "--cfg", "job", "seed=3")
    assert (result.code, children.jobs) == (0, [])
    assert "seed: 3" in result.out


def test_help(mpt):
    text = mpt("bisect", "--help").out
    for word in ("usage: mpt bisect", "--steps", "--trials", "--tolerance", "mixed_float16"):
        assert word in text
