"""Any configuration and any command line: a run that begins, or one error of the user's."""

import copy
import os
import shutil

import pytest
from configurations import GROUPS, choices, closed, open_keys, settings_of, written
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import examples, mutilated

from mpt import composition
from mpt.cli import main
from mpt.commands import Options
from mpt.commands.jobs import checked
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.schema import TrainConfig

every_key = {**closed, **open_keys}


@pytest.fixture(scope="module")
def composed():
    """Configurations as Hydra composes them, as plain values."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from mpt.config import configs_dir

    composition.register()
    found = []
    with initialize_config_dir(version_base="1.3", config_dir=str(configs_dir())):
        for model, dataset in (("mlp", "digits"), ("cnn", "synthetic"), ("resnet", "cifar10")):
            words = [f"model={model}", f"dataset={dataset}", "run_dir=run", "optimizer=sgd"]
            node = compose("train", words)
            found.append(OmegaConf.to_container(node, resolve=True))
    return found


def checked_or_refused(values):
    """What `mpt train` does with a composed configuration; None where it refuses it."""
    try:
        typed = to_config(values)
    except ConfigurationError as error:
        assert_readable(error)
        return None
    except Exception as error:  # OmegaConf's, which has to be worded
        assert_readable(composition.explain(error, [], []))
        return None
    try:
        return checked(typed, Options())
    except ConfigurationError as error:
        assert_readable(error)
        return None


def assert_readable(error):
    assert isinstance(error, ConfigurationError)
    assert error.message
    assert error.exit_code == 2


@examples(150)
@given(st.data())
def test_any_values_of_a_configuration(composed, data):
    values = copy.deepcopy(data.draw(st.sampled_from(composed)))
    for key, value in data.draw(settings_of(every_key, 6)).items():
        node = values
        *outer, last = key.split(".")
        for name in outer:
            node = node[name] if isinstance(node.get(name), dict) else node
        node[last] = value
    found = checked_or_refused(values)
    assert found is None or isinstance(found, TrainConfig)


@examples(100)
@given(st.data())
def test_any_shape_of_a_configuration(composed, data):
    found = checked_or_refused(data.draw(mutilated(data.draw(st.sampled_from(composed)))))
    assert found is None or isinstance(found, TrainConfig)


@pytest.fixture
def answered(runs, capfd, tmp_path, monkeypatch):
    """Runs `mpt train` with a stand-in for the runner; what must hold of any answer."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        del runs[:]
        capfd.readouterr()
        code = main(["train", *words])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        if code == 2:
            assert err.startswith("error: "), err
            assert err.count("error: ") == 1
            assert not runs
            assert os.listdir(tmp_path) == []
        else:
            assert code == 0, err
            assert err == ""
            assert runs or any(word.startswith("-") for word in words), out
        for path in tmp_path.iterdir():
            shutil.rmtree(path)
        return code

    return call


@examples(12)
@given(choices, settings_of(every_key, 4), st.booleans())
def test_any_groups_and_values(answered, groups, values, added):
    words = [f"{group}={choice}" for group, choice in groups.items()]
    plus = "+" if added else ""
    try:
        words += [f"{plus}{key}={written(value)}" for key, value in values.items()]
        "\0".join(words).encode()
    except UnicodeEncodeError:  # no command line has such a character
        return
    if groups.get("recipe", "null") != "null":
        words.append("hydra.mode=RUN")  # a recipe may be a sweep, whose jobs are processes
    answered(*words)


grammar = st.text(
    st.sampled_from("abcx=+~.,:[]{}()'\"\\$@/*?!# \t\n-_0123456789eE%&;|<>\N{SNOWMAN}é\x00\x1b"),
    max_size=25,
)
names = st.sampled_from([*GROUPS, *every_key, "hydra.run.dir", "hydra", "nothing", "seed"])
overrides = st.builds(lambda name, text: f"{name}={text}", names, grammar) | grammar
flags = st.sampled_from(
    ("--cfg", "--info", "-q", "-v", "--config-name", "--config-dir", "-c", "job", "-x")
)


@examples(15)
@given(st.lists(overrides | flags, max_size=3))
@example(["--info", "seed=1"])
@example(["", "--info"])
@example(["--config-name", "--cfg"])
@example(["run_dir=a\0b"])
@example(["seed=\udcff"])
@example(["name='"])
@example(["+=1"])
@example(["=", "=="])
@example(["${oc.env:HOME}=1"])
@example(["seed=${oc.env:HOME}"])
@example(["model=../model/cnn"])
@example(["run_dir="])
@example(["run_dir=/"])
@example(["hydra.run.dir=null"])
def test_any_words(answered, words):
    answered(*words)
