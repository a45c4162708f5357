"""What was measured of a machine, kept for later processes."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mpt import tuning_cache
from mpt.device import Device
from mpt.tuning_cache import DAYS, MOST, NAME, TuningCache, opened

CPU = Device("cpu", "a CPU", 1, None, None, True, False, 2**30)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_later_process_finds_what_was_kept(folder):
    opened(CPU, wanted=True).put({"value": 1.5}, what="a peak", dtype="float32")
    later = opened(CPU, wanted=True)
    assert later.get(what="a peak", dtype="float32") == {"value": 1.5}
    assert later.get(what="a peak", dtype="float16") is None
    later.put({"value": 2.5}, what="a peak", dtype="float32")
    assert opened(CPU, wanted=True).get(what="a peak", dtype="float32") == {"value": 2.5}
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_another_machine_or_library_has_figures_of_its_own(folder, monkeypatch):
    opened(CPU, wanted=True).put({"value": 1}, what="a peak")
    assert opened(replace(CPU, name="another"), wanted=True).get(what="a peak") is None
    monkeypatch.setattr(tuning_cache, "cores", lambda: 97)
    assert opened(CPU, wanted=True).get(what="a peak") is None
    monkeypatch.undo()
    monkeypatch.setenv("MPT_CACHE", str(folder))
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert opened(CPU, wanted=True).get(what="a peak") is None
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    monkeypatch.setattr("tensorflow.__version__", "0.0")
    assert opened(CPU, wanted=True).get(what="a peak") is None


def test_where_it_is_not_wanted_nothing_is_kept_nor_found(folder):
    opened(CPU, wanted=False).put({"value": 1}, what="a peak")
    assert not folder.exists()
    opened(CPU, wanted=True).put({"value": 1}, what="a peak")
    assert opened(CPU, wanted=False).get(what="a peak") is None


@pytest.mark.parametrize(
    ("days", "found"), [(DAYS - 1, True), (DAYS + 1, False), (-DAYS - 1, False)]
)
def test_a_figure_grows_old(folder, days, found):
    cache = opened(CPU, wanted=True)
    cache.put({"value": 1}, what="a peak")
    content = json.loads((folder / NAME).read_text())
    (entry,) = content["entries"].values()
    entry["measured"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    (folder / NAME).write_text(json.dumps(content))
    assert (cache.get(what="a peak") is not None) is found
    cache.put({"value": 2}, what="another")
    assert len(json.loads((folder / NAME).read_text())["entries"]) == 1 + found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 2, "entries": {}}',
        '{"format": 1, "entries": 5}',
        '{"format": 1}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_broken_file_is_none_and_is_written_anew(folder, text):
    folder.mkdir()
    (folder / NAME).write_text(text, errors="surrogateescape")
    cache = opened(CPU, wanted=True)
    assert cache.get(what="a peak") is None
    cache.put({"value": 1}, what="a peak")
    assert cache.get(what="a peak") == {"value": 1}


@pytest.mark.parametrize(
    "entry", [None, 5, {}, {"measured": "today"}, {"measured": 5, "value": {}}]
)
def test_a_broken_entry_is_none(folder, entry):
    cache = opened(CPU, wanted=True)
    cache.put({"value": 1}, what="a peak")
    content = json.loads((folder / NAME).read_text())
    content["entries"] = dict.fromkeys(content["entries"], entry)
    (folder / NAME).write_text(json.dumps(content))
    assert cache.get(what="a peak") is None


def test_an_entry_without_a_zone_or_a_mapping_is_none(folder):
    cache = opened(CPU, wanted=True)
    cache.put({"value": 1}, what="a peak")
    content = json.loads((folder / NAME).read_text())
    (entry,) = content["entries"].values()
    for change in ({"measured": "2026-01-01T00:00:00"}, {"value": [1]}):
        changed = {key: {**entry, **change} for key in content["entries"]}
        (folder / NAME).write_text(json.dumps({**content, "entries": changed}))
        assert cache.get(what="a peak") is None


def test_the_oldest_go_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning_cache, "MOST", 3)
    assert MOST > 3
    cache = TuningCache({}, tmp_path / NAME)
    for number in range(5):
        cache.put({"value": number}, what=number)
    assert [cache.get(what=n) is not None for n in range(5)] == [False, False, True, True, True]


def test_a_folder_that_takes_no_file_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    cache = TuningCache({}, tmp_path / "file" / "below" / NAME)
    cache.put({"value": 1}, what="a peak")
    assert cache.get(what="a peak") is None
    (tmp_path / NAME).mkdir()  # in the file's place
    TuningCache({}, tmp_path / NAME).put({"value": 1}, what="a peak")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", NAME]


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / NAME)
    cache = TuningCache({}, tmp_path / NAME)
    assert cache.get(what="a peak") is None
    cache.put({"value": 1}, what="a peak")
    assert cache.get(what="a peak") == {"value": 1}


def test_it_lies_where_caches_lie(tmp_path, monkeypatch):
    for variables, expected in (
        ({"MPT_CACHE": "own"}, "own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/mpt"),
        ({"HOME": "home"}, "home/.cache/mpt"),
    ):
        for name in ("MPT_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        opened(CPU, wanted=True).put({"value": 1}, what="a peak")
        assert (tmp_path / expected / NAME).is_file()
