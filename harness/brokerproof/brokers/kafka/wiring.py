"""Topic-partitions of a case, asked and used node by node: what a client library would hide."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from brokerproof.brokers.base import Json, Node
from brokerproof.brokers.kafka import ask
from brokerproof.brokers.kafka.probe import NotPassed, probe
from brokerproof.plan import Destination
from brokerproof.wire.kafka import records

#: Error codes of the protocol that are expected here; others are told by their number.
ERRORS = {0: "", 2: "CORRUPT_MESSAGE", 3: "UNKNOWN_TOPIC_OR_PARTITION", 6: "NOT_LEADER_OR_FOLLOWER"}
#: The version of Produce.
_PRODUCE = 7
_ASK_S = 8.0
_HEALTHY_S = 90.0
_RECORDS_MAX = 1 << 20


class Parts(Protocol):
    """What the wiring needs of its cluster."""

    nodes: Any

    def admin_address(self, node: str) -> ask.Address: ...
    def create(self, destination: Destination, name: str) -> None: ...
    def delete(self, destination: Destination, name: str) -> None: ...
    def leader(self, name: str, partition: int = 0) -> str: ...
    def replicas(self, name: str) -> Any: ...
    def observe(self, names: Any) -> Json: ...
    def endpoint(self, group: str, name: str | None = None) -> Json: ...
    def wait_healthy(self, timeout_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """error: its name, "" none.  octets: of record batches."""

    error: str
    octets: int


class KafkaWiring:
    """One topic of one partition for a case; deleted with it."""

    _numbers = itertools.count()

    def __init__(self, cluster: Parts) -> None:
        self._cluster = cluster
        self._name = f"bp-case-{os.getpid()}-{next(self._numbers)}"
        self._made: Destination | None = None

    def topic(self, *, copies: int) -> None:
        """With something in it: creating it ends with a message through it."""
        self._made = Destination(name="t", kind="log", settings={"replication.factor": str(copies)})
        self._cluster.create(self._made, self._name)

    def close(self) -> None:
        if self._made is not None:
            self._cluster.delete(self._made, self._name)

    @property
    def leader(self) -> str:
        return self._cluster.leader(self._name)

    @property
    def followers(self) -> list[str]:
        return [n for n in self._cluster.replicas(self._name) if n != self.leader]

    @property
    def in_sync(self) -> list[str]:
        """The in-sync replicas, by the newest view."""
        return list(self._cluster.observe([self._name])["partitions"][self._name]["0"]["isr"])

    def send(self) -> None:
        """One message with acks=all, and read back."""
        probe(self._cluster.endpoint("admin")["bootstrap"], self._name, [0], _ASK_S)

    def fetch(self, node: str, *, version: int, wait_ms: int = 500) -> Fetched:
        """What that node itself answers to a consumer's Fetch from the beginning."""
        with self._connected(node) as sock:
            sock.sendall(self._fetch_request(version, 0, wait_ms))
            return _fetched(sock, version)

    def produce(self, node: str) -> str:
        """What that node itself answers to a Produce: the error's name. The batch is well-formed but for its checksum, which a
        leader finds out, so that nothing is written."""
        with self._connected(node) as sock:
            part = {"index": 0, "records": records.batch([records.Record(b"x", None, 0)], crc=0)}
            topic = {"name": self._name, "partition_data": [part]}
            sock.sendall(ask.request("produce", _PRODUCE, acks=1, timeout=5000, topic_data=[topic]))
            answer = ask.answer_from(sock, "produce", _PRODUCE)
            return _error(answer["responses"][0]["partition_responses"][0]["error_code"])

    def unasked(self, seconds: float) -> int:
        """Octets that the leader sends by itself to a client that has connected and asked for its versions, while messages are
        sent to the topic."""
        with self._connected(self.leader) as sock:
            sock.sendall(ask.opening().greeting)
            ask.answer_from(sock, "api_versions", 0)
            until = time.monotonic() + seconds
            came = 0
            while time.monotonic() < until:
                self.send()
                came += _waiting(sock, 0.2)
            return came

    def answered_late(self, wait_ms: int, sent_after_s: float, *, asking: bool) -> tuple[int, int]:
        """(octets that came before anything was sent, octets after it), on a connection with a Fetch from the end of the log, which
        may wait ``wait_ms``; or, not asking, with none."""
        with self._connected(self.leader) as sock:
            if asking:
                end = self._end()
                sock.sendall(self._fetch_request(11, end, wait_ms))
            before = _waiting(sock, sent_after_s)
            self.send()
            return before, _waiting(sock, wait_ms / 1000)

    @contextlib.contextmanager
    def paused(self, node: str) -> Iterator[None]:
        stopped: Node = self._cluster.nodes[node]
        stopped.pause()
        try:
            yield
        finally:
            stopped.unpause()

    def healthy(self) -> None:
        self._cluster.wait_healthy(_HEALTHY_S)

    def watch(self, until: Callable[[list[str]], bool], timeout_s: float) -> float | None:
        """Seconds until the in-sync replicas are so, with a message sent each time it is looked; None: not within the time-out."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < timeout_s:
            with contextlib.suppress(NotPassed):  # while a node stands still, a message may not get through
                self.send()
            if until(self.in_sync):
                return round(passed, 1)
        return None

    # -- inside --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _connected(self, node: str) -> Iterator[socket.socket]:
        with socket.create_connection(self._cluster.admin_address(node), timeout=_ASK_S) as sock:
            yield sock

    def _fetch_request(self, version: int, offset: int, wait_ms: int) -> bytes:
        """Of a consumer: at least one octet, all that is committed, no fetch session."""
        part = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": _RECORDS_MAX}
        return ask.request(
            "fetch", version, max_wait=wait_ms, min_bytes=1, max_bytes=_RECORDS_MAX, isolation_level=1,
            topics=[{"topic": self._name, "partitions": [part]}],
        )  # fmt: skip

    def _end(self) -> int:
        with self._connected(self.leader) as sock:
            sock.sendall(self._fetch_request(11, 0, 500))
            return _read_fetch(sock, 11)[1]


def _fetched(sock: socket.socket, version: int) -> Fetched:
    error, _, octets = _read_fetch(sock, version)
    return Fetched(error, octets)


def _read_fetch(sock: socket.socket, version: int) -> tuple[str, int, int]:
    """(error, high watermark, octets of records) of the one partition."""
    answer = ask.answer_from(sock, "fetch", version)
    if answer["error_code"] or not answer["responses"]:
        return _error(answer["error_code"]) or "no topic in the answer", -1, 0
    only = answer["responses"][0]["partitions"][0]
    return _error(only["error_code"]), only["high_watermark"], len(only["records"] or b"")


def _error(code: int) -> str:
    return ERRORS.get(code, f"error {code}")


def _waiting(sock: socket.socket, seconds: float) -> int:
    """Octets that come within the time."""
    came, until = 0, time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            part = sock.recv(65536)
        except TimeoutError:
            break
        if not part:
            break
        came += len(part)
    return came
