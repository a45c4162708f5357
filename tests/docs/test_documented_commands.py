"""Every command of the pages is one that mpt, make and the modules take.

Each `mpt` command goes through the real command line up to where TensorFlow would begin: its
configuration is composed and checked. tests/docs/test_commands_run.py runs them.
"""

import argparse
import importlib.util
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documented
import laid_out
import pages_study
import pytest
from documented import ROOT, Command

from mpt import __version__, isolation
from mpt.cli import COMMANDS, main
from mpt.commands.outcomes import JOBS, PLAN

ALL = documented.commands()
TYPED = {command.text: command for command in ALL if not command.mention}
MPT = [text for text in TYPED if text.startswith("mpt ")]
# What the page says that it ends with, where that is not 0.
STATED = {"mpt train precison=float32": 2}
OTHERS = (
    *(".", "source", "cd", "timeout", "jq", "ssh"),  # the shell's, and a system's
    *("srun", "scontrol", "ray"),  # of clusters, which tests have not
    *("tensorboard", ".ci/run"),  # the first is what mpt board starts, the second runs the tests
)


def of_program(name: str) -> list[Command]:
    return [command for command in TYPED.values() if command.words[0] == name]


def test_there_are_as_many_as_one_sees() -> None:
    assert len(MPT) > 100
    assert {command.page for command in ALL} >= {"README.md", "CONTRIBUTING.md", "docs/ci.md"}
    programs = {command.words[0].removeprefix(".venv/bin/") for command in ALL}
    assert programs - set(OTHERS) <= {"mpt", "make", "python", "pip", "mkdocs", "head", "srun"}


def test_a_mention_names_a_command_and_a_flag_that_it_has(capsys: Any) -> None:
    mentions = {command.words for command in ALL if command.mention and command.words[0] == "mpt"}
    assert len(mentions) > 10
    for _, *rest in mentions:
        if rest:
            assert rest[0] in COMMANDS
            assert main([rest[0], "--help"]) == 0
            text = capsys.readouterr().out
            assert all(word in text for word in rest[1:]), rest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all that the commands name is there; runs and sweeps of a made-up study."""
    folder = tmp_path_factory.mktemp("documented")
    laid_out.data(folder)
    (folder / "imagenet").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["init", laid_out.PROJECT]) == 0
    for name in laid_out.RUNS:
        report = pages_study.report("float32", 0, folder / name)
        pages_study.write(folder / name, report, pages_study.metrics(report))
        (folder / name / ".hydra").mkdir()
        configuration = _configuration(laid_out.CHOICES.get(name, ()))
        (folder / name / ".hydra/config.yaml").write_text(configuration)
        (folder / name / ".hydra/overrides.yaml").write_text("[]\n")
        (folder / name / "model.keras").write_bytes(b"")
    for name in laid_out.SWEEPS:
        laid_out.study(folder / name)
        (folder / name / JOBS).mkdir()
        plan = {"command": [], "started_at": "2026-11-25T10:12:59Z", "jobs": []}
        (folder / name / JOBS / PLAN).write_text(json.dumps(plan))
    return folder


def _configuration(overrides: tuple[str, ...]) -> str:
    """The configuration of a run, as its folder has it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from mpt.composition import register
    from mpt.config import configs_dir

    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(configs_dir())):
        return OmegaConf.to_yaml(compose("train", ["run_dir=RUN", *overrides]), resolve=True)


