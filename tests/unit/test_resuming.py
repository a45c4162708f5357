"""Whether a folder holds a run that can go on, and whether it is the one that is asked for."""

import dataclasses
import json
import math
from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from mpt import resuming, run_configuration
from mpt.checkpoint import Checkpoints
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.resuming import Ended, Resumption
from mpt.run_configuration import FREE, FURTHER
from mpt.run_folder import RunFolder
from mpt.schema import TrainConfig

# What every checkpoint of a run says of it.
CHOSEN = {
    "batch_size": 128,
    "policy": "float32",
    "jit": {"enabled": False, "reason": "as configured"},
    "fingerprint": "x",
}


@pytest.fixture
def config(compose):
    return compose("trainer.steps=100")


def changed(config, key, value):
    """`config` with another value of a dotted key."""
    values = asdict(config)
    node = values
    *parents, last = key.split(".")
    for name in parents:
        node = node[name]
    assert last in node
    node[last] = value
    return to_config(values)


@pytest.fixture
def run(tmp_path):
    """`run(config, status, exit_code, step)`: what such a run leaves in `tmp_path/run`."""

    def call(config, status=None, exit_code=0, step=None, state=None):
        with RunFolder.create(tmp_path / "run") as folder:
            folder.write_hydra(config=OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
            if status is not None:
                content = {"status": status, "exit_code": exit_code, "training": {"steps": 100}}
                folder.write_json("report.json", content)
        if step is not None:
            kept = {"run": CHOSEN, "training": {"step": step, "stopped": None}, **(state or {})}
            Checkpoints(tmp_path / "run", keep=9).save(step, kept)
        return tmp_path / "run"

    return call


def keys(kind, prefix=""):
    """Every key of the configuration, dotted, and every group."""
    for each in dataclasses.fields(kind):
        yield f"{prefix}{each.name}"
        if dataclasses.is_dataclass(each.type):
            yield from keys(each.type, f"{prefix}{each.name}.")


def test_what_may_change_is_in_the_configuration():
    known = {*keys(TrainConfig), "dataset.stall_seconds"}
    assert set(FREE) <= known
    assert set(FURTHER) <= set(FREE)


class TestWhatIsThere:
    def test_nothing(self, tmp_path, config):
        assert resuming.find(tmp_path / "absent", config) is None
        (tmp_path / "empty").mkdir()
        assert resuming.find(tmp_path / "empty", config) is None
        with pytest.raises(ConfigurationError, match="nothing to resume"):
            run_configuration.read(tmp_path / "empty", resuming=True)
        with pytest.raises(ConfigurationError, match="no run in this folder"):
            run_configuration.read(tmp_path / "empty", resuming=False)

    def test_a_run_without_a_checkpoint(self, run, config):
        found = resuming.find(run(config), config)
        assert isinstance(found, Resumption)
        assert (found.found, found.run, found.state) == (None, {}, None)
        assert "begins at the first step" in found.warnings[0]

    def test_a_run_whose_checkpoints_are_gone(self, run, config):
        folder = run(config, "interrupted", 75)
        content = json.loads((folder / "report.json").read_text())
        content["artifacts"] = {"checkpoint": "checkpoints/step-00000040.ckpt"}
        (folder / "report.json").write_text(json.dumps(content))
        with pytest.raises(ConfigurationError, match=r"are gone: .*step-00000040\.ckpt"):
            resuming.find(folder, config)

    def test_a_killed_run_whose_checkpoints_are_gone(self, run, config):
        folder = run(config)
        (folder / "metrics.jsonl").write_text('{"step": 500}\n')
        assert resuming.find(folder, config).found is None, "it was killed before it wrote one"
        (folder / "metrics.jsonl").write_text('{"step": 500}\n{"step": 550}\n')
        with pytest.raises(ConfigurationError, match="are gone: it came to step 550"):
            resuming.find(folder, config)
        store = Checkpoints(folder)
        store.begin()
        assert resuming.find(folder, config).found is None, "there was no room for one"
        store.save(500, {"run": CHOSEN}).unlink()
        with pytest.raises(ConfigurationError, match="are gone: it came to step 550"):
            resuming.find(folder, config)
        (folder / "metrics.jsonl").unlink()
        (folder / "model.keras").touch()
        with pytest.raises(ConfigurationError, match=r"are gone: it saved model\.keras"):
            resuming.find(folder, config)

    def test_a_run_with_one(self, run, config):
        found = resuming.find(run(config, step=7), config)
        assert (found.found.step, found.run) == (7, CHOSEN)
        assert found.warnings == ()

    @pytest.mark.parametrize(
        ("status", "code"), [("completed", 0), ("stopped_early", 0), ("diverged", 3)]
    )
    def test_a_run_that_came_to_its_end(self, run, config, status, code):
        folder = run(config, status, code, step=100)
        for found in (resuming.find(folder, config), resuming.ended(folder, config)):
            assert isinstance(found, Ended)
            assert found.exit_code == code
            assert "100 steps" in found.message

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            *(("interrupted", 75), ("interrupted", 130), ("failed", 1), ("oom", 4)),
            *(("killed", 137), ("completed", 1), ("failed", 0), ("no such status", 0)),
        ],
    )
    def test_a_run_that_did_not(self, run, config, status, code):
        folder = run(config, status, code, step=50)
        assert resuming.find(folder, config).found.step == 50
        assert resuming.ended(folder, config) is None

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "completed"}', "null", '"x"'])
    def test_a_report_that_says_nothing(self, run, config, text):
        folder = run(config, step=50)
        (folder / "report.json").write_text(text)
        assert resuming.find(folder, config).found.step == 50


