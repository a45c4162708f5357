"""What may stand at the cursor, by the line before it."""

import errno
import os
import re
from pathlib import Path

import pytest

from mpt.cli import COMMANDS, main
from mpt.completion import SHELLS, answer, candidates
from mpt.config import default_choices

BOOLEANS = ("true", "false")


def texts(line):
    return [candidate.text for candidate in candidates(line, COMMANDS)]


def test_subcommands_with_what_they_do():
    assert texts("mpt ") == list(COMMANDS)
    assert texts("mpt tr") == ["train"]
    assert candidates("mpt tr", COMMANDS)[0].help == COMMANDS["train"]
    assert texts("mpt tran ") == []


def test_groups_and_top_level_keys_come_first():
    found = texts("mpt train ")
    assert found[: len(default_choices())] == [f"{name}=" for name in default_choices()]
    assert {"recipe=", "seed=", "batch_size=", "resume="} <= set(found)
    assert not any("." in text for text in found)
    assert texts("mpt train prec")[0] == "precision="


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mpt train precision=mixed_", ["precision=mixed_bfloat16", "precision=mixed_float16"]),
        ("mpt train -m precision=mixed_float16,mixed", ["precision=mixed_float16,mixed_bfloat16"]),
        ("mpt probe --batches 2 precision=mixed_b", ["precision=mixed_bfloat16"]),
        ("mpt inspect --allow my.py model=ap", ["model=application"]),
        ("mpt train recipe=needs", ["recipe=needs_scaling"]),
        ("mpt train trainer.early_stopping.p", ["trainer.early_stopping.patience="]),
        ("mpt train loss_scale.mode=d", ["loss_scale.mode=dynamic"]),
        ("mpt train device.deterministic=", [f"device.deterministic={x}" for x in BOOLEANS]),
        ("mpt train precision.tf32=n", ["precision.tf32=null"]),
        ("mpt train optimizer.schedule.name=w", ["optimizer.schedule.name=warmup_cosine"]),
        ("mpt train model=resnet model.d", ["model.depth="]),
        ("mpt train model=nothing model.d", []),
        ("mpt train nothing.d", []),
        ("mpt train seed=", []),
        ("mpt train trainer.steps.more=", []),
        ("mpt train +precision=float6", ["+precision=float64"]),
        ("mpt train --mul", ["--multirun"]),
        ("mpt probe --bat", ["--batches"]),
        ("mpt compare --mar", ["--margin", "--markdown"]),
        ("mpt train --cfg ", ["job", "hydra", "all"]),
        ("mpt export RUN --format t", ["tflite"]),
        ("mpt doctor ", ["data"]),
        ("mpt doctor data dataset=fash", ["dataset=fashion_mnist"]),
        ("mpt completion ", list(SHELLS)),
        ("mpt train 'precision=mixed_b", ["precision=mixed_bfloat16"]),
    ],
)  # fmt: skip
def test_what_follows(line, found):
    if "'" in line:  # a quotation that is open yet: as a plain word
        assert texts(line.replace("'", "")) == found
    else:
        assert texts(line) == found


@pytest.mark.parametrize(
    "command",
    [
        *("train", "inspect", "probe", "bisect", "evaluate", "export", "compare", "show", "board"),
        *("doctor data", "doctor --peaks"),
    ],
)
def test_the_flags_are_those_that_the_command_says_it_takes(command, capsys):
    capsys.readouterr()
    assert main([*command.split(), "--no-such"]) == 2
    (allowed,) = re.findall(r"^  allowed: (.*)$", capsys.readouterr().err, re.MULTILINE)
    of_hydra_s_own = {"--config-name", "--config-path", "--hydra-help", "--package", "--resolve"}
    of_hydra_s_own |= {"--run", "--shell-completion"}  # rarely wanted
    assert set(texts(f"mpt {command} --")) == set(allowed.split(", ")) - of_hydra_s_own


def test_a_run_s_data_are_composed_from_its_own_configuration():
    assert "--config-dir" not in texts("mpt doctor data runs/mine --")
    assert "--seconds" in texts("mpt doctor data runs/mine dataset.size=160 --")


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "2026").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "my.py").touch()
    assert texts("mpt compare ") == ["my.py", "runs/"]
    assert texts("mpt compare .h") == [".hidden/"]
    assert texts("mpt show runs/") == ["runs/2026/"]
    assert texts("mpt train resume=ru") == ["resume=runs/"]
    assert texts("mpt train --allow m") == ["my.py"]
    assert texts(f"mpt evaluate {tmp_path}/ru") == [f"{tmp_path}/runs/"]
    assert texts("mpt compare absent/") == []
    assert "model=cnn" in texts("mpt evaluate runs/2026 model=c")
    assert not any("=" in text for text in texts("mpt board "))


def test_choices_of_one_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/tiny.yaml").write_text("# Very small.\nname: tiny\nunits: 3\n")
    (tmp_path / "mine/model/broken.yaml").write_text("a: [\n")
    (tmp_path / "mine/recipe").mkdir()
    (tmp_path / "mine/recipe/quick.yaml").write_text("# At once.\nseed: 1\n")
    (found,) = candidates("mpt train --config-dir mine model=ti", COMMANDS)
    assert (found.text, found.help) == ("model=tiny", "Very small.")
    assert texts("mpt train --config-dir=mine model=tiny model.") == ["model.units="]
    assert texts("mpt train --config-dir=mine model=broken model.") == []
    assert texts("mpt train -cd mine recipe=q") == ["recipe=quick"]


def test_an_answer_in_each_shell_s_form(tmp_path, monkeypatch):
    found = candidates("mpt train precision=mixed_b", COMMANDS)
    assert answer("bash", found) == "precision=mixed_bfloat16 "
    help = found[0].help
    assert answer("fish", found) == f"precision=mixed_bfloat16\t{help}".rstrip("\t")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs").mkdir()
    assert answer("bash", candidates("mpt board m", COMMANDS)) == r"my\ runs/"


def test_a_pipe_among_the_choices_is_not_waited_for(tmp_path):
    for group in ("recipe", "model"):
        (tmp_path / group).mkdir()
        os.mkfifo(tmp_path / group / "pipe.yaml")
    assert texts(f"mpt train --config-dir {tmp_path} recipe=pi") == ["recipe=pipe"]
    assert texts(f"mpt train --config-dir {tmp_path} model=pipe model.") == []


def test_a_folder_that_cannot_be_read_has_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):  # not chmod: root may read every folder
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "mine")

    monkeypatch.setattr(Path, "glob", refuse)
    assert texts("mpt train --config-dir mine model=") == []
    monkeypatch.setattr(os, "scandir", refuse)
    assert texts("mpt compare ") == []