@pytest.fixture
def stopped_short(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for all that would import TensorFlow, start a process or open a port."""
    begun: list[Any] = []

    def run(*arguments: Any, **options: Any) -> int:
        begun.append(arguments)
        return 0

    def spawn(job: Any, **_: Any) -> int:
        begun.append(job)
        return 0

    for module in isolation.TASKS.values():
        stand_in = types.ModuleType(module)
        stand_in.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.setattr("mpt.isolation.import_tensorflow", lambda verbosity: None)
    monkeypatch.setattr("mpt.bisection.run", run)
    monkeypatch.setattr("mpt.doctor.examination.run", run)
    monkeypatch.setattr("mpt.commands.board.serve", run)
    monkeypatch.setattr("mpt.commands.train.spawn", spawn)
    monkeypatch.setattr("mpt.commands.train.settle", lambda job, **_: job)
    monkeypatch.setattr("mpt.commands.sweep_task.spawn", spawn)
    monkeypatch.setattr("mpt.commands.sweep_task.settle", lambda job, **_: job)
    monkeypatch.setattr("mpt.postmortem.write", lambda *_, **__: None)
    _launch_here(monkeypatch)
    monkeypatch.delenv("MPT_ALLOW", raising=False)
    return begun


def _launch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the launchers of clusters run their jobs as Hydra's basic one does."""
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
    from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    for kind in (JoblibLauncher, RayLauncher, BaseSubmititLauncher):
        monkeypatch.setattr(kind, "launch", BasicLauncher.launch)


def sooner(words: list[str]) -> list[str]:
    """The same with fewer seeds to compose, and in no folder that has a sweep for other commands.

    tests/integration/test_recipes.py composes every job of the recipes.
    """
    fewer = [
        re.sub(r"^seed=0,1,[\d,]+$", "seed=0,1", word)
        for word in words
        if not word.startswith("hydra.sweep.dir=")
    ]
    once = ["hydra.mode=RUN"] if {"recipe=needs_scaling", "recipe=fp32_vs_bf16"} & {*words} else []
    return [*fewer, *(once if words[0] == "train" else [])]


@pytest.mark.parametrize(
    "text",
    [
        text if TYPED[text].page == "README.md" else pytest.param(text, marks=pytest.mark.slow)
        for text in MPT
    ],
)
def test_mpt_takes_it(
    text: str,
    folder: Path,
    stopped_short: list[Any],
    tmp_path: Path,
    monkeypatch: Any,
    capfd: Any,
) -> None:
    here = folder / laid_out.PLACES.get(text, "")
    monkeypatch.chdir(tmp_path if text.startswith("mpt init") else here)
    words = sooner(laid_out.words(text))
    code = main(words)
    said = capfd.readouterr()
    assert code == STATED.get(text, 0), f"{TYPED[text].place}: {said.err}"
    answers = {"--help", "--cfg", "compare", "completion", "show", "init"} & set(
        words
    ) or text in STATED
    if not answers and "resume=" not in text:
        assert stopped_short, "it was to begin something"


def test_an_error_is_what_the_quickstart_shows(mpt: Callable[..., Any]) -> None:
    page = (ROOT / "docs/quickstart.md").read_text()
    ((command, shown),) = re.findall(r"^    \$ mpt (.*)\n((?:    .*\n)+)", page, re.MULTILINE)
    expected = re.escape(re.sub("^    ", "", shown, flags=re.MULTILINE))
    assert re.search(expected.replace(r"\.\.\.", ".*"), mpt(*shlex.split(command)).err)


def test_makes_targets_are_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = {command.words[1] for command in of_program("make")}
    assert len(used) > 5
    assert used <= set(targets)


def test_what_make_bench_hands_on_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.__main__ import arguments

    given = [w for command in of_program("make") for w in command.words if w.startswith("ARGS=--")]
    assert len(given) > 3
    for word in given:
        monkeypatch.setattr(sys, "argv", ["bench", *shlex.split(word.removeprefix("ARGS="))])
        assert arguments()


def test_pythons_modules_and_files_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules take the arguments that a page gives them; WORK and POLICY stand for some."""
    called = [*of_program("python"), *of_program(".venv/bin/python")]
    assert len(called) > 3
    stand_for = {"WORK": "cnn", "POLICY": "float32"}
    for command in called:
        words = [stand_for.get(word, word) for word in command.words[1:]]
        if words[0] != "-m":
            assert (ROOT / words[0]).is_file(), command.place
            continue
        assert importlib.util.find_spec(words[1]), command.place
        if words[1].startswith("bench") and words[2:]:
            _parses(words[1], words[2:], monkeypatch)


class Parsed(Exception):
    """A parser has taken its arguments."""


def _parses(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: Any, *arguments: Any) -> None:
        parse(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed):
        importlib.import_module(module).main()
    monkeypatch.undo()


def test_pips_packages_and_extras_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [*of_program("pip"), *of_program(".venv/bin/python")]
    assert len(installs) > 3
    for command in installs:
        for name, extra in re.findall(
            r"(mpt-keras|\.)(?:\[(\w+)\])?(?= |$)", " ".join(command.words)
        ):
            assert name in (project["name"], ".")
            assert not extra or extra in project["optional-dependencies"], command.place
        for version in re.findall(r"mpt_keras-([\d.]+)-py3", " ".join(command.words)):
            assert version == __version__, command.place


def test_srun_is_given_options_of_its_own() -> None:
    known = {"--nodes", "--ntasks-per-node", "--gpus-per-task", "--ntasks"}
    given = {word.partition("=")[0] for c in of_program("srun") for word in c.words[1:]}
    assert given <= known


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("A=b mpt train x=1 | head", [("mpt", "train", "x=1"), ("head",)]),
        ("srun -n 2 mpt train # two", [("srun", "-n", "2"), ("mpt", "train")]),
        ('mpt compare s >> "$OUT"', [("mpt", "compare", "s")]),
        ("mpt train 'a=[1, 2]' && make x", [("mpt", "train", "a=[1, 2]"), ("make", "x")]),
    ],
)
def test_a_line_of_shell_is_taken_apart(script: str, found: list[tuple[str, ...]]) -> None:
    assert list(documented.simple_commands(script)) == found


def test_a_line_that_is_no_command_is_not_passed_over() -> None:
    ((_, language, lines),) = documented.blocks("```bash\nmtp train\n```\n")
    with pytest.raises(AssertionError, match="no command that is known"):
        list(documented.scripts(language, lines))
