"""Groups, choices and what each is, read from the files by name."""

import os

import pytest

from mpt import choices


@pytest.mark.parametrize(
    ("text", "headline"),
    [
        ("# What it is.\n# More.\nname: a\n", "What it is."),
        ("# @package _global_\n# What it is.\n", "What it is."),
        ("# @package _global_\nname: a\n", ""),
        ("name: a # not this\n", ""),
        ("", ""),
    ],
)
def test_what_a_file_is(tmp_path, text, headline):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert choices.headline(file) == headline


def test_a_pipe_is_nothing_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    assert choices.headline(tmp_path / "a.yaml") == ""


def test_choices_of_one_s_own_come_beside_ours(tmp_path):
    """Of one name Hydra takes ours, whatever --config-dir has."""
    (tmp_path / "model").mkdir()
    for name in ("cnn", "tiny"):
        (tmp_path / f"model/{name}.yaml").write_text("# Mine.\n")
    found = choices.choices("model", [tmp_path])
    assert list(found) == sorted(found)
    assert found["tiny"] == tmp_path / "model/tiny.yaml"
    assert found["cnn"] == choices.choices("model")["cnn"]
