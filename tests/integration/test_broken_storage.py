"""A run whose disk fills up or fails, whose folder is taken away, whose checkpoints break.

It says what is lost, and goes on without or ends; no traceback. What it can be resumed from is
whole, and what comes of that is what an undisturbed run comes to, bit for bit.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import resumed_runs
from resumed_runs import report_of, rows

from mpt.checkpoint import BrokenCheckpoint, Checkpoints
from mpt.cli import main

CODE = Path(__file__).with_name("disturbed")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
WORDS = (
    *("train", "model=mlp", "model.hidden=[16]", "precision=float32", "device=cpu"),
    *("dataset.examples=320", "batch_size=32", f"trainer.steps={STEPS}", "trainer.log_every=2"),
    *("trainer.eval_every=6", "trainer.checkpoint_every=4", "trainer.keep_best=false"),
    *("telemetry.peak=false", "trainer.callbacks=[{_target_: disturbing.Disturbing}]"),
)
NO_SPACE = "No space left on device"


@dataclass
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def warnings(self):
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


@pytest.fixture(autouse=True)
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPT_ALLOW", "disturbing")
    monkeypatch.delenv("DISTURB", raising=False)
    monkeypatch.setattr(sys, "path", [str(CODE), *sys.path])


@pytest.fixture
def mpt(capfd):
    """The command line in this process."""

    def call(*words):
        resumed_runs.forget_this_process()
        capfd.readouterr()
        done = Done(main(list(words)), *capfd.readouterr())
        done.err = "".join(
            line for line in done.err.splitlines(True) if not line.startswith("WARNING:tensorflow:")
        )
        assert "Traceback" not in done.err
        assert "Exception ignored" not in done.err
        return done

    return call


@pytest.fixture
def disturbed(mpt, monkeypatch):
    """A run in a folder to whose disk something happens after a step."""

    def call(step, command, folder="run"):
        monkeypatch.setenv("DISTURB", f"{step} {command}")
        try:
            return mpt(*WORDS, f"run_dir={folder}", "-q")
        finally:
            monkeypatch.delenv("DISTURB")

    return call


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPT_ALLOW", "disturbing")
        patch.setattr(sys, "path", [str(CODE), *sys.path])
        resumed_runs.forget_this_process()
        assert main([*WORDS, f"run_dir={folder}", "-q"]) == 0
    return folder


@pytest.fixture
def interrupted(undisturbed, tmp_path):
    """A copy of it that has two checkpoints and no report, as if it had been killed."""
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "run" / "model.keras").unlink()
    return tmp_path / "run"


def files(folder):
    """Every entry of a folder: its kind and content."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        mode = path.lstat().st_mode
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
        found[path.relative_to(folder).as_posix()] = (stat.S_IFMT(mode), content)
    return found


def assert_completed(folder, undisturbed):
    """The run came to the same as the undisturbed one."""
    assert report_of(folder)["status"] == "completed"
    assert resumed_runs.variables(folder) == resumed_runs.variables(undisturbed)
    assert resumed_runs.state(folder) == resumed_runs.state(undisturbed)
    assert resumed_runs.saved_weights(folder) == resumed_runs.saved_weights(undisturbed)
    assert rows(folder) == rows(undisturbed)
    assert report_of(folder)["metrics"] == report_of(undisturbed)["metrics"]


def assert_honest(done, folder):
    """What a disturbed run says is so, and what it left is whole."""
    folder = Path(folder)
    lost = [name for name in ("model.keras", "report.json") if not (folder / name).is_file()]
    assert done.code == (1 if lost else 0), done.err
    if "model.keras" in lost:
        assert "error: The model cannot be saved: " in done.err
    if "report.json" in lost:
        assert "error: The report cannot be written: " in done.err
    else:
        report = report_of(folder)
        assert report["exit_code"] == done.code
        assert [f"warning: {text}" for text in report["warnings"]] == done.warnings
    steps = (
        [int(row["step"]) for row in rows(folder)] if (folder / "metrics.jsonl").is_file() else []
    )
    assert steps == sorted(set(steps))
    missing = set(range(2, STEPS + 1, 2)) - set(steps)
    assert bool(missing) == any("metrics.jsonl cannot be" in text for text in done.warnings)
    left = [path.name for path in folder.rglob(".*") if path.name != ".hydra"]
    assert left == ([] if any(folder.glob("checkpoints/*.ckpt")) else [".none-yet"])
    found = Checkpoints(folder).newest()  # raises if one is broken
    failed = [text for text in done.warnings if text.startswith("warning: The checkpoint of step")]
    assert (found is not None and found.step == STEPS) == (not failed)


