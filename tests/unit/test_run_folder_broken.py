"""A run's folder that is full, taken away, locked, or was left broken."""

import errno
import os
import subprocess
import sys
import tempfile

import pytest

from mpt.errors import ConfigurationError
from mpt.run_folder import FolderGone, RunFolder, read_metrics


@pytest.fixture
def told():
    return []


@pytest.fixture
def folder(tmp_path, told):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.tell = told.append
        yield folder


def row(step):
    return {"step": step, "train/loss": 1 / step}


class TestTakenAway:
    @pytest.fixture(params=["removed", "moved", "replaced"])
    def taken(self, request, folder, tmp_path):
        """The folder, with a row in it, after somebody took it away."""
        folder.append_metrics(row(1))
        folder.log("one")
        folder.path.rename(tmp_path / "moved")
        if request.param == "removed":
            for path in (tmp_path / "moved").iterdir():
                path.unlink()
            (tmp_path / "moved").rmdir()
        elif request.param == "replaced":
            folder.path.mkdir()
            (folder.path / "report.json").write_text("another run's")
            (folder.path / ".lock").write_text("another run's")
        return request.param

    def test_it_is_noticed(self, folder, taken):
        assert not folder.is_there()
        for act in (
            folder.check,
            lambda: folder.append_metrics(row(2)),
            lambda: folder.write_json("report.json", {}),
        ):
            with pytest.raises(FolderGone, match="no longer there"):
                act()

    def test_nothing_is_written_where_it_was(self, folder, taken, told, tmp_path):
        folder.log("two")
        board = folder.growing(folder.tensorboard / "events")
        board.append(b"event")
        for act in (lambda: folder.append_metrics(row(2)), lambda: folder.write_text("a", "b")):
            with pytest.raises(FolderGone):
                act()
        folder.close()
        if taken == "replaced":
            found = {path.name: path.read_text() for path in folder.path.iterdir()}
            assert found == dict.fromkeys(("report.json", ".lock"), "another run's")
        else:
            assert not folder.path.exists()
        if taken == "moved":
            assert read_metrics(tmp_path / "moved") == [row(1)]
        assert told == []

    def test_one_that_was_not_taken_away_is_there(self, folder):
        folder.append_metrics(row(1))
        assert folder.is_there()
        folder.check()


class TestFilesTakenAway:
    @pytest.mark.parametrize("name", ["metrics.jsonl", "train.log"])
    def test_a_file_is_begun_anew_and_that_is_told(self, folder, told, name):
        folder.append_metrics(row(1))
        folder.log("one")
        (folder.path / name).unlink()
        for step in (2, 3):
            folder.append_metrics(row(step))
            folder.log(f"{step}")
        lines = (folder.path / name).read_text().splitlines()
        assert len(lines) == 2
        assert told == [f"{name} was removed. It is begun anew; what it held is lost."]


class TestFull:
    def test_a_disk_without_room_is_refused_before_anything_is_written(self, tmp_path, monkeypatch):
        temporary = tempfile.TemporaryFile

        class Full:
            def __init__(self, **arguments):
                self.file = temporary(**arguments)

            def __enter__(self):
                return self

            def write(self, content):
                return self.file.write(content[:1000])

            def __exit__(self, *_):
                self.file.close()

        monkeypatch.setattr("tempfile.TemporaryFile", Full)
        with pytest.raises(ConfigurationError, match="No space left on device") as caught:
            RunFolder.create(tmp_path / "run")
        assert "with space left" in caught.value.remedy
        assert list((tmp_path / "run").iterdir()) == []

    def test_what_is_lost_before_the_run_has_begun_is_an_error(self, tmp_path, monkeypatch):
        with RunFolder.create(tmp_path / "run") as folder:
            (folder.path / "metrics.jsonl").mkdir()
            with pytest.raises(IsADirectoryError):
                folder.append_metrics(row(1))


