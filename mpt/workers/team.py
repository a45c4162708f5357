"""The members of a training, as a run sees them: they meet, go in lock step, and may be lost.

The chief is connected with each other member; what one sends to all goes through it. Members meet
on the ports by which TensorFlow will connect them later, so that whatever keeps them from training
together is found, and told to each, before it starts.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from mpt import __version__
from mpt.errors import ConfigurationError
from mpt.workers.channel import GONE, LAST, VALUE, Channel, Closed
from mpt.workers.cluster import Cluster, listening

GREETING = "mpt"
GREETING_SECONDS = 10.0
RETRY_SECONDS = 0.1
STRANGER_SECONDS = 10.0
"""s for which somebody else may answer at a worker's address: an earlier run's, that is ending."""

MOST_SHOWN = 5
ABSENT = "nothing"


class WorkerLost(RuntimeError):
    """A member has gone, so that the others cannot go on."""


class Team:
    """The members that train together; of one alone, where there is no other.

    Attributes:
        rank: this process's place; 0 is the chief.
        size: how many there are.
    """

    def __init__(
        self, cluster: Cluster | None = None, channels: Mapping[int, Channel] | None = None
    ):
        self.cluster = cluster
        self.rank = 0 if cluster is None else cluster.rank
        self.size = 1 if cluster is None else len(cluster.members)
        self._channels = dict(channels or {})
        self._lost: str | None = None
        self._learned = threading.Event()
        self._acts: list[Callable[[str], None]] = []
        for rank, channel in self._channels.items():
            channel.start(lambda why, said, rank=rank: self._gone(rank, why, said))  # type: ignore[misc]

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def lost(self) -> str | None:
        """What became of a member that has gone; None: all are there."""
        return self._lost

    def exchange(self, value: Any) -> list[Any]:
        """Each member's `value`, in the order of their ranks. All must call it, in the same order.

        Args:
            value: as `mpt.packing.dumps` takes it.

        Raises:
            WorkerLost: a member has gone.
        """
        return self._exchange(value, VALUE)

    def _exchange(self, value: Any, kind: str) -> list[Any]:
        if self.size == 1:
            return [value]
        try:
            if not self.is_chief:
                self._channels[0].send(value, kind)
                return self._channels[0].next(self._check)
            values = [value, *(self._channels[r].next(self._check) for r in range(1, self.size))]
            for channel in self._channels.values():
                channel.send(values, kind)
            return values
        except Closed as error:
            raise self._loss(str(error)) from error

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each of `flags`, whether it is set at any member."""
        if self.size == 1:
            return flags
        return tuple(any(each) for each in zip(*self.exchange(list(flags)), strict=True))

    def same(self, what: str, value: Any, where: str) -> None:
        """Refuse to train where `value` is not the same at all members.

        Raises:
            ConfigurationError: it differs; at all of them.
        """
        values = self.exchange(value)
        others = [rank for rank, each in enumerate(values) if each != values[0]]
        if others:
            assert self.cluster is not None
            raise ConfigurationError(
                f"{what} differs: {self.cluster.name(others[0])} has another one than the chief.",
                where=where,
                remedy="give all workers the same",
            )

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Have `act` called with what became of a member that has gone; from another thread."""
        if self.size == 1:
            return
        self._acts.append(act)
        if self._lost is not None:
            act(self._lost)

    def learn(self, seconds: float) -> str | None:
        """Wait for news of a lost member, for an error that such a loss may have caused."""
        if self.size > 1:
            self._learned.wait(seconds)
        return self._lost

    def leave(self, why: str) -> None:
        """Tell the others that this member ends before they do, and why."""
        told = why
        if self.is_chief and self.cluster is not None:  # of whomever else it speaks by name
            told = self._lost or f"{self.cluster.name(0)} ended: {why}"
        for channel in self._channels.values():
            with suppress(Closed):
                channel.send(told, GONE)
        self._close()

    def part(self, value: Any = None) -> list[Any]:
        """End together, once all have come to this point.

        Returns:
            Each member's `value`, in the order of their ranks.

        Raises:
            WorkerLost: one has not.
        """
        values = self._exchange(value, LAST)
        self._close()
        return values

    def _close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _check(self) -> None:
        if self._lost is not None:
            raise WorkerLost(self._lost)

    def _loss(self, why: str) -> WorkerLost:
        # Who has gone is the reader's to say, and it may be about to.
        return WorkerLost(self.learn(2.0) or f"the connection between the workers broke: {why}")

    def _gone(self, rank: int, why: str, said: bool) -> None:
        """A member has gone; the chief tells the others, who know of nobody but it."""
        if self._lost is not None:
            return
        assert self.cluster is not None
        name = self.cluster.name(rank)
        if said and not self.is_chief:
            self._lost = why  # the chief's words, of whomever
        else:
            self._lost = f"{name} {'ended: ' + why if said else 'has gone: ' + why}"
        if self.is_chief:
            for other, channel in self._channels.items():
                if other != rank:
                    with suppress(Closed):
                        channel.send(self._lost, GONE)
        self._learned.set()
        for act in list(self._acts):
            act(self._lost)


ALONE = Team()
"""One process that trains alone."""


def assemble(cluster: Cluster, settings: Mapping[str, Any], seconds: float) -> Team:
    """Meet the other members.

    Args:
        settings: dotted keys and values, plain ones, that must be the same at all of them.
        seconds: how long to wait for those that are yet to come.

    Raises:
        ConfigurationError: one does not come, cannot be one of this training, or has other
            settings; its port is another process's. All who were there are told.
    """
    if len(cluster.members) == 1:
        listening(cluster).close()
        return Team(cluster)
    deadline = time.monotonic() + seconds
    own = {"mpt": GREETING, "version": __version__, "cluster": cluster.addresses}
    with closing(listening(cluster)) as door:
        if cluster.rank == 0:
            channels = _invite(cluster, own, dict(settings), deadline)
        else:
            channels = {0: _wait(cluster, door, own, dict(settings), deadline)}
    return Team(cluster, channels)


def _invite(
    cluster: Cluster, own: dict[str, Any], settings: dict[str, Any], deadline: float
) -> dict[int, Channel]:
    """The chief's part: go to each member, compare, and tell all what came of it."""
    channels: dict[int, Channel] = {}
    problem: ConfigurationError | None = None
    try:
        for rank in range(1, len(cluster.members)):
            channels[rank], said = _reach(cluster, rank, own, deadline)
            problem = problem or _difference(cluster, rank, settings, said["settings"])
    except ConfigurationError as error:
        problem = problem or error
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
            with _unless_kept(Channel(connection)) as channel:
                channel.send({**own, "rank": rank})
                said = channel.greeting(min(GREETING_SECONDS, deadline - time.monotonic()))
                if not isinstance(said, dict) or said.get("mpt") != GREETING:
                    raise Closed("it is no worker of mpt's")
                _check_greeting(cluster, rank, said, own)
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


