"""Messages between two processes, and the news that the other one has gone."""

import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mpt import packing

LENGTH_BYTES = 8
GREETING_BYTES = 2**20
"""The longest message of somebody who has not said who it is."""

ALIVE_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""s without a word, which is due every `ALIVE_SECONDS`, after which a peer is taken for gone."""

CLOSING_SECONDS = 0.5

VALUE, LAST, ALIVE, GONE = "value", "last", "alive", "gone"


class Closed(Exception):
    """The other process has closed the connection, or is not heard of; the message says which."""


class Channel:
    """A connection over which two processes take turns in sending values, and watch each other.

    Until `start`, `send` and `receive` work at once; after it a thread receives, and another one
    says that this process is alive.

    Args:
        connection: connected; the channel's from now on.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()
        self._values: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._silent_seconds = SILENT_SECONDS
        self._reader: threading.Thread | None = None

    def send(self, value: Any, kind: str = VALUE) -> None:
        """Send one message.

        Raises:
            Closed: nobody is there to take it.
        """
        message = packing.dumps([kind, value])
        try:
            with self._sending:
                self._connection.sendall(len(message).to_bytes(LENGTH_BYTES, "little") + message)
        except OSError as error:
            raise Closed(f"its connection is closed ({error.strerror or error})") from error

    def greeting(self, seconds: float) -> Any:
        """The first value of who may be anybody; before `start`.

        Raises:
            Closed: it says nothing in time, or nothing that is meant for us.
        """
        try:
            kind, value = self._message(GREETING_BYTES, time.monotonic() + seconds)
        except (OSError, ValueError, TypeError) as error:
            raise Closed(str(error)) from error
        if kind != VALUE:
            raise Closed("it does not say who it is")
        return value

    def start(self, gone: Callable[[str, Any], None]) -> None:
        """Receive in a thread from now on.

        Args:
            gone: called from it, once, where the other process has gone: why, and what it said of
                it itself, or None.
        """
        self._gone = gone
        self._reader = threading.Thread(target=self._receive, name="channel", daemon=True)
        self._reader.start()
        threading.Thread(target=self._stay_alive, name="heartbeat", daemon=True).start()

    def next(self, kind: str, lost: Callable[[], None]) -> Any:
        """The next value from the other side.

        Args:
            kind: VALUE, or LAST.
            lost: called while waiting; raises where there is nothing to wait for any more.

        Raises:
            Closed: it is of another kind: the two are not at the same point.
        """
        while True:
            with suppress(queue.Empty):
                found, value = self._values.get(timeout=0.2)
                if found != kind:
                    raise Closed("it ended where others went on")
                return value
            lost()

    def be_patient(self, seconds: float | None) -> None:
        """Allow the other side that many seconds of silence; None: the usual ones."""
        self._silent_seconds = SILENT_SECONDS if seconds is None else seconds

    def close(self) -> None:
        """Have no further part in it."""
        self._ending.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        if self._reader is not None:  # to close with words unread would take back our own last ones
            self._reader.join(CLOSING_SECONDS)
        self._connection.close()

    def _receive(self) -> None:
        try:
            while True:
                kind, value = self._message()
                if kind in (VALUE, LAST):
                    self._values.put((kind, value))
                if kind == LAST:  # that it closes the connection then is no news
                    return
                if kind == GONE:
                    self._tell("it said so", value)
                    return
        except (OSError, ValueError, TypeError) as error:
            self._tell(str(error), None)

    def _tell(self, why: str, said: Any) -> None:
        if not self._ending.is_set():
            self._gone(why, said)

    def _stay_alive(self) -> None:
        while not self._ending.wait(ALIVE_SECONDS):
            try:
                self.send(None, ALIVE)
            except Closed:
                return

    def _message(self, longest: int = 2**40, deadline: float | None = None) -> tuple[str, Any]:
        length = int.from_bytes(self._exactly(LENGTH_BYTES, deadline), "little")
        if length > longest:
            raise ValueError("what it says is no message of mpt")
        kind, value = packing.loads(self._exactly(length, deadline))
        return kind, value

    def _exactly(self, count: int, deadline: float | None) -> bytes:
        """So many bytes, before `deadline`; without one, as long as something comes now and then.

        The socket stays a blocking one: a limit on it would be one on sending, too.
        """
        received = bytearray()
        silent, last = 0.0, time.monotonic()
        while len(received) < count:
            now = time.monotonic()
            wait = ALIVE_SECONDS if deadline is None else deadline - now
            if wait <= 0:
                raise TimeoutError("it does not say enough in time")
            if select.select([self._connection], [], [], wait)[0]:
                some = self._connection.recv(min(count - len(received), 2**20))
                if not some:
                    raise ConnectionError("its connection was closed")
                received += some
                silent, last = 0.0, time.monotonic()
            elif deadline is None:
                now = time.monotonic()
                # Time in which this process itself was stopped says nothing of the other one.
                silent, last = silent + min(now - last, 2 * ALIVE_SECONDS), now
                if silent >= self._silent_seconds:
                    raise TimeoutError(f"nothing was heard of it for {silent:.0f} s")
        return bytes(received)
