"""Who comes first: the diagnosis, the probe, the model's own order."""

import json

import pytest

from mpt.bisection.layers import Layers
from mpt.bisection.ranking import rank, read_probe


def row(path, compute="float16"):
    return {
        "path": path,
        "class": "Functional" if path == "net" else "Dense",
        "variable_dtype": "float32",
        "compute_dtype": compute,
    }


LAYERS = Layers([row("net"), row("a"), row("b"), row("b/c"), row("d"), row("head", "float32")])
DIAGNOSIS = [
    {"message": "the loss stayed flat", "step": 9},
    {"message": "d overflowed\n  to do: ...", "path": "d", "direction": "forward"},
]
PROBED = [
    {"path": "head", "score": 9.0, "reason": "computes in float32"},
    {"path": "b/c", "score": 2.0, "reason": "its outputs are not finite"},
    {"path": "d", "score": 1.0, "reason": "gradient"},
]


def test_the_diagnosis_comes_first_then_the_probe_then_the_rest():
    ranked = rank(LAYERS, DIAGNOSIS, PROBED)
    assert [(entry.path, entry.source) for entry in ranked] == [
        ("d", "diagnosis"),
        ("b/c", "probe"),
        ("a", "order"),
        ("b", "order"),
    ]
    assert ranked[0].reason == "d overflowed"
    assert ranked[1].reason == "its outputs are not finite"


def test_without_a_probe_children_come_before_parents():
    assert [entry.path for entry in rank(LAYERS, [], None)] == ["a", "b/c", "b", "d"]


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"ranking": 3}', '{"ranking": [{"score": 1}]}']
)
def test_a_probe_that_cannot_be_read(tmp_path, text):
    if text is not None:
        (tmp_path / "probe.json").write_text(text)
    assert read_probe(tmp_path) is None


def test_a_probe_s_ranking(tmp_path):
    (tmp_path / "probe.json").write_text(json.dumps({"ranking": PROBED}))
    assert read_probe(tmp_path) == PROBED
