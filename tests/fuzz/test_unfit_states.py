"""A checkpoint whose checksum is right, and whose content is not: refused, and nothing is changed.

Each part of a run is given states that it never had. What it takes, it must be able to give again.
"""

import copy
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st
from mutations import examples, mutilated, odd, plain

from mpt import checkpointing
from mpt.checkpoint import Checkpoints, read, read_header, write
from mpt.checkpointing import DoesNotFit
from mpt.cli import main

PARTS = (
    *("variables", "callbacks", "random", "rules", "best", "loss_scale", "throughput"),
    *("steps_per_execution", "training", "watch", "run", "recorder", "folder"),
)
ARRAYS = (
    *(np.zeros(2, "float32"), np.zeros((), "int64"), np.zeros((2, 3), "float16")),
    *(np.full(7, np.nan), np.zeros(0, "uint8"), np.zeros(625, "uint64"), np.zeros(1, "bool")),
)
values = odd | plain | st.sampled_from(ARRAYS)


class Captured(Exception):
    pass


@pytest.fixture(scope="module")
def interrupted(trained, tmp_path_factory):
    """A run that was ended after its one checkpoint, of step 6."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    shutil.copytree(trained, run)
    (run / "report.json").unlink()
    (run / "model.keras").unlink()
    (run / "checkpoints" / "step-00000010.ckpt").unlink()
    return run


@pytest.fixture(scope="module")
def captured(interrupted, tmp_path_factory):
    """The folder and the parts of a run that is about to go on, and the state that it was given."""
    run = tmp_path_factory.mktemp("captured") / "run"
    shutil.copytree(interrupted, run)
    held = []

    def capture(parts, state):
        held.append((run, dict(parts), copy.deepcopy(dict(state))))
        raise Captured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpointing, "restore", capture)
        assert main(["train", f"resume={run}", "-q"]) == 1
    yield held[0]
    held[0][1]["recorder"]._board.close()


def content(folder):
    """Every file and folder, but for the lock, and what it holds."""
    return {
        path.relative_to(folder).as_posix(): path.is_file()
        and hashlib.sha256(path.read_bytes()).digest()
        for path in Path(folder).rglob("*")
    }


def put_back(run, interrupted):
    """Make `run` as it was; it stays the same folder, as a run wants its own to be."""
    for path in run.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(interrupted, run, dirs_exist_ok=True)


def test_these_are_the_parts_of_a_run(captured):
    _, parts, state = captured
    assert set(parts) == set(state) == set(PARTS)


@pytest.mark.parametrize("name", PARTS)
@examples(15)
@given(st.data())
def test_a_part_refuses_a_state_or_can_give_it_again(captured, interrupted, tmp_path, name, data):
    run, parts, whole = captured
    state = {**whole, name: data.draw(mutilated(whole[name], values))}
    take(run, interrupted, tmp_path, parts, state, name)


def take(run, interrupted, tmp_path, parts, state, name):
    """Give the parts `state`, of which that of `name` may be anything."""
    put_back(run, interrupted)
    before = content(run)
    own = copy.copy(parts["folder"])  # once it has gone on it does so no more
    own._begun = lambda: None
    parts = {**parts, "folder": own}
    try:
        checkpointing.restore(parts, state)
    except DoesNotFit as error:
        said = str(error)
        assert content(run) == before
        assert name in said or "no " in said
        assert len(said.splitlines()) == 3
        return
    again = parts[name].state()
    write(tmp_path / "again", {"state": again}, {})
    parts[name].restore(read(tmp_path / "again")["state"])


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("state", [None, [], {}, "x", 3, {"$set": [[]]}], ids=repr)
def test_a_part_without_a_state(captured, interrupted, tmp_path, name, state):
    run, parts, whole = captured
    take(run, interrupted, tmp_path, parts, {**whole, name: state}, name)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing(captured, interrupted, name):
    run, parts, whole = captured
    put_back(run, interrupted)
    before = content(run)
    with pytest.raises(DoesNotFit, match=f"no {name}"):
        checkpointing.restore(parts, {key: whole[key] for key in whole if key != name})
    assert content(run) == before


@pytest.fixture
def resumed(interrupted, tmp_path, capfd):
    """`mpt train resume=RUN` of a checkpoint with another state: what must hold of its end."""

    def call(change):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(interrupted, run)
        (path,) = Checkpoints(run).steps().values()
        state = change(read(path))
        try:
            write(path, state, read_header(path))
        except TypeError:  # a mapping that would be taken for an array
            reject()
        before = content(run)
        capfd.readouterr()
        code = main(["train", f"resume={run}"])
        _, said = capfd.readouterr()
        assert "Traceback" not in said
        assert code in (0, 2), said
        if code == 2:
            assert said.count("error: ") == 1
            assert content(run) == before
        else:
            assert (run / "model.keras").is_file()
            assert (run / "report.json").is_file()
        return code, said

    return call


def without(path):
    def change(state):
        node = state
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]
        return state

    return change


def having(path, value):
    def change(state):
        node = state
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        return state

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without(("run",)), "does not say what the run is"),
        (having(("run", "policy"), "float8"), "names no policy"),
        (having(("run", "batch_size"), "max"), "batch_size should be a whole number"),
        (having(("training", "step"), 8), "its state is that of another step"),
        (having(("run", "fingerprint"), "0" * 64), "its fingerprint differs"),
        (having(("variables", "values", 0), np.zeros((3, 3), "float32")), "(variables: "),
        (having(("recorder", "metrics"), -1), "(recorder: metrics should be a whole number"),
        (without(("folder",)), "(no folder)"),
        (lambda state: {}, "does not say what the run is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_one_message(resumed, change, says):
    code, said = resumed(change)
    assert code == 2
    assert says in said


@pytest.mark.slow
@examples(60)
@given(st.data())
@example(None)
def test_whatever_a_checkpoint_says_a_run_goes_on_or_is_refused(resumed, data):
    def change(state):
        if data is None:
            return state
        name = data.draw(st.sampled_from(PARTS))
        state[name] = data.draw(mutilated(state[name], values))
        return state

    code, said = resumed(change)
    assert code == 0 or data is not None, said
