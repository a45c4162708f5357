"""What a file system can do to a run's checkpoints, and what that must not cost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpt.checkpoint import BrokenCheckpoint, Checkpoints, read, read_header


def store_of(folder, *steps, **settings):
    store = Checkpoints(folder, **settings)
    for step in steps:
        store.save(step, {"at": step})
    return store


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("size", [2**34, 2**40])
def test_a_file_that_claims_to_be_huge_is_refused_without_being_read(tmp_path, size):
    store = store_of(tmp_path, 10, 20, keep=2)
    os.truncate(store.steps()[20], size)
    start = time.monotonic()
    found = store.newest()
    assert found.step == 10
    assert "changed" in found.broken[0][1]
    assert time.monotonic() - start < 1


def test_a_huge_file_of_anything_is_refused_without_being_read(tmp_path):
    file = tmp_path / "step-00000010.ckpt"
    file.touch()
    os.truncate(file, 2**40)
    for reading in (read, read_header):
        with pytest.raises(BrokenCheckpoint, match="no checkpoint"):
            reading(file)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full", "/proc/self/mem", "itself"])
def test_a_link_to_what_has_no_end(tmp_path, target):
    store = store_of(tmp_path, 10, 20, keep=2)
    path = store.steps()[20]
    path.unlink()
    path.symlink_to(path.name if target == "itself" else target)
    assert store.newest().step == 10


def test_one_that_may_not_be_read(tmp_path, monkeypatch):
    store = store_of(tmp_path, 10, 20, keep=2)
    refused = str(store.steps()[20])
    opening = open

    def refuse(path, *args, **kwargs):  # not chmod: root may read every file
        if str(path) == refused:
            raise PermissionError(13, "Permission denied", refused)
        return opening(path, *args, **kwargs)

    monkeypatch.setattr("mpt.report.regular_file.open", refuse, raising=False)
    found = store.newest()
    assert (found.step, found.broken[0][1]) == (10, "Permission denied")


class TestTheFolder:
    def test_one_that_cannot_be_listed_is_not_an_empty_one(self, tmp_path, monkeypatch):
        store = store_of(tmp_path, 10)

        def refuse(self):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(BrokenCheckpoint, match="checkpoints: Permission denied"):
            store.newest()
        assert (store.last(), store.best(), store.steps()) == (None, None, {})  # for the report

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "checkpoints").write_text("mine")
        store = Checkpoints(tmp_path)
        with pytest.raises(BrokenCheckpoint, match="Not a directory"):
            store.newest()
        with pytest.raises(OSError, match="File exists"):
            store.save(1, {})
        assert (tmp_path / "checkpoints").read_text() == "mine"

    def test_one_that_is_removed_is_made_again(self, tmp_path):
        store = store_of(tmp_path, 10)
        for path in store.folder.iterdir():
            path.unlink()
        store.folder.rmdir()
        store.save(20, {"at": 20})
        assert store.newest().state == {"at": 20}


class TestNames:
    def test_one_under_the_name_of_another_step(self, tmp_path):
        store = store_of(tmp_path, 10, 20, keep=2)
        store.steps()[10].rename(store.folder / "step-99999999.ckpt")
        found = store.newest()
        assert found.step == 20
        assert found.broken[0][1] == "it is that of step 10, by what it says"

    def test_what_is_broken_is_set_aside_beside_what_was(self, tmp_path):
        store = store_of(tmp_path, 10, 20, keep=2)
        store.steps()[20].write_bytes(b"third")
        (store.folder / "step-00000020.ckpt.broken").mkdir()
        (store.folder / "step-00000020.ckpt.broken-2").write_bytes(b"second")
        store.go_on_from(store.newest())
        assert (store.folder / "step-00000020.ckpt.broken-2").read_bytes() == b"second"
        assert (store.folder / "step-00000020.ckpt.broken-3").read_bytes() == b"third"
        assert list(store.steps()) == [10]

    def test_a_folder_under_the_name_of_an_old_one_does_not_make_the_new_one_fail(self, tmp_path):
        store = Checkpoints(tmp_path, keep=1)
        (tmp_path / "checkpoints" / "step-00000005.ckpt").mkdir(parents=True)
        assert store.save(10, {"at": 10}) == store.steps()[10]
        assert store.newest().step == 10


class TestGoingBack:
    def test_a_header_that_cannot_be_read_is_told_of(self, tmp_path):
        store = store_of(tmp_path, 10, 20, keep=2)
        store.steps()[20].write_bytes(b"")
        found = store.newest(healthy=True)
        assert found.step == 10
        assert [path.name for path, _ in found.broken] == ["step-00000020.ckpt"]

    def test_all_broken_is_not_none_at_all(self, tmp_path):
        store = store_of(tmp_path, 10)
        store.steps()[10].write_bytes(b"")
        with pytest.raises(BrokenCheckpoint):
            store.newest(healthy=True)

    def test_none_that_is_fit_is_not_none_at_all(self, tmp_path):
        store = Checkpoints(tmp_path)
        store.save(10, {}, healthy=False)
        with pytest.raises(BrokenCheckpoint, match=r"step-00000010\.ckpt: .*not fit"):
            store.newest(healthy=True)


FILLING = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from mpt.checkpoint import Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Checkpoints(Path(sys.argv[1]))
store.save(10, {"a": np.arange(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store.save(20, {"a": np.arange(100_000)})
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("room", [1, 100, 4096, 500_000])
def test_a_write_that_the_system_cuts_short_leaves_the_last_one(tmp_path, room):
    done = subprocess.run(
        [sys.executable, "-c", FILLING, tmp_path, str(room)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    store = Checkpoints(tmp_path)
    assert os.listdir(store.folder) == ["step-00000010.ckpt"]
    assert store.newest().state["a"].tolist() == list(range(10))


def test_reading_and_listing_change_nothing(tmp_path):
    store = store_of(tmp_path, 10, 20, 30, keep=3)
    store.steps()[30].write_bytes(store.steps()[30].read_bytes()[:-5])
    before = content_of(store.folder)
    store.newest(), store.newest(healthy=True), store.last(), store.best()
    assert content_of(store.folder) == before