def _check_greeting(cluster: Cluster, rank: int, said: dict[str, Any], own: dict[str, Any]) -> None:
    """Refuse a member with another version or cluster."""
    if said.get("problem"):
        raise ConfigurationError(str(said["problem"]), where=cluster.source)
    for key, what in (("version", "version of mpt"), ("cluster", "list of workers")):
        if said.get(key) != own[key]:
            raise ConfigurationError(
                f"{cluster.name(rank)} has another {what} than the chief: {said.get(key)}, and "
                f"not {own[key]}.",
                where=cluster.source,
                remedy="give all workers the same",
            )


def _difference(
    cluster: Cluster, rank: int, chief: dict[str, Any], worker: Any
) -> ConfigurationError | None:
    """What a member was told otherwise than the chief."""
    worker = worker if isinstance(worker, dict) else {}
    keys = [
        key
        for key in sorted({*chief, *worker})
        if repr(chief.get(key, ABSENT)) != repr(worker.get(key, ABSENT))
    ]
    if not keys:
        return None
    shown = [
        f"{key} is {chief.get(key, ABSENT)!r} at the chief and {worker.get(key, ABSENT)!r} there"
        for key in keys[:MOST_SHOWN]
    ]
    more = f", and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else ""
    return ConfigurationError(
        f"{cluster.name(rank)} has another configuration: {'; '.join(shown)}{more}.",
        where=", ".join(keys[:MOST_SHOWN]),
        remedy="give all workers the same command",
    )


def _wait(
    cluster: Cluster,
    door: socket.socket,
    own: dict[str, Any],
    settings: dict[str, Any],
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
                problem = _misled(cluster, said, own)
                channel.send({**own, "settings": settings, "problem": problem})
                if problem is not None:
                    raise ConfigurationError(problem, where=cluster.source)
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


def _misled(cluster: Cluster, said: dict[str, Any], own: dict[str, Any]) -> str | None:
    """Why this member is not whom the chief looks for; None: it is."""
    if said.get("rank") != cluster.rank:
        return (
            f"The chief looks for worker {said.get('rank')} at {cluster.addresses[cluster.rank]}, "
            f"where worker {cluster.rank} is: their {cluster.source} differ."
        )
    if said.get("cluster") != own["cluster"]:
        return f"The chief has another list of workers: {said.get('cluster')}."
    return None
