"""Who begins when a message comes to a consumer: looked at on the wire, between a client and the gRPC proxy.

client --tap--> proxy link          the tap passes everything on, and keeps what came back from the proxy
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.cluster import RocketmqCluster
from brokerproof.brokers.rocketmq.gateway import Gateway
from brokerproof.errors import DeadlineError
from brokerproof.plan import Destination
from brokerproof.waiting import wait_until


class Tap:
    """A relay on the loopback interface. ``came``: all octets that the server has sent so far."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._came = bytearray()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listening.getsockname()
        return str(host), int(port)

    @property
    def came(self) -> bytes:
        return bytes(self._came)

    def close(self) -> None:
        for one in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server, 5)
                server.settimeout(None)
                self._open += [client, server]
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, kept: bool) -> None:
        with contextlib.suppress(OSError):  # either end is gone
            while data := source.recv(1 << 16):
                if kept:
                    self._came += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def comes(cluster: RocketmqCluster, *, asked: bool, within_s: float) -> float | None:
    """Seconds until the octets of a message that was just stored came to a consumer that the proxy knows of, and that has
    asked for messages, or has not; None: they did not come in that time."""
    destination = Destination(name="pull", kind="queue", settings={"message.type": "NORMAL", "queues": 1})
    topic, body = f"brokerproof-pull-{time.monotonic_ns():x}", uuid.uuid4().hex.encode()
    cluster.create(destination, topic)
    group = f"{topic}-g"
    for broker in cluster.brokers:
        with cluster.talk(broker) as to:
            remoting.create_group(to, group, orderly=False)
    try:
        with _tapped(cluster) as (tap, consumer), ThreadPoolExecutor(1) as asking:
            consumer.introduce(topic, group)
            consumer.receive(topic, group, cluster.master)  # what was there before, and what a first request sets up
            if asked:
                asking.submit(_ask, consumer, topic, group, cluster.master)
            with Gateway(cluster.gateway_address) as producer:
                producer.send(topic, body, "NORMAL")
            start = time.monotonic()
            try:
                wait_until(lambda: body in tap.came, within_s, "the message on the wire", interval_s=0.02)
            except DeadlineError:
                return None
            return round(time.monotonic() - start, 3)
    finally:
        cluster.delete(destination, topic)


def _ask(consumer: Gateway, topic: str, group: str, broker: str) -> None:
    """Again and again, for some seconds: each request waits at the broker for a second."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until and not consumer.receive(topic, group, broker):
        pass


@contextlib.contextmanager
def _tapped(cluster: RocketmqCluster) -> Iterator[tuple[Tap, Gateway]]:
    tap = Tap(cluster.gateway_address)
    try:
        with Gateway(tap.address) as consumer:
            yield tap, consumer
    finally:
        tap.close()
