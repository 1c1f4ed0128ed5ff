"""The vendor's client library as something to be measured: it never judges a broker."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from brokerproof.brokers.rocketmq import library
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_entities import Topic
from brokerproof.conformance.rocketmq.peer_proxy import ReferenceProxy
from brokerproof.conformance.rocketmq.peer_sockets import Timers
from brokerproof.conformance.rocketmq.place import Address


class ClientLibrary:
    """address: of the proxy that it talks to.  hold: waits until a moment on the monotonic clock."""

    def __init__(self, address: Callable[[], Address], hold: Callable[[float], None]) -> None:
        self._address, self._hold = address, hold

    def route_queries_apart(self, for_s: float) -> list[float]:
        """Seconds between the library's route queries of one topic, seen by a reference proxy for so long."""
        timers = Timers()
        broker = Broker("b1", "b1", scale=1, bug="", settings={}, timers=timers, idle_s=600)
        broker.topics["asked"] = Topic([[]])
        proxy = ReferenceProxy(broker, lambda: broker)
        producer = self._producer(("127.0.0.1", proxy.port), "asked")
        try:
            self._hold(time.monotonic() + for_s)
        finally:
            library.shut(producer)
            proxy.close()
            broker.server.stop()
            timers.stop()
        return [round(b - a, 1) for a, b in itertools.pairwise(proxy.asked_for_routes)]

    @contextlib.contextmanager
    def sending(self, topic: str) -> Iterator[None]:
        """A producer that sends to the topic all the while."""
        producer, over = self._producer(self._address(), topic), threading.Event()

        def send() -> None:
            while not over.wait(0.1):
                message = library.rocketmq.Message()
                message.topic, message.body = topic, b"m"
                with contextlib.suppress(Exception):  # the library raises whatever comes
                    producer.send(message)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)
            library.shut(producer)

    @staticmethod
    def _producer(address: Address, topic: str) -> Any:
        made = library.rocketmq.Producer(library.configuration({"grpc": list(address)}, 3), [topic])
        made.startup()
        return made