class TestBrokenCheckpoints:
    """The newest one breaks: the one before is used, and both are named."""

    def break_newest(self, run, how):
        path = run / "checkpoints" / f"step-{STEPS:08d}.ckpt"
        content = bytearray(path.read_bytes())
        if how.startswith("flipped"):
            header = content.index(b"}]}") // 2
            position = {"header": header, "array": len(content) - 100, "digest": -5}
            content[position[how.split()[-1]]] ^= 1
            path.write_bytes(content)
        elif how == "cut":
            path.write_bytes(content[: len(content) // 2])
        elif how == "emptied":
            path.write_bytes(b"")
        else:
            path.unlink()
            {
                "folder": path.mkdir,
                "pipe": lambda: os.mkfifo(path),
                "endless": lambda: path.symlink_to("/dev/zero"),
                "huge": lambda: (path.touch(), os.truncate(path, 2**40)),
            }[how]()

    @pytest.mark.parametrize("how", ["flipped header", "flipped array", "pipe"])
    def test_the_one_before_is_used(self, mpt, interrupted, undisturbed, how):
        self.break_newest(interrupted, how)
        done = mpt("train", f"resume={interrupted}", "-q")
        assert done.code == 0, done.err
        (warning,) = done.warnings
        assert warning.startswith("warning: step-00000012.ckpt is broken: ")
        assert warning.endswith("step-00000008.ckpt is used instead.")
        assert report_of(interrupted)["training"]["resumed_from_step"] == 8
        assert report_of(interrupted)["warnings"] == [warning.removeprefix("warning: ")]
        assert (interrupted / "checkpoints" / "step-00000012.ckpt.broken").exists()
        assert_completed(interrupted, undisturbed)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "how", ["flipped digest", "cut", "emptied", "folder", "endless", "huge"]
    )
    def test_however_it_broke(self, mpt, interrupted, undisturbed, how):
        self.test_the_one_before_is_used(mpt, interrupted, undisturbed, how)

    @pytest.mark.parametrize(
        ("how", "says"),
        [
            ("all", "step-00000012.ckpt: .*; step-00000008.ckpt: "),
            ("not a folder", "checkpoints: Not a directory"),
        ],
    )
    def test_none_that_can_be_used(self, mpt, interrupted, how, says):
        checkpoints = interrupted / "checkpoints"
        if how == "all":
            for path in Checkpoints(interrupted).steps().values():
                os.truncate(path, path.stat().st_size - 1)
        else:
            shutil.rmtree(checkpoints)
            checkpoints.write_text("mine")
        before = files(interrupted)
        done = mpt("train", f"resume={interrupted}")
        assert done.code == 2
        assert files(interrupted) == before
        assert done.err.count("error: ") == 1
        with pytest.raises(BrokenCheckpoint, match=says):
            Checkpoints(interrupted).newest()
        assert str(checkpoints) in done.err


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, place, options):
        self.place = place
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", place],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def fill(self, leave=0):
        """A shell command that fills it, up to `leave` KiB."""
        filler, room = self.place / "filler", self.place / "room"
        return (
            f"head -c {leave}K /dev/zero > {room}; cat /dev/zero > {filler} 2> /dev/null; rm {room}"
        )

    def make_room(self):
        (self.place / "filler").unlink()

    def unmount(self):
        subprocess.run(["umount", "--lazy", self.place], check=True)


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    disk = Disk(place, "size=2m")
    yield disk
    disk.unmount()


