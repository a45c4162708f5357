"""Real runs of any configuration, three steps each: done, or refused with one error.

What only a process of its own can bear, a limit of memory or a split CPU, is left out.
"""

import json
import os
import shutil

import jsonschema
import pytest
from configurations import GROUPS, closed, open_keys, settings_of, written
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import FACTOR, examples

from mpt import report
from mpt.cli import main
from mpt.report.schema import json_schema
from mpt.run_folder import read_metrics

# Small enough for hundreds of runs. What they are set to is for these keys alone.
SMALL = (
    *("trainer.steps=3", "trainer.epochs=null", "dataset.examples=48", "batch_size=8"),
    *("trainer.log_every=1", "trainer.checkpoint_every=2", "telemetry.peak=false"),
)
LENGTH = ("trainer.steps", "trainer.epochs", "dataset.examples", "batch_size")
KEYS = {
    key: values
    for key, values in {**closed, **open_keys}.items()
    if key not in (*LENGTH, "telemetry.peak", "device.deterministic", "device.strategy")
}
OWN = {  # keys that not every choice has
    "mlp": ("model.hidden", "model.activation", "model.dropout"),
    "cnn": ("model.filters", "model.kernel_size"),
    "synthetic": ("dataset.shape", "dataset.classes", "dataset.outputs"),
    "arrays": ("dataset.path", "dataset.vocabulary", "dataset.length"),
    "sgd": ("optimizer.momentum", "optimizer.nesterov"),
}
groups = st.fixed_dictionaries(
    {
        "model": st.sampled_from(("mlp", "mlp", "cnn")),
        "dataset": st.sampled_from(("digits", "synthetic")),
        "precision": st.sampled_from(GROUPS["precision"]),
        "loss_scale": st.sampled_from(GROUPS["loss_scale"]),
        "optimizer": st.sampled_from(GROUPS["optimizer"]),
        "device": st.sampled_from(("auto", *["cpu"] * 8, "gpu")),
        "telemetry": st.sampled_from(GROUPS["telemetry"]),
    }
)


@st.composite
def command_lines(draw):
    """Words that choose every group and set some of the keys that the choices have."""
    chosen = draw(groups)
    lacking = {key for choice, keys in OWN.items() if choice not in chosen.values() for key in keys}
    keys = {key: values for key, values in KEYS.items() if key not in lacking}
    found = draw(settings_of(keys, 4, beyond=draw(st.integers(0, 3)) == 0))
    small = ["model.hidden=[4]"] if chosen["model"] == "mlp" else ["model.filters=2"]
    if chosen["dataset"] == "synthetic":
        small += ["dataset.shape=[4,4,1]", "dataset.classes=3"]
    words = [f"{group}={choice}" for group, choice in chosen.items()]
    words += [*SMALL, *small]
    for key, value in found.items():
        added = "+" if key.startswith("optimizer.schedule.") and key[19:] in NEW else ""
        words.append(f"{added}{key}={written(value)}")
    return words


NEW = ("boundaries", "factors")


@pytest.fixture
def answered(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def call(words):
        try:
            "\0".join(words).encode()
        except UnicodeEncodeError:
            return
        capfd.readouterr()
        code = main(["train", *words, "run_dir=run", "-q"])
        said = capfd.readouterr().err
        assert "Traceback" not in said, said
        if code == 2 and not (tmp_path / "run" / "report.json").exists():
            assert said.count("error: ") == 1, said
            assert os.listdir(tmp_path) == []
            return
        assert_report(tmp_path / "run", code, said)
        shutil.rmtree(tmp_path / "run")

    return call


def assert_report(run, code, said):
    content = json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)
    jsonschema.validate(content, json_schema())
    found = report.read(run)
    assert found.exit_code == code, said
    # A rule of divergence holds, or an input is wrong that shows only as it is read.
    expected = {0: ("completed", "stopped_early"), 3: ("diverged",), 2: ("failed",)}
    assert found.status in expected.get(code, ()), said
    if code == 0:
        assert (run / "model.keras").is_file()
        assert found.training.steps == 3 or found.status == "stopped_early"
        assert read_metrics(run)[-1]["step"] == found.training.steps
        assert main(["show", str(run), "-q"]) == 0


@pytest.mark.slow
@examples(5)
@given(command_lines())
def test_a_few_runs(answered, words):
    answered(words)


@pytest.mark.slow
@settings(max_examples=80 * FACTOR)
@given(st.data())
def test_many_runs(answered, data):
    answered(data.draw(command_lines()))
