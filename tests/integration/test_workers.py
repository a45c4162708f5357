"""Training over several processes: one curve, one answer to an overflow, and a way to go on."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from free_ports import free_ports

from mpt.run_folder import read_metrics

ROOT = Path(__file__).resolve().parents[2]
CODE = Path(__file__).with_name("teamed")
FILE = CODE / "own_team.py"
WORDS = (
    *("model=python", f"model.function={FILE}:model", "batch_size=24", "trainer.log_every=1"),
    *("dataset=python", f"dataset.function={FILE}:data", "trainer.epochs=null", "device=cpu"),
    *("dataset.kwargs={seed: 1}", "trainer.steps=12", "trainer.checkpoint_every=4"),
    *("trainer.warmup_steps=0", "telemetry.peak=false", "optimizer.learning_rate=0.05"),
    "precision=float32",
    "device.strategy=multi_worker",
)
EVENT = "trainer.callbacks=[{_target_: own_team.Event, file: event.json}]"


def tf_configs(count):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": t})} for t in tasks]


def slurm(count):
    """What `srun --ntasks=COUNT` sets on one node."""
    common = {
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_TASKS_PER_NODE": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_JOB_ID": str(os.getpid() % 20000),
    }
    return [{**common, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


class Workers:
    """The same command in several processes, each in a folder of its own under `folder`."""

    def __init__(self, folder, environments, *words, own=()):
        self.processes = []
        for rank, environment in enumerate(environments):
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "mpt", "train", *WORDS, *words, *own[rank : rank + 1]],
                    cwd=folder,
                    env={
                        **{k: v for k, v in os.environ.items() if k != "TF_CONFIG"},
                        **environment,
                        "PYTHONPATH": os.pathsep.join([str(ROOT), str(CODE)]),
                        "MPT_ALLOW": f"own_team,{FILE}",
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def end(self, seconds=240):
        """Exit codes, and what each one said on stdout and on stderr."""
        deadline = time.monotonic() + seconds
        try:
            said = [
                process.communicate(timeout=max(1.0, deadline - time.monotonic()))
                for process in self.processes
            ]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], said


def train(folder, environments, *words, own=()):
    return Workers(folder, environments, *words, own=own).end()


def curve(folder, name="train/loss"):
    """The tag at each logged step of a run."""
    return {row["step"]: row[name] for row in read_metrics(folder) if name in row}


def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run on three workers that nothing befell."""
    folder = tmp_path_factory.mktemp("whole")
    codes, said = train(folder, tf_configs(3), f"run_dir={folder}/run")
    assert codes == [0, 0, 0], said
    return folder / "run", said


