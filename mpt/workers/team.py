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

TELLING_SECONDS = 3.0
"""s for each member that is yet to be told of a problem."""

MOST_SHOWN = 5
LONGEST_SHOWN = 80
ABSENT = "nothing"
LONGEST_REASON = 500


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
        self._refusal: dict[str, Any] | None = None
        self._watched = True
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
            ConfigurationError: one has, for its configuration or input.
        """
        return self._exchange(value, VALUE)

    def _exchange(self, value: Any, kind: str) -> list[Any]:
        if self.size == 1:
            return [value]
        try:
            if not self.is_chief:
                self._channels[0].send(value, kind)
                return self._channels[0].next(kind, self._check)
            others = [self._channels[rank] for rank in range(1, self.size)]
            values = [value, *(channel.next(kind, self._check) for channel in others)]
            for channel in self._channels.values():
                channel.send(values, kind)
            return values
        except Closed as error:
            # Who has gone is the reader's to say, and it may be about to.
            self.learn(2.0)
            self._check()
            text = f"the connection between the workers broke: {error}"
            raise WorkerLost(text) from error

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
            name, shown = self.cluster.name(others[0]), [repr(values[i]) for i in (0, others[0])]
            short = max(map(len, shown)) <= LONGEST_SHOWN
            words = (
                f"{shown[1]}, and {shown[0]} at the chief" if short else "another than the chief"
            )
            raise ConfigurationError(
                f"{what} differs: {name} has {words}.",
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

    @property
    def watched(self) -> bool:
        """Whether a loss ends this member, too."""
        return self._watched

    def unwatch(self) -> None:
        """From here on each ends by itself: that another one has gone is no matter any more."""
        self._watched = False

    @contextmanager
    def connecting(self, seconds: float) -> Iterator[None]:
        """All begin the block at the same time, and may be deaf and dumb in it for some.

        TensorFlow holds the interpreter while it connects, and while it sets up GPUs.
        """
        self.exchange("ready")
        for channel in self._channels.values():
            channel.be_patient(seconds)
        yield
        self.exchange("connected")
        for channel in self._channels.values():
            channel.be_patient(None)

    def learn(self, seconds: float) -> str | None:
        """Wait for news of a lost member, for an error that such a loss may have caused."""
        if self.size > 1:
            self._learned.wait(seconds)
        return self._lost

    def leave(self, why: str | ConfigurationError) -> None:
        """Tell the others that this member ends before they do, and why."""
        refusal = None
        if isinstance(why, ConfigurationError):
            refusal = {"where": why.where, "remedy": why.remedy}
            why = why.message
        told = next(iter(why.strip().splitlines()), "")[:LONGEST_REASON]
        if self.is_chief and self.cluster is not None:  # of whomever else it speaks by name
            told = self._lost or f"{self.cluster.name(0)} ended: {told}"
        for channel in self._channels.values():
            with suppress(Closed):
                channel.send({"why": told, "refusal": refusal}, GONE)
        self._close()

    def part(self, value: Any = None) -> list[Any]:
        """End together, once all have come to this point.

        Returns:
            Each member's `value`, in the order of their ranks.

        Raises:
            WorkerLost: the chief has not. It does not need the others to have.
        """
        try:
            return self._exchange(value, LAST)
        except (WorkerLost, ConfigurationError):
            if not self.is_chief:
                raise
            return [value]
        finally:
            self._close()

    def _close(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _check(self) -> None:
        if self._lost is not None:
            raise self.loss() or WorkerLost(self._lost)

    def loss(self) -> WorkerLost | ConfigurationError | None:
        """The error that a member's going is; None: all are there."""
        if self._lost is None:
            return None
        if self._refusal is None:
            return WorkerLost(self._lost)
        return ConfigurationError(self._lost, **self._refusal)

    def _gone(self, rank: int, why: str, said: Any) -> None:
        """A member has gone; the chief tells the others, who know of nobody but it."""
        if self._lost is not None:
            return
        assert self.cluster is not None
        name = self.cluster.name(rank)
        text, self._refusal = _words(said)
        if text is None:
            self._lost = f"{name} has gone: {why}"
        else:  # the chief's words are of whomever
            self._lost = f"{name} ended: {text}" if self.is_chief else text
        if self.is_chief:
            told = {"why": self._lost, "refusal": self._refusal}
            for other, channel in self._channels.items():
                if other != rank:
                    with suppress(Closed):
                        channel.send(told, GONE)
        self._learned.set()
        for act in list(self._acts) if self._watched else ():
            act(self._lost)


def _words(said: Any) -> tuple[str | None, dict[str, Any] | None]:
    """What a member said of its end: why, and where and remedy of what was refused."""
    if not isinstance(said, dict) or not isinstance(said.get("why"), str):
        return None, None
    refusal = said.get("refusal")
    if not isinstance(refusal, dict):
        return said["why"], None
    kept = {key: refusal.get(key) for key in ("where", "remedy")}
    return said["why"], {k: v if isinstance(v, str) else None for k, v in kept.items()}


ALONE = Team()
"""One process that trains alone."""


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
