"""What keeps a launcher's processes, and the output of jobs at once, in order."""

import io
import json
import logging.config  # noqa: F401, patched by name
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from mpt import isolation, launching
from mpt.errors import LauncherError
from mpt.isolation import Labelled, at_work

REPORT_SIGINT = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
print("ready", flush=True)
time.sleep({seconds})
print("ended", flush=True)
"""


class TestLabelled:
    def test_whole_lines_have_the_label(self):
        stream = io.StringIO()
        labelled = Labelled(stream, "[3] ")
        print("one", end="", file=labelled)
        assert stream.getvalue() == ""
        print(" line\nand", "another", file=labelled)
        assert stream.getvalue() == "[3] one line\n[3] and another\n"

    def test_it_is_no_terminal(self, monkeypatch):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert not Labelled(sys.stdout, "").isatty()

    def test_the_rest_is_the_stream_s(self):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        assert Labelled(stream, "").encoding == "latin-1"


class TestAtWork:
    @pytest.fixture
    def child(self, tmp_path):
        """A process whose command line is that of a run's."""
        package = tmp_path / "package/mpt"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "isolation.py").write_text("import time\nprint(flush=True)\ntime.sleep(60)\n")
        (tmp_path / "job.json").write_text(json.dumps({"run_dir": str(tmp_path / "0")}))
        process = subprocess.Popen(
            [sys.executable, *isolation.CHILD, str(tmp_path / "job.json")],
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        yield process
        process.kill()
        process.communicate()

    def test_only_while_it_is_there_and_only_in_its_folder(self, child, tmp_path):
        assert at_work(tmp_path / "0")
        assert not at_work(tmp_path / "1")
        child.kill()
        child.wait()
        assert not at_work(tmp_path / "0")

    def test_a_job_that_somebody_saw_end_is_not(self, child, tmp_path):
        (tmp_path / "job.json").unlink()
        assert not at_work(tmp_path / "0")


@pytest.fixture
def launch(monkeypatch):
    """`launch(name, body)` calls `body` as the launcher `name`, through `planned`."""
    from hydra.core.plugins import Plugins

    def call(name, body, plan=lambda *_: None):
        inner = SimpleNamespace(launch=lambda *_, **__: body(), params={"submitit_folder": "x/%j"})
        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_: inner)
        choices = {"hydra/launcher": name}
        config = SimpleNamespace(hydra=SimpleNamespace(runtime=SimpleNamespace(choices=choices)))
        context = SimpleNamespace(config_loader=SimpleNamespace(load_sweep_config=None))
        with launching.planned(plan):
            launcher = Plugins.instantiate_launcher(Plugins, context, None, config)
        return launcher.launch([["seed=0"]], initial_job_idx=0)

    return call


class TestPlanned:
    def test_a_launcher_s_failure_is_named(self, launch):
        def fails():
            raise OSError("a worker is gone\nand much more")

        with pytest.raises(LauncherError, match=r"^joblib: a worker is gone$"):
            launch("joblib", fails)

    def test_the_basic_launcher_s_is_as_it_was(self, launch):
        def fails():
            raise OSError("no space left")

        with pytest.raises(OSError, match="no space left"):
            launch("basic", fails)

    def test_what_the_plan_raises_is_no_failure_of_the_launcher(self, launch):
        def refuses(*_):
            raise KeyError("plan")

        with pytest.raises(KeyError):
            launch("joblib", pytest.fail, plan=refuses)

    def test_interrupts_reach_this_process_and_not_a_launcher_s(self, launch):
        told = []
        previous = signal.signal(signal.SIGINT, lambda *_: told.append("here"))

        def works():
            command = [sys.executable, "-c", REPORT_SIGINT.format(seconds=0.5)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
                worker.stdout.readline()
                worker.send_signal(signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                said = worker.stdout.read()
            return said, list(told)

        try:
            assert launch("joblib", works) == ("ended\n", ["here"])
            assert launch("basic", works) == ("interrupted\nended\n", ["here", "here"])
        finally:
            signal.signal(signal.SIGINT, previous)

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_joblib_s_workers_start_with_interrupts_blocked(self):
        pytest.importorskip("joblib", reason="the extra is absent")
        code = (
            "from joblib import Parallel, delayed\n"
            "from mpt import launching\n"
            "def masks():\n"
            "    import re\n"
            "    text = open('/proc/self/status').read()\n"
            "    return re.search(r'SigBlk:\\s*(\\w+)', text).group(1)\n"
            "with launching._interrupts_kept_from_workers():\n"
            "    print(*Parallel(n_jobs=2, backend='loky')(delayed(masks)() for _ in range(2)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        masks = [int(mask, 16) for mask in done.stdout.split()]
        assert len(masks) == 2
        assert all(mask >> (signal.SIGINT - 1) & 1 for mask in masks)

    def test_a_lost_job_of_submitit_s_is_a_result(self, launch, capsys, monkeypatch):
        # On import it closes logging's handlers; one of TensorFlow's then closes pytest's file.
        monkeypatch.setattr("logging.config._clearExistingHandlers", lambda: None)
        core = pytest.importorskip("submitit.core.core")

        class Job(core.Job):
            def __init__(self, value):
                self.value = value

            def wait(self):
                if self.value is None:
                    raise core.utils.UncompletedJobError("job 7 has no result\nits whole log")

            _sub_jobs = None

            def _get_outcome_and_result(self):
                return "success", self.value

            def __del__(self):
                pass

        results = launch(
            "submitit_slurm", lambda: [job.results()[0] for job in (Job(None), Job(1))]
        )
        assert [results[0].return_value, results[1]] == [None, 1]
        assert capsys.readouterr().err.splitlines() == [
            "the jobs' output: x/*/*.out",
            "lost a job: job 7 has no result",
        ]
        with pytest.raises(core.utils.UncompletedJobError):
            Job(None).results()


def test_a_time_limit_lets_the_child_save():
    """As in submitit, whose handler of the cluster's signal raises where the worker waits."""

    def limit(*_):
        raise TimeoutError

    command = [sys.executable, "-c", REPORT_SIGINT.format(seconds=1)]
    previous = signal.signal(signal.SIGUSR2, limit)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            main = threading.main_thread().ident
            threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR2)).start()
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                isolation._wait(child, None)
            assert child.returncode == 0  # it was waited for
            assert child.stdout.read() == "interrupted\nended\n"
            assert time.monotonic() - started < 20
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_what_was_composed_for_a_check_is_handed_to_the_launcher():
    composed = []

    def compose(master_config, sweep_overrides):
        composed.append(tuple(sweep_overrides))
        return {"overrides": list(sweep_overrides)}

    loader = SimpleNamespace(load_sweep_config=compose)
    launching._compose_once(loader)
    jobs = [["seed=0"], ["seed=1"]]
    for job in jobs:
        loader.load_sweep_config(master_config=None, sweep_overrides=job)
    assert [loader.load_sweep_config(None, job)["overrides"] for job in jobs] == jobs
    assert composed == [("seed=0",), ("seed=1",)]
    loader.load_sweep_config(None, ["seed=0"])
    assert len(composed) == 3


def test_an_interrupt_is_remembered_whatever_a_library_makes_of_it():
    with launching.stopping(lambda: None) as interrupts:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            pass
    assert interrupts.seen


def test_a_second_interrupt_is_not_held_back(tmp_path):
    stop = launching.Stop(tmp_path / "stop")
    with launching.stopping(lambda: stop):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
