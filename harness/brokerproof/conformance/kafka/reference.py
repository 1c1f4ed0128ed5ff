"""The reference peer as a ground for cases: a fresh small Kafka in this process for each of them."""

from __future__ import annotations

import contextlib
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from brokerproof.conformance.case import Case
from brokerproof.conformance.kafka.connection import Connection
from brokerproof.conformance.kafka.ground import after, versions_of
from brokerproof.conformance.kafka.peer.mutants import MUTANTS
from brokerproof.conformance.kafka.peer.server import Peer
from brokerproof.conformance.kafka.scene import KafkaScene, Nodes
from brokerproof.conformance.kafka.topics import produced
from brokerproof.conformance.link import Link
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import unknown
from brokerproof.waiting import wait_until
from brokerproof.wire.kafka import murmur, records

#: Seconds of ours for one of a broker's; more where it is times that are judged.
SCALE, TIMING_SCALE = 0.05, 0.2
#: Where half a second of a broker's has to be told.
_SCALES: Mapping[str, float] = {"K4.10": 0.5}
#: As what the reference peer serves the cases.
VERSION = "4.3.1"
_numbers = itertools.count()

__all__ = ["MUTANTS", "KafkaReference", "on_reference"]


class _Nodes:
    """``scene.Nodes`` of the peer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def stop(self, id: int) -> None:
        self._peer.becomes(id, "stopped")

    def resume(self, id: int) -> None:
        self._peer.becomes(id, "up")

    def kill(self, id: int) -> None:
        self._peer.becomes(id, "down")

    def start(self, id: int) -> None:
        self._peer.becomes(id, "up")

    def in_sync(self, topic: str, partition: int = 0) -> list[int]:
        return sorted(self._peer.cluster.topics[topic].partitions[partition].isr)

    def healthy(self, timeout_s: float) -> None:
        def so() -> bool:
            parts = [p for t in self._peer.cluster.topics.values() for p in t.partitions]
            return all(set(p.isr) == set(p.replicas) for p in parts)

        wait_until(so, 5, "the reference peer's replicas in sync", interval_s=0.01)


class _Stage:
    """``scene.Stage`` of one peer."""

    mechanisms: Sequence[str] = ("PLAIN",)

    def __init__(self, peer: Peer, log: WireLog) -> None:
        self._peer, self._log = peer, log
        self.addresses: Mapping[int, tuple[str, int]] = peer.addresses
        self.sasl: tuple[str, int] | None = peer.sasl

    def nodes(self) -> Nodes:
        return _Nodes(self._peer)

    def let_in(self, link: Link) -> None:
        """Nobody is asked who he is."""

    def vendor_writes(self, topic: str, keys: Sequence[str]) -> None:
        """By the rule that the vendor states."""
        link = Link(self.addresses[1], log=self._log, name="vendor", deadline=time.monotonic() + 20)
        connection = Connection(link, versions_of(Connection(link, {}, 5.0)), 5.0)
        found = self._peer.cluster.topics[topic]
        count = len(found.partitions)
        for key in keys:
            data = key.encode()
            other = self._peer.cluster.wrong("other-partitioner")
            index = zlib.crc32(data) % count if other else murmur.partition_of(data, count)
            batch = records.batch([records.Record(data, data, int(time.time() * 1000))])
            part = {"index": index, "records": batch}
            asked = [{"name": topic, "topic_id": found.id, "partition_data": [part]}]
            produced(connection.ask("produce", 9, acks=-1, timeout=5000, topic_data=asked))
        link.close()

    def bootstrap(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.addresses.values())


class KafkaReference:
    """``scene.Ground``. mutant: one of ``MUTANTS``, or none."""

    product = "kafka"
    version = VERSION

    def __init__(self, mutant: str = "") -> None:
        if mutant and mutant not in MUTANTS:
            raise unknown("mutant", mutant, MUTANTS)
        self.mutant = mutant

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        """A scene on a peer of its own, of one node or three, with the case's settings."""
        # Members of groups have sessions of 6 s; a busy machine is late by more than their share at the smaller scale.
        scale = _SCALES.get(case.id, TIMING_SCALE if case.timing or case.section == "K5" else SCALE)
        nodes = 3 if case.topology == "cluster" else 1
        with contextlib.closing(
            Peer(
                nodes=nodes, settings=case.settings_of(variant, "kafka", VERSION), scale=scale, mutant=self.mutant,
                slices=condition == "slicer",
            )
        ) as peer:  # fmt: skip
            stage = _Stage(peer, log)
            advertised = peer.advertised()
            made = KafkaScene(
                case, stage, advertised, variant=variant, condition=condition, product=self.product, version=self.version,
                name=f"ref-{next(_numbers)}", log=log, scale=scale, stop=stop,
            )  # fmt: skip
            try:
                yield made
            finally:
                made.close()

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, KafkaScene)
        return after(scene)

    def logs(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        """Each peer is closed with its scene."""


def on_reference(mutant: str = "") -> KafkaReference:
    return KafkaReference(mutant)
