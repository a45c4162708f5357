"""The members of a training, as a run sees them: they go in lock step, and may be lost.

The chief is connected with each other member; what one sends to all goes through it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mpt.errors import ConfigurationError
from mpt.workers.channel import GONE, LAST, VALUE, Channel, Closed
from mpt.workers.cluster import Cluster

LONGEST_SHOWN = 80
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
