"""What one run measures, and what the next one makes of it."""

import json
from pathlib import Path

import pytest

from mpt.execution import make_execution
from mpt.preparation import prepare
from mpt.step_cache import StepCache
from mpt.tuning import BLOCK, JitTimes, StepsPerExecution
from mpt.tuning_cache import NAME

TINY = (
    "model=mlp",
    "precision=float32",
    "dataset.examples=100",
    "batch_size=10",
    "model.hidden=[4]",
)
FEW = ("trainer.steps=2", "telemetry=minimal", "telemetry.peak=true", "trainer.warmup_steps=0")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / NAME


def trained(mpt, *words):
    result = mpt("train", *TINY, *FEW, *words)
    assert result.code == 0, result.err
    (run,) = (word.removeprefix("run_dir=") for word in words if word.startswith("run_dir="))
    return json.loads(Path(run, "report.json").read_text())


def entries(file):
    return list(json.loads(file.read_text())["entries"].values())


def test_the_peak_is_measured_once_a_machine(mpt, file, monkeypatch):
    first = trained(mpt, "run_dir=first")
    (entry,) = entries(file)
    assert entry["subject"]["dtype"] == "float32"
    peak = entry["value"]["flops_per_second"]
    assert first["compute"]["peak_flops_per_second"] == peak > 1e8
    monkeypatch.setattr("mpt.telemetry.peaks.matmul_peak", lambda dtype: 1e15)
    assert trained(mpt, "run_dir=second")["compute"]["peak_flops_per_second"] == peak
    own = trained(mpt, "run_dir=third", "device.tuning_cache=false")
    assert own["compute"]["peak_flops_per_second"] == 1e15
    assert entries(file) == [entry]


def test_the_ceilings_are_what_later_runs_take_for_the_peak(mpt, file, monkeypatch):
    kinds = ("matmul_flops_per_second", "convolution_flops_per_second")
    rates = dict.fromkeys((*kinds, "bandwidth_bytes_per_second"), 3e12)
    monkeypatch.setattr("mpt.device_peaks.measured", lambda dtype: rates)
    assert mpt("doctor", "--peaks", "device=cpu").code == 0
    assert [e["subject"]["dtype"] for e in entries(file)] == ["float32", "bfloat16", "float16"]
    told = trained(mpt, "run_dir=run", "device=cpu")
    assert told["compute"]["peak_flops_per_second"] == 3e12


def test_steps_a_call_are_measured_once_a_step(mpt, file):
    long = ("trainer.steps=400", "telemetry.peak=false", "trainer.jit_compile=false")
    first = trained(mpt, "run_dir=first", *long)["execution"]
    assert first["choice_reasons"]["steps_per_execution"].startswith("measured ")
    again = trained(mpt, "run_dir=again", *long, "optimizer.learning_rate=0.002")["execution"]
    assert again["steps_per_execution"] == first["steps_per_execution"]
    reason = first["choice_reasons"]["steps_per_execution"]
    assert again["choice_reasons"]["steps_per_execution"] == f"in an earlier run: {reason}"
    short = trained(mpt, "run_dir=short", "telemetry.peak=false", "trainer.jit_compile=false")
    assert short["execution"]["steps_per_execution"] == first["steps_per_execution"]
    other = trained(mpt, "run_dir=other", "telemetry.peak=false", "model.hidden=[5]")
    assert other["execution"]["choice_reasons"]["steps_per_execution"].startswith("not measured")


@pytest.mark.parametrize(
    ("words", "is_same"),
    [
        ((), True),
        (("seed=3", "optimizer.learning_rate=0.1", "trainer.steps=7"), True),
        (("dataset.validation_fraction=0.3",), True),
        (("batch_size=20",), False),
        (("model.hidden=[5]",), False),
        (("precision=mixed_bfloat16",), False),
        (("optimizer=sgd",), False),
        (("loss_scale=fixed",), False),
        (("optimizer.weight_decay=0.01",), False),
        (("trainer.fused_kernels=false",), False),
    ],
)
def test_what_the_cost_of_a_step_depends_on(compose, file, words, is_same):
    """Keys that change what a step does have measurements of their own; others share them."""
    base = (*TINY, *FEW, "run_dir=run")
    StepCache(prepare(compose(*base), ())).put_jit(JitTimes(0.1, 0.2, 3.0))
    found = StepCache(prepare(compose(*base, *words), ())).jit()
    assert (found == JitTimes(0.1, 0.2, 3.0)) is is_same


def test_xla_is_taken_where_an_earlier_run_found_it_faster(compose, file):
    words = (*TINY, *FEW, "run_dir=run", "trainer.steps=100")
    prepared = prepare(compose(*words), ())
    StepCache(prepared).put_jit(JitTimes(without=0.1, with_xla=0.01, compiling=8.0))
    made = make_execution(prepared)
    assert made.jit.enabled
    assert made.jit.seconds == 0
    assert "compiling takes 8 s, which 100 steps repay" in made.jit.reason
    assert not make_execution(prepare(compose(*words, "device.tuning_cache=false"), ())).jit.enabled


def test_a_choice_of_steps_comes_back_as_it_was_kept(compose, file):
    prepared = prepare(compose(*TINY, *FEW, "run_dir=run"), ())
    choice = StepsPerExecution(BLOCK, "measured 1 ms a step at 1, 0.5 ms at 16", measured=True)
    StepCache(prepared).put_steps_per_execution(choice)
    assert StepCache(prepared).steps_per_execution() == choice.state()