class TestWhatIsAskedFor:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("seed", 1), ("batch_size", 64), ("loss", "mse"), ("monitor", "train/loss")),
            *(("optimizer.learning_rate", 0.5), ("optimizer.schedule.name", "cosine")),
            *(
                ("trainer.log_every", 7),
                ("trainer.eval_every", 7),
                ("trainer.callbacks", [{"_target_": "keras.callbacks.History"}]),
            ),
            *(("trainer.steps_per_execution", 4), ("trainer.jit_compile", True)),
            *(("precision.policy", "mixed_float16"), ("loss_scale.growth_steps", 3)),
            *(("device.strategy", "mirrored"), ("device.deterministic", True)),
            *(("telemetry.histogram_every", 3), ("dataset.shuffle", False)),
        ],
    )
    def test_another_value_of_what_shapes_the_result(self, run, config, key, value):
        folder = run(config, step=7)
        for look in (resuming.find, resuming.ended):
            with pytest.raises(ConfigurationError, match=f"another configuration: {key}\n"):
                look(folder, changed(config, key, value))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("name", "mine"), ("init_from", "x.keras"), ("run_dir", "elsewhere")),
            *(("trainer.keep", 5), ("trainer.checkpoint_every", 3), ("trainer.keep_best", False)),
            *(("dataset.stall_seconds", 5), ("telemetry.peak", False)),
        ],
    )
    def test_another_value_of_what_does_not(self, run, config, key, value):
        folder = run(config, "completed", step=100)
        assert isinstance(resuming.find(folder, changed(config, key, value)), Ended)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("trainer.steps", 200), ("trainer.stop.max_loss", 3.0)),
            *(("trainer.early_stopping.patience", 9), ("trainer.on_divergence", "rollback")),
        ],
    )
    def test_to_go_further_than_the_end(self, run, config, key, value):
        folder = run(config, "completed", step=100)
        assert resuming.find(folder, changed(config, key, value)).found.step == 100
        assert resuming.ended(folder, changed(config, key, value)) is None

    def test_a_diverged_run_goes_on_from_where_it_was_good(self, run, config):
        folder = run(config, "diverged", 3, step=50)
        Checkpoints(folder, keep=9).save(60, {}, healthy=False)
        assert resuming.find(folder, changed(config, "trainer.steps", 200)).found.step == 50

    def test_a_run_that_skipped_every_step_has_nothing_to_go_on_from(self, run, config):
        folder = run(config, "diverged", 3, step=50)
        report = json.loads((folder / "report.json").read_text())
        report["reason"] = {"rule": "all_skipped", "step": 100, "message": "all skipped"}
        (folder / "report.json").write_text(json.dumps(report))
        assert "train anew" in resuming.find(folder, config).message

    def test_a_rule_that_was_too_strict_may_be_another(self, run, config):
        state = {"training": {"step": 100, "stopped": None}}
        folder = run(config, "diverged", 3)
        Checkpoints(folder, keep=9).save(100, {"run": CHOSEN, **state}, healthy=False)
        assert "No checkpoint of it is good" in resuming.find(folder, config).message
        looser = changed(config, "trainer.stop.max_loss", 7.0)
        assert resuming.find(folder, looser).found.step == 100
        with pytest.raises(ConfigurationError, match="not fit to go back to"):
            resuming.find(folder, changed(config, "trainer.on_divergence", "rollback"))

    def test_where_it_stopped_early_it_goes_on_under_other_limits_only(self, run, config):
        with_limits = {"training": {"step": 50, "stopped": {"rule": "early_stopping"}}}
        own = run_configuration.limits(config)
        folder = run(config, step=50, state={**with_limits, "folder": {"limits": own}})
        assert resuming.find(folder, config).state["training"]["stopped"]
        # By the configuration that the checkpoint was written under: that in the folder may be new.
        patient = changed(config, "trainer.early_stopping.patience", 9)
        (folder / ".hydra/config.yaml").write_text(
            OmegaConf.to_yaml(OmegaConf.create(asdict(patient)))
        )
        assert resuming.find(folder, patient).state["training"]["stopped"] is None

    @pytest.mark.parametrize(
        "value",
        [
            *(1e-7, 1e16, -0.0, 0.1, 123456789012345678, True, None, [], {}, [[1, [2.5]], {}]),
            *("", "007", "1e3", "1e-3", "yes", "null", "~", "2026-01-01", "1:30", "0x10", "{}"),
            *("a: b", "# no comment", "x\ny\n", "\u00e9\u2603", "'\"", " spaces ", "${not}", "!x"),
            *({"1": 2}, {"a.b": 1, "true": "false"}),
            *(math.inf, -math.inf, math.nan, [math.nan]),
        ],
    )
    def test_any_value_is_the_same_when_it_is_read_again(self, run, compose, value):
        config = compose("model=python", "model.function=x.py:f", "trainer.steps=100")
        config = dataclasses.replace(config, model={**config.model, "kwargs": {"value": value}})
        folder = run(config, step=7)
        assert resuming.find(folder, config).found.step == 7


def test_other_data_or_fewer_steps_are_refused(run, config):
    found = resuming.find(run(config, step=7), config)
    found.check("x", 7)
    with pytest.raises(ConfigurationError, match="fingerprint differs"):
        found.check("y", 100)
    with pytest.raises(ConfigurationError, match="step 7 already"):
        found.check("x", 6)


def test_the_overrides_of_a_run(run, config):
    folder = run(config)
    assert run_configuration.overrides(folder) == []
    file = folder / ".hydra/overrides.yaml"
    file.write_text("- seed=1\n- name='a b'\n")
    assert run_configuration.overrides(folder) == ["seed=1", "name='a b'"]
    for text in ("{", "a: 1", "- [1]\n- 2\n", json.dumps({"x": 1})):
        file.write_text(text)
        assert run_configuration.overrides(folder) == []
    file.unlink()
    assert run_configuration.overrides(folder) == []
