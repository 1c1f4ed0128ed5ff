"""One client's connection: opened, lost and replaced for as long as the client lives.

    down --connect--> opening --channel open, set up--> ready --lost--> down

The owner drives it: ``poll`` runs pika's loop for a moment, and everything else happens in between. A connection has
one channel; what closes the channel costs the connection too, so that "reconnected" means one thing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from brokerproof.brokers.rabbitmq.access import parameters
from brokerproof.brokers.rabbitmq.outcomes import classify
from brokerproof.errors import PlanError

# pika says at level ERROR what the history records as outcomes.
logging.getLogger("pika").setLevel(logging.CRITICAL)

#: A client tries the addresses from the one of that index on.
_VIA = ("leader", "others")
_RETRY_S = 0.2
_SOCKET_S, _STACK_S = 2.0, 3.0
_CLOSE_S = 3.0
_FLUSH_S = 0.2


class _Connection(pika.SelectConnection):  # type: ignore[misc]  # pika has no types
    """Hands frames to the socket in one piece. pika alone makes a system call for each of a message's three frames,
    which costs more than everything else that a sender does, and keeps the proxy and the broker as busy. The bytes are
    the same."""

    _held: list[bytes] | None = None

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        """Holds back what is written until the block ends, then writes it at once."""
        self._held = []
        try:
            yield
        finally:
            joined, self._held = b"".join(self._held), None
            if joined and not self.is_closed:
                self._adapter_emit_data(joined)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # An attempt that was broken off is reported by its class, not by an instance, which pika's own assertion then
        # takes for a success (1.4.4, connection_workflow.py, ``_on_connector_done``).
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        self.bytes_sent += sum(map(len, marshaled_frames))
        self.frames_sent += len(marshaled_frames)
        if self._held is not None:
            self._held += marshaled_frames
        else:
            self._adapter_emit_data(b"".join(marshaled_frames))


class Session:
    """set_up: called with every new channel; calls ``ready`` when the client may begin.
    lost: called with the error class when a connection that was opened ends.
    via: which node is tried first: the one that leads the destination, or one of the ``others``.
    """

    def __init__(
        self, endpoint: Any, *, name: str, set_up: Callable[[Channel], None], lost: Callable[[str], None],
        via: str = "leader",
    ) -> None:  # fmt: skip
        if via not in _VIA:
            raise PlanError(f"client {name!r}: via {via!r}; a client is connected via one of {', '.join(_VIA)}")
        first = _VIA.index(via)
        addresses = [(str(host), int(port)) for host, port in endpoint["addresses"]]
        self.addresses = addresses[first:] + addresses[:first]
        self._endpoint, self._name = endpoint, name
        self._set_up, self._lost = set_up, lost
        self._loop = IOLoop()
        self._loop.activate_poller()
        self._connection: _Connection | None = None
        self._channel: Channel | None = None
        self._is_ready = False
        self._closing = False
        self._left = False
        self._retry_at = 0.0
        self._attempts = 0
        self.connections = 0
        self.blocked = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[Session]:
        try:
            yield self
        finally:
            self.close()

    # -- for the owner -------------------------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel:
        assert self._channel is not None
        return self._channel

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def ready(self) -> None:
        """Says that the channel is set up."""
        self._is_ready = True

    def poll(self, wait_s: float) -> None:
        """Reads, writes and calls back; returns after the first event, or after ``wait_s``."""
        if self._connection is None and not self._left and time.monotonic() >= self._retry_at:
            self._connect()
        wake = self._loop.call_later(wait_s, _nothing)
        self._loop.poll()
        self._loop.process_timeouts()
        self._loop.remove_timeout(wake)

    def corked(self) -> contextlib.AbstractContextManager[None]:
        """What is published in the block goes out in one piece at its end."""
        return self._connection.corked() if self._connection is not None else contextlib.nullcontext()

    def unwritten(self) -> int:
        """Bytes that were handed over and are not in the socket yet. The same question pika's blocking adapter asks."""
        connection = self._connection
        return connection._get_write_buffer_size() if connection is not None and self._is_ready else 0

    def flush(self) -> None:
        """Until what was written has left this process: a kill right after it must not undo it. Gives up after a moment
        when the link takes nothing."""
        until = time.monotonic() + _FLUSH_S
        while self.unwritten() and time.monotonic() < until:
            self.poll(0.0)

    def drop(self, error: str) -> None:
        """Gives the connection up as lost; another will be opened."""
        self._end(error)
        self._hang_up()

    def leave(self, what: str) -> None:
        """Ends the "channel" or the "connection" for good, as an application does that wants no more of it. Of a channel
        alone the connection stays open."""
        self._left, self._is_ready = True, False
        channel, self._channel = self._channel, None
        if what == "connection":
            self._hang_up()
        elif channel is not None:
            channel.close()

    def close(self) -> None:
        """Ends in an orderly way: what was written before has been read by the broker when this returns in time."""
        self._closing, self._is_ready = True, False
        self._hang_up()
        deadline = time.monotonic() + _CLOSE_S
        while self._connection is not None and time.monotonic() < deadline:
            self.poll(0.05)
        self._loop.deactivate_poller()
        self._loop.close()

    # -- pika's callbacks ----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        host, port = self.addresses[self._attempts % len(self.addresses)]
        self._attempts += 1
        e = self._endpoint
        wanted = parameters(
            e, host, port,
            heartbeat=e["heartbeat_s"], socket_timeout=_SOCKET_S, stack_timeout=_STACK_S, connection_attempts=1,
            client_properties={"connection_name": self._name},
        )  # fmt: skip
        self._connection = _Connection(
            wanted, on_open_callback=self._opened, on_open_error_callback=self._not_opened,
            on_close_callback=self._closed, custom_ioloop=self._loop,
        )  # fmt: skip

    def _opened(self, connection: Any) -> None:
        if self._closing:
            return
        connection.add_on_connection_blocked_callback(self._is_blocked)
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        # The next failure begins again with the first address, the leader's when the client was started.
        self._attempts = 0
        self._channel = channel
        self.connections += 1
        channel.add_on_close_callback(self._channel_closed)
        self._set_up(channel)

    def _channel_closed(self, channel: Channel, reason: BaseException) -> None:
        if channel is not self._channel:
            return
        self._end(classify(reason))
        self._hang_up()

    def _closed(self, connection: Any, reason: BaseException) -> None:
        self._end(classify(reason))
        self._connection = None
        self._retry_at = time.monotonic() + _RETRY_S

    def _not_opened(self, connection: Any, reason: BaseException) -> None:
        self._connection = None
        self._retry_at = time.monotonic() + _RETRY_S

    def _is_blocked(self, connection: Any, frame: Any) -> None:
        self.blocked += 1

    def _hang_up(self) -> None:
        connection = self._connection
        if connection is not None and not (connection.is_closing or connection.is_closed):
            connection.close()

    def _end(self, error: str) -> None:
        """Tells the owner once per connection."""
        if self._channel is not None:
            self._channel, self._is_ready = None, False
            self._lost(error)


def _nothing() -> None:
    pass
