"""A file that grows by whole pieces, whatever becomes of the disk and of the file."""

import errno
import os

import pytest

from mpt.append_file import AppendFile, Removed


@pytest.fixture
def told():
    return []


@pytest.fixture
def file(tmp_path, told):
    growing = AppendFile(tmp_path / "rows", lambda path, error: told.append((path.name, error)))
    yield growing
    growing.close()


class Full:
    """A descriptor's `write` on a disk with room for `room` more bytes."""

    def __init__(self, opened, room):
        self._opened, self.room = opened, room

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._opened.write(content[: self.room])
        self.room -= count
        return count

    def __getattr__(self, name):
        return getattr(self._opened, name)


def fill(file, room):
    file._file = Full(file._file, room)


def empty(file):
    file._file = file._file._opened


def test_pieces_one_after_another(file, tmp_path):
    file.append(b"one\n")
    file.append(b"two\n")
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_piece_that_does_not_fit_is_left_out_whole(file, tmp_path, told, room):
    file.append(b"one\n")
    fill(file, room)
    file.append(b"two\n")
    assert (tmp_path / "rows").read_bytes() == b"one\n"
    assert [(name, error.errno) for name, error in told] == [("rows", errno.ENOSPC)]


def test_it_is_told_once_until_there_is_room_again(file, tmp_path, told):
    file.append(b"one\n")
    for _ in range(2):
        fill(file, 0)
        file.append(b"lost\n")
        file.append(b"lost\n")
        empty(file)
        file.append(b"two\n")
    assert (tmp_path / "rows").read_bytes() == b"one\ntwo\ntwo\n"
    assert len(told) == 2


def test_a_file_that_cannot_be_opened_is_told_of(tmp_path, told):
    file = AppendFile(tmp_path / "absent" / "deep" / "rows", lambda *lost: told.append(lost))
    file.append(b"one\n")
    assert [error.errno for _, error in told] == [errno.ENOENT]


def test_on_its_own_it_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        AppendFile(tmp_path / "absent" / "deep" / "rows").append(b"one\n")


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_file_that_is_taken_away_is_begun_anew_and_told_of(file, tmp_path, told, how):
    file.append(b"one\n")
    rows = tmp_path / "rows"
    if how == "removed":
        rows.unlink()
    elif how == "moved":
        rows.rename(tmp_path / "elsewhere")
    else:
        (tmp_path / "new").write_bytes(b"edited\n")
        (tmp_path / "new").rename(rows)
    file.append(b"two\n")
    file.append(b"three\n")
    edited = b"edited\n" if how == "replaced" else b""
    assert rows.read_bytes() == edited + b"two\nthree\n"
    assert [type(error) for _, error in told] == [Removed]
    if how == "moved":
        assert (tmp_path / "elsewhere").read_bytes() == b"one\n"


def test_its_folder_is_made_again(tmp_path, told):
    (tmp_path / "events").mkdir()
    file = AppendFile(tmp_path / "events" / "rows", lambda *lost: told.append(lost))
    file.append(b"one\n")
    (tmp_path / "events" / "rows").unlink()
    (tmp_path / "events").rmdir()
    file.append(b"two\n")
    file.close()
    assert (tmp_path / "events" / "rows").read_bytes() == b"two\n"
    assert len(told) == 1


def test_nothing_is_written_where_it_no_longer_belongs(tmp_path, told):
    belongs = [True]
    file = AppendFile(tmp_path / "rows", lambda *lost: told.append(lost), lambda: belongs[0])
    file.append(b"one\n")
    os.rename(tmp_path / "rows", tmp_path / "mine")
    belongs[0] = False
    file.append(b"two\n")
    file.close()
    assert os.listdir(tmp_path) == ["mine"]
    assert (tmp_path / "mine").read_bytes() == b"one\n"
    assert told == []


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path, told):
    os.mkfifo(tmp_path / "rows")
    AppendFile(tmp_path / "rows", lambda *lost: told.append(lost)).append(b"one\n")
    assert [error.errno for _, error in told] == [errno.EINVAL]
