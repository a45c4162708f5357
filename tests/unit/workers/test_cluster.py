"""Who trains together: TF_CONFIG held against TensorFlow's reader, Slurm's variables."""

import json
import socket

import pytest

from mpt.errors import ConfigurationError
from mpt.workers import from_environment
from mpt.workers.cluster import listening, own_gpus

HOSTS = ["first:1000", "second:1001", "third:1002"]


def tf_config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def slurm(rank=0, nodes="node[2,10]", tasks="2(x2)", total="4", **more):
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_STEP_NUM_TASKS": total,
        "SLURM_JOB_ID": "40007",
        **more,
    }


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "rank"),
    [
        ({"worker": HOSTS}, "worker", 2, 2),
        ({"chief": HOSTS[:1], "worker": HOSTS[1:]}, "chief", 0, 0),
        ({"worker": HOSTS[1:], "chief": HOSTS[:1]}, "worker", 1, 2),
    ],
)
def test_members_are_those_of_tensorflows_resolver(monkeypatch, cluster, kind, index, rank):
    import tensorflow as tf

    environ = tf_config(cluster, kind, index)
    found = from_environment(environ)
    monkeypatch.setenv("TF_CONFIG", environ["TF_CONFIG"])
    theirs = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert found.tasks == theirs.cluster_spec().as_dict()
    assert found.task == (theirs.task_type, theirs.task_id)
    assert (found.rank, found.addresses) == (rank, HOSTS)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"TF_CONFIG": "{cluster"}, "no JSON"),
        ({"TF_CONFIG": "[]"}, "the mappings cluster and task"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "the mappings cluster and task"),
        (tf_config({"worker": "a:1"}), "must be a list"),
        (tf_config({"worker": ["a"]}), "not host:port"),
        (tf_config({"worker": ["a:99999"]}), "not host:port"),
        (tf_config({"worker": [1]}), "not host:port"),
        (tf_config({"worker": ["[::1]:1"]}), "not host:port"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a:1 is there twice"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "'ps'"),
        (tf_config({"worker": ["a:1"]}, index=1), "its task is worker 1, and the cluster has"),
        (tf_config({"worker": ["a:1"]}, index="0"), "its task is worker '0'"),
        (tf_config({"worker": ["a:1"]}, index=True), "its task is worker True"),
        (tf_config({"worker": ["a:1"]}, kind="evaluator"), "its task is evaluator 0"),
        (tf_config({}), "no members"),
        (tf_config({"chief": ["a:1", "b:1"]}, kind="chief"), "one chief only"),
        ({}, "nothing tells them"),
        (slurm(tasks="2"), r"\[2\] on node2, node10"),
        (slurm(total="x"), "invalid literal"),
        (slurm(rank=4), "number 4"),
        (slurm(nodes="node[2"), "Invalid"),
        ({"SLURM_PROCID": "0"}, "SLURM_STEP_NODELIST is not set"),
    ],
)
def test_what_cannot_be_is_refused(environ, said):
    with pytest.raises(ConfigurationError, match=said):
        from_environment(environ)


def test_slurms_tasks_lie_in_slurms_order_of_nodes():
    # TensorFlow's SlurmClusterResolver has node10 first, where Slurm has task 0 on node2.
    port = 10000 + 40007 % 20000
    for rank in range(4):
        cluster = from_environment(slurm(rank))
        assert cluster.rank == rank
        assert cluster.addresses == [
            *(f"node2:{port}", f"node2:{port + 1}", f"node10:{port}", f"node10:{port + 1}")
        ]


@pytest.mark.parametrize(
    ("more", "own"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_LOCALID": "1"}, "2,3"),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_PER_TASK": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),
        ({}, None),
    ],
)
def test_tasks_that_see_the_same_gpus_share_them(more, own):
    environ = slurm(1, **more)
    assert own_gpus(environ, from_environment(environ)) == own


def test_a_port_that_is_taken_is_told():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        cluster = from_environment(tf_config({"worker": [f"127.0.0.1:{port}", "127.0.0.1:9"]}))
        with pytest.raises(ConfigurationError, match="another process listens there"):
            listening(cluster)
    listening(cluster).close()