class TestFullDisk:
    def fill(self, disturbed, mpt, disk, undisturbed, step, leave):
        run = disk.place / "run"
        done = disturbed(step, disk.fill(leave), folder=run)
        assert_honest(done, run)
        assert NO_SPACE in done.err or done.code == 0
        disk.make_room()
        resumed = mpt("train", f"resume={run}", "-q")
        assert resumed.code == 0, resumed.err
        assert_completed(run, undisturbed)
        return done

    # In KiB, what a run of this size writes: rows and events 4 at a time, a checkpoint 32,
    # model.keras 40, report.json 8.
    @pytest.mark.parametrize(
        ("step", "leave", "says"),
        [
            (
                1,
                0,
                "The checkpoint of step 4 cannot be written: No space left on device. The run "
                "goes on; there is none.",
            ),
            pytest.param(
                5,
                36,
                "The checkpoint of step 12 cannot be written: No space left on device. The run "
                "goes on; the last one is that of step 8.",
                marks=pytest.mark.slow,
            ),
            pytest.param(
                *(5, 80, "The model cannot be saved: No space left on device."),
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_a_run_goes_on_and_says_what_is_lost(
        self, disturbed, mpt, disk, undisturbed, step, leave, says
    ):
        done = self.fill(disturbed, mpt, disk, undisturbed, step, leave)
        assert says in done.err
        assert done.code == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [1, 5, 9])
    def test_at_any_moment_and_with_any_room(self, disturbed, mpt, disk, undisturbed, step):
        codes = set()
        for leave in range(0, 160, 12):
            codes.add(self.fill(disturbed, mpt, disk, undisturbed, step, leave).code)
            shutil.rmtree(disk.place / "run")
        assert codes == {0, 1}

    def test_one_that_is_full_from_the_start_is_refused(self, mpt, disk):
        subprocess.run(disk.fill(100), shell=True, check=True)
        done = mpt(*WORDS, f"run_dir={disk.place / 'run'}")
        assert done.code == 2
        assert "error: The run's folder cannot be written: No space left on device." in done.err
        assert "name a folder that you may write to, with space left" in done.err
        assert os.listdir(disk.place) == ["filler"]

    def test_resuming_on_one_that_is_still_full_changes_nothing(self, mpt, disk, undisturbed):
        run = disk.place / "run"
        shutil.copytree(undisturbed, run)
        (run / "report.json").unlink()
        subprocess.run(disk.fill(), shell=True, check=True)
        before = files(run)
        done = mpt("train", f"resume={run}")
        assert done.code == 2
        assert files(run) == before
        assert NO_SPACE in done.err

    @pytest.mark.slow
    def test_in_a_child_that_is_killed_besides(self, disk, monkeypatch, capfd):
        """Neither it nor the process that waited for it can write the report."""
        monkeypatch.setenv("DISTURB", f"5 {disk.fill()}; kill -9 $PPID")
        monkeypatch.setenv("PYTHONPATH", str(CODE))
        run = disk.place / "run"
        assert main([*WORDS, "device.memory_limit_mb=100000", f"run_dir={run}", "-q"]) == 137
        said = capfd.readouterr().err
        assert f"SIGKILL ended it from outside; its report cannot be written: {NO_SPACE}." in said
        assert "Traceback" not in said
        assert Checkpoints(run).newest().step == 4

    @pytest.mark.slow
    def test_a_sweep_goes_on_and_is_completed_once_there_is_room(self, mpt, disk, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(CODE))
        sweep = disk.place / "sweep"
        words = (*WORDS, "-m", "seed=0,1", "-q")
        monkeypatch.setenv("DISTURB", f"5 {disk.fill()}")
        done = mpt(*words, f"hydra.sweep.dir={sweep}")
        assert done.code == 1
        assert "The model cannot be saved: No space left on device." in done.err
        assert "the sweep's folder cannot be written: No space left on device" in done.err
        disk.make_room()
        monkeypatch.delenv("DISTURB")
        again = mpt(*words, f"resume={sweep}")
        assert again.code == 0, again.err
        assert [report_of(sweep / name)["status"] for name in "01"] == ["completed"] * 2
        assert report_of(sweep / "0")["training"]["resumed_from_step"] == 4

    @pytest.mark.slow
    def test_one_that_has_no_more_names(self, mpt, tmp_path, undisturbed):
        """Room there is, but for no further file: at each moment of a run."""
        codes = []
        for names in range(1, 24):
            place = tmp_path / f"names-{names}"
            place.mkdir()
            disk = Disk(place, f"size=4m,nr_inodes={names}")
            try:
                done = mpt(*WORDS, f"run_dir={place / 'run'}", "-q")
                codes.append(done.code)
                if done.code == 2:
                    assert NO_SPACE in done.err
                else:
                    assert_honest(done, place / "run")
                subprocess.run(["mount", "-o", "remount,nr_inodes=99", place], check=True)
                again = mpt(*WORDS, f"run_dir={place / 'run'}", "-q")
                assert again.code == 0, again.err
                assert_completed(place / "run", undisturbed)
            finally:
                disk.unmount()
        assert codes == sorted(codes, key=[2, 1, 0].index)
        assert set(codes) == {0, 1, 2}


class TestWithoutPrivileges:
    """The same where no file system can be mounted."""

    @pytest.mark.parametrize("size", [20_000, pytest.param(36_000, marks=pytest.mark.slow)])
    def test_files_that_may_not_grow(self, disturbed, mpt, tmp_path, undisturbed, size):
        """As with a quota: a checkpoint does not fit, or model.keras alone does not."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            done = disturbed(1, f"prlimit --fsize={size}: --pid $PPID")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert_honest(done, tmp_path / "run")
        assert "error: The model cannot be saved: File too large." in done.err
        saved = Checkpoints(tmp_path / "run").newest()
        assert (saved is not None) == (size == 36_000)
        again = mpt("train", "resume=run", "-q")
        assert again.code == 0, again.err
        assert_completed(tmp_path / "run", undisturbed)

    @pytest.mark.slow
    def test_folders_where_files_should_be(self, disturbed, mpt, tmp_path, undisturbed):
        commands = (
            "rm run/metrics.jsonl; mkdir -p run/metrics.jsonl run/model.keras run/report.json"
        )
        done = disturbed(5, f"{commands}; rm -r run/checkpoints; touch run/checkpoints")
        assert done.code == 1
        for says in (
            "metrics.jsonl was removed.",
            "metrics.jsonl cannot be written: Is a directory.",
            "The checkpoint of step 8 cannot be written: File exists.",
            "The model cannot be saved: Is a directory.",
            "The report cannot be written: Is a directory.",
        ):
            assert done.err.count(says) == 1, says
        for name in ("metrics.jsonl", "model.keras", "report.json"):
            (tmp_path / "run" / name).rmdir()
        (tmp_path / "run" / "checkpoints").unlink()
        again = mpt("train", "resume=run", "-q")
        assert again.code == 0, again.err
        assert_completed(tmp_path / "run", undisturbed)


NOBODY = """
import json, os, sys
sys.path[:0] = sys.argv[1:3]
from mpt.cli import main
sys.stderr = open(os.devnull, "w")
import mpt.runner  # all that is needed is imported while it can be read
main(["train", "model=nothing"])
main(["train", "resume=nowhere"])
sys.stderr = sys.__stderr__
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for words in json.loads(sys.argv[3]):
    print("exit", main(words), file=sys.stderr)
"""


def as_nobody(*lines):
    """Command lines by a user without any rights: what each says on stderr, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, ROOT, CODE, json.dumps(lines)],
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return re.findall(r"^(error: .*?)^exit (\d+)$", done.stderr, re.DOTALL | re.MULTILINE)


class TestReadOnly:
    @pytest.mark.slow
    def test_a_folder_that_turns_read_only(self, disturbed, mpt, disk, undisturbed):
        run = disk.place / "run"
        bind = f"mount --bind {run} {run} && mount -o remount,bind,ro {run}"
        done = disturbed(5, bind, folder=run)
        subprocess.run(["umount", run], check=True)
        assert done.code == 1
        assert done.err.count("Read-only file system") == 4
        assert "The model cannot be saved: Read-only file system." in done.err
        assert "The report cannot be written: Read-only file system." in done.err
        again = mpt("train", f"resume={run}", "-q")
        assert again.code == 0, again.err
        assert_completed(run, undisturbed)

    def test_nothing_is_begun_or_resumed_in_one(self, mpt, disk, undisturbed):
        shutil.copytree(undisturbed, disk.place / "old")
        (disk.place / "old" / "report.json").unlink()
        subprocess.run(["mount", "-o", "remount,ro", disk.place], check=True)
        for words in (
            (*WORDS, f"run_dir={disk.place / 'new'}"),
            ("train", f"resume={disk.place}/old"),
        ):
            done = mpt(*words)
            assert done.code == 2
            assert "Read-only file system" in done.err

    @pytest.mark.slow
    def test_another_users(self, interrupted):
        """As a user who may read everything there, and write nothing."""
        if os.getuid() != 0:
            pytest.skip("only root can become another user")
        with tempfile.TemporaryDirectory() as place:
            os.chmod(place, 0o755)
            runs = [Path(place) / name for name in ("run", "hidden", "no-hydra", "no-config")]
            for run in runs:
                shutil.copytree(interrupted, run)
            for run, inner in zip(runs[1:], ("", ".hydra", ".hydra/config.yaml"), strict=True):
                (run / inner).chmod(0)
            before = files(place)
            new = [*WORDS, f"run_dir={place}/new"]
            said = as_nobody(new, *(["train", f"resume={run}"] for run in runs))
            assert files(place) == before
        assert [code for _, code in said] == ["2"] * 5
        assert "folder cannot be made: Permission denied" in said[0][0]
        assert "folder cannot be written: Permission denied" in said[1][0]
        for text, _ in said[2:]:
            assert "configuration" in text
            assert "read: Permission denied" in text
        assert all(text.count("error: ") == 1 for text, _ in said)


class TestTakenAway:
    """The run's folder, or a part of it, is removed or moved while the run trains."""

    def test_the_folder_is_removed(self, disturbed, tmp_path):
        done = disturbed(5, "rm -rf run")
        assert done.code == 1
        assert done.err.count("error: ") == 1
        assert "error: The run's folder is no longer there." in done.err
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_it_is_moved_and_another_put_in_its_place(self, disturbed, mpt, tmp_path, undisturbed):
        done = disturbed(5, f"mv run moved; cp -r {undisturbed} run")
        assert done.code == 1
        assert "error: The run's folder is no longer there." in done.err
        assert files(tmp_path / "run") == files(undisturbed)
        again = mpt("train", "resume=moved", "-q")
        assert again.code == 0, again.err
        assert report_of(tmp_path / "moved")["training"]["resumed_from_step"] == 4
        assert_completed(tmp_path / "moved", undisturbed)

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [1, 4, 11, 12])
    def test_at_any_moment(self, disturbed, tmp_path, undisturbed, step):
        done = disturbed(step, f"mv run moved; cp -r {undisturbed} run")
        assert done.code == 1
        assert done.err.count("error: ") == 1
        assert files(tmp_path / "run") == files(undisturbed)
        assert not (tmp_path / "moved" / "report.json").exists()

    def test_its_checkpoints_and_events_are_removed(self, disturbed, mpt, tmp_path, undisturbed):
        done = disturbed(5, "rm -r run/checkpoints run/tensorboard")
        assert done.code == 0
        assert len(done.warnings) == 1
        assert "was removed. It is begun anew; what it held is lost." in done.err
        assert report_of(tmp_path / "run")["warnings"] == [
            text.removeprefix("warning: ") for text in done.warnings
        ]
        assert list(Checkpoints(tmp_path / "run").steps()) == [8, 12]
        assert_completed(tmp_path / "run", undisturbed)
        scalars, _ = resumed_runs.curves(tmp_path / "run")
        assert [step for step, _ in scalars["train/loss"]] == [6, 8, 10, 12]
