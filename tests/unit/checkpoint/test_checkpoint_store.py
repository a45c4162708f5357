"""A run's checkpoints: which are kept, which is gone on from, and what a broken one changes."""

import numpy as np
import pytest

from mpt.checkpoint import BrokenCheckpoint, Checkpoints, read, read_header, write


def store_of(folder, *steps, **settings):
    store = Checkpoints(folder, **settings)
    for step in steps:
        store.save(step, {"at": step})
    return store


def kept(store):
    return list(store.steps())


def break_file(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class TestSaving:
    def test_the_file_is_named_by_its_step_and_says_what_it_is(self, tmp_path):
        store = Checkpoints(tmp_path)
        path = store.save(500, {"a": np.float32([1])}, healthy=False, best=True)
        assert path == tmp_path / "checkpoints" / "step-00000500.ckpt"
        assert read_header(path) == {"step": 500, "healthy": False, "best": True}
        assert read(path)["a"].tolist() == [1]

    def test_no_folder_before_the_first(self, tmp_path):
        store = Checkpoints(tmp_path)
        assert (store.newest(), store.best(), store.last(), kept(store)) == (None, None, None, [])
        assert list(tmp_path.iterdir()) == []

    def test_steps_beyond_eight_digits_are_in_their_order(self, tmp_path):
        store = store_of(tmp_path, 99_999_999, 100_000_000, keep=2)
        assert kept(store) == [99_999_999, 100_000_000]
        assert store.newest().step == 100_000_000

    def test_other_files_in_the_folder_are_none_of_them(self, tmp_path):
        store = store_of(tmp_path, 5)
        for name in ("step-6.ckpt", "step-00000006.ckpt.broken", ".partial-step-00000006.ckpt"):
            (store.folder / name).write_text("x")
        assert kept(store) == [5]


class TestRetention:
    @pytest.mark.parametrize("keep", [1, 2, 3])
    def test_the_newest(self, tmp_path, keep):
        store = store_of(tmp_path, *range(10, 70, 10), keep=keep)
        assert kept(store) == list(range(10, 70, 10))[-keep:]

    def test_the_best_one_beside_them(self, tmp_path):
        store = Checkpoints(tmp_path, keep=2, keep_best=True)
        for step in range(10, 70, 10):
            store.save(step, {}, best=step in (20, 30))
        assert kept(store) == [30, 50, 60]
        assert store.best().name == "step-00000030.ckpt"

    def test_the_best_one_of_those_to_go_back_to(self, tmp_path):
        store = Checkpoints(tmp_path, keep=1, keep_best=True)
        store.save(10, {}, best=True)
        store.save(20, {})
        store.save(30, {}, best=True, healthy=False)
        assert kept(store) == [10, 20, 30]
        store.forget_after(20)
        assert store.best().name == "step-00000010.ckpt"

    def test_no_best_one_where_none_is_asked_for(self, tmp_path):
        store = Checkpoints(tmp_path, keep=1)
        for step in (10, 20):
            store.save(step, {}, best=step == 10)
        assert (kept(store), store.best()) == ([20], None)

    def test_the_newest_that_is_fit_to_go_back_to(self, tmp_path):
        store = Checkpoints(tmp_path, keep=1)
        for step in range(10, 70, 10):
            store.save(step, {}, healthy=step <= 30)
        assert kept(store) == [30, 60]
        assert store.newest().step == 60
        assert store.newest(healthy=True).step == 30
        assert store.last().name == "step-00000060.ckpt"
        assert store.last(healthy=True).name == "step-00000030.ckpt"

    def test_one_that_is_written_again_is_what_it_is_now(self, tmp_path):
        """A run that went back may come to the same step on another path."""
        store = Checkpoints(tmp_path, keep_best=True)
        store.save(10, {"written": 1}, best=True)
        store.save(10, {"written": 2}, healthy=False)
        assert read_header(store.steps()[10]) == {"step": 10, "healthy": False, "best": False}
        assert store.newest().state == {"written": 2}

    def test_one_that_cannot_be_written_costs_no_other(self, tmp_path, monkeypatch):
        store = store_of(tmp_path, 10, 20, keep=1)

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mpt.checkpoint.store.write", fail)
        with pytest.raises(OSError, match="No space"):
            store.save(30, {})
        assert kept(store) == [20]
        assert store.newest().state == {"at": 20}


class TestBrokenOnes:
    def test_a_broken_one_is_passed_over_and_told_of(self, tmp_path):
        store = store_of(tmp_path, 10, 20, 30, keep=3)
        break_file(store.steps()[30])
        break_file(store.steps()[20])
        found = store.newest()
        assert (found.step, found.state) == (10, {"at": 10})
        assert [path.name for path, _ in found.broken] == [
            "step-00000030.ckpt",
            "step-00000020.ckpt",
        ]
        assert all("checksum" in what for _, what in found.broken)

    def test_all_broken(self, tmp_path):
        store = store_of(tmp_path, 10, 20, keep=2)
        for path in store.steps().values():
            break_file(path)
        with pytest.raises(BrokenCheckpoint, match=r"step-00000020\.ckpt: .*; step-00000010\.ckpt"):
            store.newest()

    def test_going_on_renames_them_and_clears_what_is_later(self, tmp_path):
        store = store_of(tmp_path, 10, 20, 30, keep=3)
        break_file(store.steps()[20])
        break_file(store.steps()[30])
        content = store.steps()[30].read_bytes()
        (store.folder / ".partial-step-00000040.ckpt").write_bytes(content[:100])
        store.go_on_from(store.newest())
        assert sorted(path.name for path in store.folder.iterdir()) == [
            "step-00000010.ckpt",
            "step-00000020.ckpt.broken",
            "step-00000030.ckpt.broken",
        ]

    def test_one_whose_header_alone_is_whole_is_no_best_one_to_rely_on(self, tmp_path):
        store = Checkpoints(tmp_path, keep=1, keep_best=True)
        store.save(10, {}, best=True)
        store.steps()[10].write_bytes(b"nothing")
        store.save(20, {})
        assert (store.best(), kept(store)) == (None, [20])


def test_a_run_that_goes_back_forgets_what_came_later(tmp_path):
    store = store_of(tmp_path, 10, 20, 30, keep=3)
    store.forget_after(20)
    assert kept(store) == [10, 20]


def test_a_checkpoint_from_elsewhere_has_no_say(tmp_path):
    store = store_of(tmp_path, 10)
    write(store.folder / "step-00000020.ckpt", {"at": 20})  # without `about`
    assert store.newest().step == 20
    assert store.newest(healthy=True).step == 10
