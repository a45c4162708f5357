"""YAML of others: what is read, what is not, and texts that only look like interpolations."""

import itertools

import pytest
from omegaconf import OmegaConf

from mpt.errors import ConfigurationError
from mpt.yaml_files import literal, plain, read


def test_every_text_stays_what_it_is():
    texts = ["".join(each) for n in range(7) for each in itertools.product("\\${}a", repeat=n)]
    assert len(texts) > 10_000
    held = OmegaConf.create(literal({"texts": texts, "in": [{"a": ("${x}",)}]}))
    assert OmegaConf.to_container(held, resolve=True) == {"texts": texts, "in": [{"a": ["${x}"]}]}


def test_values_are_those_of_omegaconf(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: &a [1e3, 1_000, .5, yes, null, 2026-01-01, '${x}']\nb: *a\n")
    values = plain(file)
    assert values["a"] == values["b"] == [1000.0, 1000, 0.5, True, None, "2026-01-01", "${x}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "no plain YAML"),
        ("a: b: c", r"no plain YAML: mapping values .*\n.*a\.yaml:1"),
        ("a: 1\na: 2", "duplicate key a"),
        ("a: !!python/object/apply:os.getcwd []", "no plain YAML"),
        ("a: *b", "undefined alias"),
        ("a: \0", "no plain YAML"),
        (b"a: \xff", "no plain YAML"),
        ("a: &a {b: *a}", "stands for itself"),
        ("[" * 51 + "]" * 51, "over 50 levels"),
    ],
)
def test_what_is_no_plain_file(tmp_path, text, words):
    file = tmp_path / "a.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError, match=words) as caught:
        plain(file)
    assert str(file) in str(caught.value.where)


def test_a_large_file_is_not_read(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# " + "x" * 2**20 + "\n")
    with pytest.raises(ConfigurationError, match="Larger than 1 MiB"):
        read(file)