@pytest.mark.slow
def test_three_workers_have_the_loss_of_one(whole, tmp_path):
    codes, said = train(
        tmp_path, [{}], f"run_dir={tmp_path}/run", "device.strategy=none", "device=cpu"
    )
    assert codes == [0], said
    for tag in ("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"):
        one, three = curve(tmp_path / "run", tag), curve(whole[0], tag)
        assert one.keys() == three.keys()
        assert len(one) == (12 if tag.startswith("train") else 2)
        np.testing.assert_allclose(list(three.values()), list(one.values()), rtol=2e-5)
    folders = (tmp_path / "run", whole[0])
    alone, together = (keras.saving.load_model(each / "model.keras") for each in folders)
    for a, b in zip(alone.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_only_the_chief_writes_and_speaks(whole):
    folder, said = whole
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run"]
    assert len(list((folder / "tensorboard").iterdir())) == 1
    content = report(folder)
    assert content["device"]["count"] == 3
    assert content["execution"]["strategy"] == "multi_worker"
    assert content["training"]["batch_size"] == 24
    assert said[0][0].splitlines()[-1] == f"run: {folder}"
    assert "run:" not in said[1][0] + said[2][0]


@pytest.mark.slow
def test_an_overflow_at_one_worker_skips_the_step_at_all(tmp_path):
    words = ("precision=mixed_float16", "model.kwargs={normalized: true}", "trainer.steps=6")
    bad = ("+dataset.kwargs.bad_batch=3", "+dataset.kwargs.bad_rows=[12,24]")  # the second's
    variables = f"trainer.callbacks=[{{_target_: own_team.Variables, folder: {tmp_path}/values}}]"
    codes, said = train(tmp_path, tf_configs(2), *words, *bad, variables, f"run_dir={tmp_path}/run")
    assert codes == [0, 0], said
    scale = report(tmp_path / "run")["loss_scale"]
    assert (scale["skipped_steps"], scale["last_overflow_step"]) == (1, 4)
    check_averaged(tmp_path, members=2)


def check_averaged(folder, members):
    """What the model was saved with is what each replica has at the end, the mean of their own."""
    values = {
        when: [np.load(folder / "values" / f"{when}-{rank}.npz") for rank in range(members)]
        for when in ("before", "after")
    }
    saved = keras.saving.load_model(folder / "run" / "model.keras")
    for place, variable in enumerate(saved.weights):
        before, after = (
            np.concatenate([file[f"arr_{place}"] for file in values[when]])
            for when in ("before", "after")
        )
        assert len(before) == len(after) == 2
        assert np.isfinite(after).all()
        np.testing.assert_array_equal(after[0], after[1])
        np.testing.assert_array_equal(variable.numpy(), after[0])
        if "moving" in variable.path:  # each has seen its own rows, until they are averaged
            assert (before[0] != before[1]).any()
            mean = np.mean(np.float64(before), axis=0).astype("float32")
            np.testing.assert_array_equal(after[0], mean)
        else:
            np.testing.assert_array_equal(before[0], before[1])


@pytest.mark.slow
def test_two_devices_of_one_process_do_the_same(whole, tmp_path):
    mirrored = ("device.strategy=mirrored", "device.logical_cpus=2")
    codes, said = train(tmp_path, [{}], *mirrored, f"run_dir={tmp_path}/plain")
    assert codes == [0], said
    for tag in ("train/loss", "validation/loss", "validation/accuracy"):
        two, three = curve(tmp_path / "plain", tag), curve(whole[0], tag)
        assert two.keys() == three.keys()
        np.testing.assert_allclose(list(two.values()), list(three.values()), rtol=2e-5)
    words = ("precision=mixed_float16", "model.kwargs={normalized: true}", "trainer.steps=6")
    variables = f"trainer.callbacks=[{{_target_: own_team.Variables, folder: {tmp_path}/values}}]"
    codes, said = train(tmp_path, [{}], *mirrored, *words, variables, f"run_dir={tmp_path}/run")
    assert codes == [0], said
    check_averaged(tmp_path, members=1)


@pytest.mark.slow
def test_a_run_outlives_a_worker_and_a_signal_to_one(whole, tmp_path):
    """Three workers, of whom one is killed; two go on, of whom one has a signal; one ends it."""
    run, event = tmp_path / "run", tmp_path / "event.json"
    words = (f"run_dir={run}", EVENT)
    event.write_text(json.dumps({"rank": 2, "step": 7, "signal": "SIGKILL"}))
    codes, said = train(tmp_path, tf_configs(3), *words)
    late = time.time() - float((tmp_path / "at.txt").read_text())
    assert codes == [1, 1, -9], said
    assert late < 60
    for _, err in said[:2]:
        assert "worker 2 of 3" in err
        assert "has gone" in err
        assert "Traceback" not in err
    assert report(run)["reason"]["rule"] == "worker_lost"
    assert "it goes on from step 4" in said[0][1]

    event.write_text(json.dumps({"rank": 1, "step": 7, "signal": "SIGTERM"}))
    codes, said = train(tmp_path, slurm(2), *words)
    assert codes == [75, 75], said
    assert report(run)["training"]["steps"] == 7
    assert "from step 4" in said[0][1]

    event.unlink()
    codes, said = train(tmp_path, tf_configs(1), *words)
    assert codes == [0], said
    assert report(run)["training"]["resumed_from_step"] == 7
    for tag in ("train/loss", "validation/loss"):
        ours, theirs = curve(run, tag), curve(whole[0], tag)
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-5)


@pytest.mark.slow
def test_a_callback_of_one_worker_stops_all(tmp_path):
    (tmp_path / "event.json").write_text(json.dumps({"rank": 1, "step": 5, "signal": "STOP"}))
    codes, said = train(tmp_path, tf_configs(2), f"run_dir={tmp_path}/run", EVENT)
    assert codes == [0, 0], said
    content = report(tmp_path / "run")
    assert (content["status"], content["training"]["steps"]) == ("stopped_early", 5)


def test_other_configurations_are_refused_at_all(tmp_path):
    own = ("seed=1", "seed=2")
    codes, said = train(tmp_path, tf_configs(2), f"run_dir={tmp_path}/run", own=own)
    assert codes == [2, 2]
    for _, err in said:
        assert "seed is 1 at the chief and 2 there" in err
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_at_all(tmp_path):
    codes, said = train(tmp_path, tf_configs(2), "batch_size=25", f"run_dir={tmp_path}/run")
    assert codes == [2, 2]
    for _, err in said:
        assert "batch_size=25 cannot be shared evenly by 2 replicas" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_does_not_come_and_a_port_that_is_taken(tmp_path):
    pair = tf_configs(2)
    port = int(json.loads(pair[1]["TF_CONFIG"])["cluster"]["worker"][1].rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        words = (f"run_dir={tmp_path}/run", "device.worker_seconds=3")
        codes, said = train(tmp_path, pair, *words)
    assert codes == [2, 2]
    assert f"worker 1 of 2 (127.0.0.1:{port}) did not come" in said[0][1]
    assert "another process listens there" in said[1][1]
    assert list(tmp_path.iterdir()) == []


def test_refused_without_a_worker(mpt_process, tmp_path):
    for words, said in (
        ((), "nothing tells them"),
        (("device.logical_cpus=2",), "device.logical_cpus"),
        (("batch_size=max",), "batch_size=max on one worker"),
        (("trainer.jit_compile=true",), "does not run with trainer.jit_compile=true"),
    ):
        result = mpt_process("train", "device.strategy=multi_worker", *words)
        assert result.code == 2
        assert said in result.err
    assert list(tmp_path.iterdir()) == []
