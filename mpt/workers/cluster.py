"""Who trains together: the members' addresses, from TF_CONFIG or from Slurm's variables."""

import errno
import json
import os
import re
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from mpt.errors import ConfigurationError

WHERE = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
JOBS = ("chief", "worker")
FIRST_PORT, PORTS = 10000, 20000
"""Ports for Slurm's jobs, by their number: below those that systems give out themselves."""


@dataclass(frozen=True)
class Cluster:
    """The members of a training, in the order of their ranks; the first one is the chief.

    Attributes:
        members: (task type, index within it, "host:port") of each.
        rank: this process's place among them.
        source: where that was read, for messages.
    """

    members: tuple[tuple[str, int, str], ...]
    rank: int
    source: str

    @property
    def addresses(self) -> list[str]:
        return [address for _, _, address in self.members]

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Task type -> addresses, as tf.train.ClusterSpec takes them."""
        found: dict[str, list[str]] = {}
        for kind, _, address in self.members:
            found.setdefault(kind, []).append(address)
        return found

    @property
    def task(self) -> tuple[str, int]:
        """This process's task type and index."""
        kind, index, _ = self.members[self.rank]
        return kind, index

    def name(self, rank: int) -> str:
        """A member in words."""
        return f"worker {rank} of {len(self.members)} ({self.members[rank][2]})"


def from_environment(environ: Mapping[str, str]) -> Cluster:
    """The cluster that this process is part of.

    Args:
        environ: has TF_CONFIG, or what `srun` sets.

    Raises:
        ConfigurationError: it has neither, or what it says cannot be.
    """
    if environ.get("TF_CONFIG"):
        return _from_tf_config(environ["TF_CONFIG"])
    if "SLURM_PROCID" in environ:
        return _from_slurm(environ)
    raise ConfigurationError(
        "device.strategy=multi_worker needs to know its workers, and nothing tells them.",
        where="device.strategy",
        remedy=f"set TF_CONFIG in each worker's environment, as in {EXAMPLE}; or start the "
        "workers with Slurm's srun",
    )


def _from_tf_config(text: str) -> Cluster:
    try:
        said = json.loads(text)
    except ValueError as error:
        raise _malformed(f"it is no JSON: {error}") from error
    cluster = said.get("cluster") if isinstance(said, dict) else None
    task = said.get("task") if isinstance(said, dict) else None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _malformed("it must have the mappings cluster and task")
    unknown = [job for job in cluster if job not in JOBS]
    if unknown:
        raise _malformed(f"its cluster has {unknown[0]!r}; only chief and worker train together")
    members = []
    for job in JOBS:
        addresses = cluster.get(job, [])
        if not isinstance(addresses, list):
            raise _malformed(f"cluster.{job} must be a list of host:port")
        members += [(job, index, _address(each, job)) for index, each in enumerate(addresses)]
    if len(cluster.get("chief", [])) > 1:
        raise _malformed("there can be one chief only")
    addresses = [address for _, _, address in members]
    twice = next((each for each in addresses if addresses.count(each) > 1), None)
    if twice is not None:
        raise _malformed(f"{twice} is there twice")
    own = (task.get("type"), task.get("index"))
    for rank, (job, index, _) in enumerate(members):
        if (job, index) == own and type(own[1]) is int:
            return Cluster(tuple(members), rank, WHERE)
    raise _malformed(
        f"its task is {own[0]} {own[1]!r}, and the cluster has "
        + (", ".join(f"{job} {index}" for job, index, _ in members) or "no members")
    )


def _address(value: Any, job: str) -> str:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if (
        not host
        or ":" in host
        or not port.isascii()
        or not port.isdecimal()
        or not 0 < int(port) < 2**16
    ):
        raise _malformed(f"cluster.{job} has {value!r}, which is not host:port")
    return str(value)


def _malformed(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"TF_CONFIG cannot be used: {what}.", where=WHERE, remedy=f"write it as in {EXAMPLE}"
    )


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    """By TensorFlow's readers of Slurm's lists.

    Its SlurmClusterResolver itself sorts the hosts by name, which puts node10 before node2, where
    Slurm has it after: tasks would then be looked for on each other's machines.
    """
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    def said(name: str) -> str:
        for key in (f"SLURM_STEP_{name}", f"SLURM_{name}"):
            if environ.get(key):
                return environ[key]
        raise _no_step(f"SLURM_STEP_{name} is not set")

    try:
        hosts = slurm.expand_hostlist(said("NODELIST"))
        counts = slurm.expand_tasks_per_node(said("TASKS_PER_NODE"))
        total, rank = int(said("NUM_TASKS")), int(environ["SLURM_PROCID"])
        job = int(environ.get("SLURM_JOB_ID", "0"))
    except ValueError as error:
        raise _no_step(str(error)) from error
    if len(hosts) != len(counts) or sum(counts) != total or not 0 <= rank < total:
        raise _no_step(
            f"{total} tasks, of which this is number {rank}, are not {counts} on {', '.join(hosts)}"
        )
    port = FIRST_PORT + job % PORTS
    places = [(host, i) for host, count in zip(hosts, counts, strict=True) for i in range(count)]
    members = [("worker", n, f"{host}:{port + i}") for n, (host, i) in enumerate(places)]
    return Cluster(tuple(members), rank, "Slurm")


def _no_step(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"Slurm's variables do not say who trains together: {what}.",
        where="SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, SLURM_STEP_NUM_TASKS, SLURM_PROCID",
        remedy="start mpt with srun, one task a worker, in blocks (srun's default distribution)",
    )


def own_gpus(environ: Mapping[str, str], cluster: Cluster) -> str | None:
    """CUDA_VISIBLE_DEVICES for this task, where several tasks of Slurm's see the same GPUs.

    None: what it sees is its own.
    """
    seen = [each for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    host = cluster.addresses[cluster.rank].rpartition(":")[0]
    there = sum(address.rpartition(":")[0] == host for address in cluster.addresses)
    apart = any(re.match(r"SLURM_(GPUS|TRES)_PER_TASK$", name) for name in environ)
    if cluster.source != "Slurm" or apart or there < 2 or len(seen) < there:
        return None
    place, share = int(environ.get("SLURM_LOCALID", "0")), len(seen) // there
    return ",".join(seen[place * share : (place + 1) * share])


def listening(cluster: Cluster) -> socket.socket:
    """A socket that listens on this member's port, which TensorFlow will take over.

    Raises:
        ConfigurationError: another process listens there, or it is no port of this machine.
    """
    host, _, port = cluster.addresses[cluster.rank].rpartition(":")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
            probe.listen()
        except OSError as error:
            busy = error.errno == errno.EADDRINUSE
            raise ConfigurationError(
                f"{cluster.name(cluster.rank)} cannot use its port {port}: "
                + (
                    "another process listens there."
                    if busy
                    else f"{os.strerror(error.errno or 0)}."
                ),
                where=f"{cluster.source}: {host}:{port}",
                remedy="name a free port, in every worker's environment alike"
                + ("" if cluster.source == WHERE else ": it follows the job's number"),
            ) from error
        return probe.dup()
