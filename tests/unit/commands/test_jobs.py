"""One job from a command line that is not for training."""

import re
from pathlib import Path

import pytest

from mpt.commands import Options, jobs
from mpt.commands.jobs import compose
from mpt.errors import ConfigurationError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_is_what_mpt_train_would_run_in_a_folder_of_its_own(tmp_path):
    job, code = compose(
        "probe",
        ["precision=mixed_float16", "seed=3"],
        Options(allow=("mine",)),
        own={"batches": 2},
        folder="probes",
    )
    assert code == 0
    assert job.task == "probe"
    assert job.options == {"batches": 2}
    assert job.allow == ("mine",)
    assert (job.config["seed"], job.config["precision"]["policy"]) == (3, "mixed_float16")
    assert job.run_dir.startswith(f"{tmp_path}/probes/")
    assert re.fullmatch(
        r"[\d-]+/[\d-]+_cnn_mixed_float16_\w{4}", job.run_dir.removeprefix(f"{tmp_path}/probes/")
    )
    assert Path(job.config["run_dir"]).resolve() == Path(job.run_dir)
    assert not list(tmp_path.iterdir())


def test_the_users_folder_wins(tmp_path):
    job, _ = compose("probe", ["run_dir=here"], Options(), folder="probes")
    assert job.run_dir == f"{tmp_path}/here"


def test_a_recipe_that_sweeps_gives_its_base():
    job, _ = compose("probe", ["recipe=fp32_vs_bf16", "precision=mixed_float16"], Options())
    assert job.config["recipe"] == "fp32_vs_bf16"
    assert job.config["precision"]["policy"] == "mixed_float16"


def test_hydras_own_answers_leave_no_job(capfd):
    job, code = compose("inspect", ["--cfg", "job"], Options())
    assert (job, code) == (None, 0)
    assert "batch_size: 128" in capfd.readouterr().out


def test_a_sweep_is_refused():
    with pytest.raises(ConfigurationError, match="takes one configuration"):
        compose("inspect", ["-m", "seed=1,2"], Options())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", "out of range"),
        ("precision=mixed_float61", "mixed_float16"),
        ("seed=1,2", "seed"),
        ("model._target_=os.system", "os.system"),
    ],
)
def test_a_wrong_configuration_is_explained(tmp_path, override, words, monkeypatch):
    monkeypatch.setattr(jobs, "execute", lambda job: pytest.fail("it ran"))
    with pytest.raises(ConfigurationError) as caught:
        jobs.single("inspect", [override], Options())
    assert words in str(caught.value)
    assert not list(tmp_path.iterdir())