class TestBrokenEnd:
    @pytest.mark.parametrize(
        "end",
        [
            b'{"step": 3, "tr',
            b"\0" * 5000,
            b"\n",
            b"nonsense\n",
            b'[3]\n"x"\n',
            b'\0\0\0\n{"step"\n',
            b"\xff\xfe\n",
            b"x" * 2**21,
        ],
    )
    def test_what_is_no_row_is_taken_off(self, folder, told, end):
        for step in (1, 2):
            folder.append_metrics(row(step))
        folder.close()
        with open(folder.path / "metrics.jsonl", "ab") as file:
            file.write(end)
        folder.cut_metrics(10**9)
        assert read_metrics(folder.path) == [row(1), row(2)]
        assert told == ["metrics.jsonl had a broken end, which was taken off."]
        folder.append_metrics(row(3))
        assert [each["step"] for each in read_metrics(folder.path)] == [1, 2, 3]

    def test_a_size_within_a_row_cuts_that_row(self, folder):
        sizes = []
        for step in (1, 2, 3):
            folder.append_metrics(row(step))
            sizes.append(folder.size(folder.path / "metrics.jsonl"))
        whole = (folder.path / "metrics.jsonl").read_bytes()
        for size in range(len(whole) + 1):
            (folder.path / "metrics.jsonl").write_bytes(whole)
            folder.cut_metrics(size)
            kept = sum(size >= each for each in sizes)
            assert [each["step"] for each in read_metrics(folder.path)] == [1, 2, 3][:kept]
            assert folder.size(folder.path / "metrics.jsonl") == ([0, *sizes])[kept]

    def test_a_whole_file_stays_as_it_is(self, folder, told):
        for step in range(1, 2000):
            folder.append_metrics({"step": step, "text": "x" * 1000})
        before = (folder.path / "metrics.jsonl").read_bytes()
        assert len(before) > 2**20
        folder.cut_metrics(len(before))
        assert (folder.path / "metrics.jsonl").read_bytes() == before
        assert told == []

    def test_no_file_and_an_empty_one(self, folder, told):
        folder.cut_metrics(0)
        folder.cut_metrics(100)
        assert not (folder.path / "metrics.jsonl").exists()
        (folder.path / "metrics.jsonl").touch()
        folder.cut_metrics(100)
        assert (folder.path / "metrics.jsonl").read_bytes() == b""
        assert told == []


HOLDER = """
import sys
from mpt.run_folder import RunFolder
with RunFolder.create(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


class TestLock:
    def test_another_process_is_refused_until_the_first_is_gone(self, tmp_path):
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, tmp_path / "run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout.readline() == b"locked\n"
            for opening in (RunFolder.create, RunFolder.reopen):
                with pytest.raises(ConfigurationError, match="Another process") as caught:
                    opening(tmp_path / "run")
                assert caught.value.exit_code == 2
            holder.kill()
        RunFolder.reopen(tmp_path / "run").close()

    def test_one_that_a_killed_process_left_is_no_lock(self, tmp_path):
        (tmp_path / ".lock").write_text("12345")
        with RunFolder.create(tmp_path):
            assert (tmp_path / ".lock").exists()
        assert not (tmp_path / ".lock").exists()

    def test_a_file_system_without_locks_is_none_to_refuse(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
        with RunFolder.create(tmp_path) as folder:
            folder.append_metrics(row(1))
        assert os.listdir(tmp_path) == ["metrics.jsonl"]

    def test_one_that_may_not_be_written_is_an_error_of_the_folder(self, tmp_path, monkeypatch):
        (tmp_path / ".lock").touch()
        opening = os.open

        def refuse(path, flags, *mode, **where):  # not chmod: root may write every file
            if str(path).endswith(".lock"):
                raise PermissionError(13, "Permission denied", str(path))
            return opening(path, flags, *mode, **where)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(ConfigurationError, match="cannot be written: Permission denied"):
            RunFolder.create(tmp_path)

    def test_one_that_cannot_be_removed_is_left(self, tmp_path, monkeypatch):
        folder = RunFolder.create(tmp_path)

        def refuse(path, *_, **__):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", refuse)
            folder.close()
        assert os.listdir(tmp_path) == [".lock"]
        RunFolder.create(tmp_path).close()

    def test_a_file_system_that_never_knows_its_own_file_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr("mpt.folder_lock._is_at", lambda file, path: False)
        with RunFolder.create(tmp_path) as folder:
            folder.write_json("report.json", {})
            with pytest.raises(ConfigurationError, match="Another process is training"):
                RunFolder.reopen(tmp_path)

    @pytest.mark.parametrize("kind", ["pipe", "folder", "link", "device"])
    def test_what_is_no_file_in_its_place_is_refused_without_waiting(self, tmp_path, kind):
        lock = tmp_path / "run" / ".lock"
        lock.parent.mkdir()
        if kind == "pipe":
            os.mkfifo(lock)
        elif kind == "folder":
            lock.mkdir()
        elif kind == "link":
            lock.symlink_to(tmp_path / "elsewhere")
        else:
            lock.symlink_to("/dev/zero")
        with pytest.raises(ConfigurationError, match="cannot be written"):
            RunFolder.create(lock.parent)
        assert os.listdir(tmp_path) == ["run"]
        assert os.listdir(lock.parent) == [".lock"]


def test_a_folder_that_holds_another_runs_checkpoints_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000010.ckpt").write_bytes(b"precious")
    with pytest.raises(ConfigurationError, match=r"already: checkpoints/step-00000010\.ckpt"):
        RunFolder.create(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoints"]
