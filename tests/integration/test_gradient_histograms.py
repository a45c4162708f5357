"""The histograms of each layer's gradients in a run's event file."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mpt.preparation import prepare
from mpt.run_folder import read_metrics

PREFIX = "gradients/exponents/"
TINY = ("dataset.examples=100", "batch_size=10", "telemetry.peak=false", "model.hidden=[4,3]")


def test_each_layer_has_the_last_histogram_of_each_window(mpt, tmp_path):
    result = mpt(
        *("train", "model=mlp", "precision=mixed_float16", "trainer.steps=11", *TINY),
        *("trainer.log_every=5", "telemetry.histogram_every=2", f"run_dir={tmp_path}/run"),
    )
    assert result.code == 0, result.err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    layers = [tag.removeprefix(PREFIX) for tag in events.Tags()["tensors"] if PREFIX in tag]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert layers
    assert set(layers) <= {row["path"] for row in report["precision"]["table"]}
    parameters = 0
    for layer in layers:
        found = events.Tensors(PREFIX + layer)
        # Windows end at 5, 10 and 11; the last one has no counted step.
        assert [event.step for event in found] == [4, 10]
        sums = {tensor_util.make_ndarray(event.tensor_proto)[:, 2].sum() for event in found}
        assert len(sums) == 1
        parameters += sums.pop()
    assert parameters == report["model"]["parameters"], "an mlp has trainable ones only"
    assert not [tag for row in read_metrics(tmp_path / "run") for tag in row if PREFIX in tag]


@pytest.mark.parametrize(
    "off",
    ["telemetry.histogram_every=0", "telemetry.gradients=false", "telemetry.tensorboard=false"],
)
def test_nothing_is_counted_where_it_is_not_wanted_or_has_no_place(compose, tmp_path, off):
    words = ("model=mlp", *TINY, f"run_dir={tmp_path}/run")
    assert prepare(compose(*words), ()).optimizer.histograms is not None
    assert prepare(compose(*words, off), ()).optimizer.histograms is None


def test_minimal_telemetry_has_none_and_the_default_has_one_each_500_steps(compose):
    assert compose("telemetry=minimal").telemetry.histogram_every == 0
    assert compose().telemetry.histogram_every == 500
