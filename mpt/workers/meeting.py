"""How the members of a training meet, and find out that they are of one training.

They meet on the ports by which TensorFlow will connect them later, so that whatever keeps them from
training together is found, and told to each, before it starts.
"""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from mpt import __version__
from mpt.errors import ConfigurationError
from mpt.workers.channel import Channel, Closed
from mpt.workers.cluster import Cluster, listening
from mpt.workers.team import Team

GREETING = "mpt"
GREETING_SECONDS = 10.0
RETRY_SECONDS = 0.1
STRANGER_SECONDS = 10.0
"""s for which somebody else may answer at a worker's address: an earlier run's, that is ending."""

TELLING_SECONDS = 3.0
"""s for each member that is yet to be told of a problem."""

MOST_SHOWN = 5
ABSENT = "nothing"


def assemble(cluster: Cluster, settings: Mapping[str, Any], seconds: float) -> Team:
    """Meet the other members.

    Args:
        settings: dotted keys and values that must be the same at all of them.
        seconds: how long to wait for those that are yet to come.

    Raises:
        ConfigurationError: one does not come, cannot be one of this training, or has other
            settings; its port is another process's. All who were there are told.
    """
    if len(cluster.members) == 1:
        listening(cluster).close()
        return Team(cluster)
    deadline = time.monotonic() + seconds
    own = {
        "mpt": GREETING,
        "version": __version__,
        "cluster": cluster.addresses,
        "rank": cluster.rank,
    }
    texts = {key: repr(value) for key, value in settings.items()}
    with closing(listening(cluster)) as door:
        if cluster.rank == 0:
            channels = _invite(cluster, own, texts, deadline)
        else:
            channels = {0: _wait(cluster, door, own, texts, deadline)}
    return Team(cluster, channels)


def _invite(
    cluster: Cluster, own: dict[str, Any], settings: dict[str, str], deadline: float
) -> dict[int, Channel]:
    """The chief's part: go to each member, compare, and tell all what came of it."""
    channels: dict[int, Channel] = {}
    problem: ConfigurationError | None = None
    for rank in range(1, len(cluster.members)):
        try:
            channels[rank], said = _reach(cluster, rank, own, deadline)
            problem = problem or _difference(cluster, rank, own, settings, said)
        except ConfigurationError as error:
            problem = problem or error
        if problem is not None:  # the others are told, if they are there
            deadline = min(deadline, time.monotonic() + TELLING_SECONDS)
    verdict = None if problem is None else [problem.message, problem.where, problem.remedy]
    for channel in channels.values():
        with suppress(Closed):
            channel.send(verdict)
    if problem is not None:
        for channel in channels.values():
            channel.close()
        raise problem
    return channels


def _reach(
    cluster: Cluster, rank: int, own: dict[str, Any], deadline: float
) -> tuple[Channel, dict[str, Any]]:
    """A connection with a member that is, or comes to be, at its address; and its greeting."""
    host, _, port = cluster.addresses[rank].rpartition(":")
    name, strangers_until, last = cluster.name(rank), None, "nobody listens there"
    while time.monotonic() < deadline:
        try:
            left = deadline - time.monotonic()
            connection = socket.create_connection((host, int(port)), timeout=max(0.1, left))
            connection.settimeout(None)
            with _unless_kept(Channel(connection)) as channel:
                channel.send(own)
                said = channel.greeting(min(GREETING_SECONDS, deadline - time.monotonic()))
                if not isinstance(said, dict) or said.get("mpt") != GREETING:
                    raise Closed("it is no worker of mpt's")
                return channel, said
        except OSError as error:
            last = (error.strerror or str(error)).lower()
        except Closed as error:
            last = f"what listens there is not a worker of this training ({error})"
            strangers_until = strangers_until or time.monotonic() + STRANGER_SECONDS
            if time.monotonic() > strangers_until:
                break
        time.sleep(RETRY_SECONDS)
    raise ConfigurationError(
        f"{name} did not come: {last}.",
        where=f"{cluster.source}: {cluster.addresses[rank]}",
        remedy="start it with the same command, and see what it says; workers that are slow to "
        "start need a longer device.worker_seconds",
    )


@contextmanager
def _unless_kept(channel: Channel) -> Iterator[Channel]:
    """`channel`, closed where the block ends by an error."""
    try:
        yield channel
    except BaseException:
        channel.close()
        raise


def _difference(
    cluster: Cluster,
    rank: int,
    own: dict[str, Any],
    settings: dict[str, str],
    said: dict[str, Any],
) -> ConfigurationError | None:
    """What a member is, or was told, otherwise than it should."""
    name = cluster.name(rank)
    for key, expected, what in (
        ("version", own["version"], "version of mpt"),
        ("cluster", own["cluster"], "list of workers"),
        ("rank", rank, "place among the workers"),
    ):
        if said.get(key) != expected:
            return ConfigurationError(
                f"{name} has another {what} than the chief has for it: {said.get(key)}, and not "
                f"{expected}.",
                where=cluster.source,
                remedy="give all workers the same list, and each its own place in it",
            )
    theirs = said.get("settings")
    theirs = theirs if isinstance(theirs, dict) else {}
    keys = [
        key
        for key in sorted({*settings, *theirs})
        if settings.get(key, ABSENT) != theirs.get(key, ABSENT)
    ]
    if not keys:
        return None
    shown = [
        f"{key} is {settings.get(key, ABSENT)} at the chief and {theirs.get(key, ABSENT)} there"
        for key in keys[:MOST_SHOWN]
    ]
    more = f", and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else ""
    return ConfigurationError(
        f"{name} has another configuration: {'; '.join(shown)}{more}.",
        where=", ".join(keys[:MOST_SHOWN]),
        remedy="give all workers the same command",
    )


def _wait(
    cluster: Cluster,
    door: socket.socket,
    own: dict[str, Any],
    settings: dict[str, str],
    deadline: float,
) -> Channel:
    """A member's part: wait for the chief, say who one is, and hear what came of it."""
    while time.monotonic() < deadline:
        door.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            connection, _ = door.accept()
        except TimeoutError:
            break
        try:
            with _unless_kept(Channel(connection)) as channel:
                said = channel.greeting(GREETING_SECONDS)
                if not isinstance(said, dict) or said.get("mpt") != GREETING:
                    raise Closed("it is not the chief")
                channel.send({**own, "settings": settings})
                verdict = channel.greeting(max(0.1, deadline - time.monotonic()))
                if verdict is not None:
                    message, where, remedy = verdict
                    raise ConfigurationError(message, where=where, remedy=remedy)
                return channel
        except Closed:  # a stranger, or a chief that begins again
            continue
    raise ConfigurationError(
        f"The chief did not come: {cluster.name(0)}.",
        where=f"{cluster.source}: {cluster.addresses[0]}",
        remedy="start it with the same command, and see what it says; workers that are slow to "
        "start need a longer device.worker_seconds",
    )
