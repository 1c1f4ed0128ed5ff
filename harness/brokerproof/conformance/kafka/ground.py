"""Kafka's cases on a real cluster: every connection goes through Toxiproxy, every name is the case's own."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import Cluster
from brokerproof.brokers.kafka.config import node_ids
from brokerproof.conformance.case import Case
from brokerproof.conformance.kafka.connection import Connection
from brokerproof.conformance.kafka.scene import KafkaScene, Nodes, Versions
from brokerproof.conformance.link import SLICER, Link
from brokerproof.conformance.scene import Inconclusive, Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem, HarnessError

_GROUP, _SLICED_GROUP = "consumer", "sham"
_VENDOR_S = 60
#: The vendor's console producer, by major version.
_CONSOLE = {True: "org.apache.kafka.tools.ConsoleProducer", False: "kafka.tools.ConsoleProducer"}
_numbers = itertools.count()


def versions_of(connection: Connection) -> Versions:
    """What a node advertises: API key -> lowest and highest version."""
    answer = connection.ask("api_versions", 3, client_software_name="brokerproof", client_software_version="1")
    if answer.code != 0:
        raise EnvironmentProblem(f"asking for the versions that the broker serves: {answer.seen()}")
    return {k["api_key"]: (k["min_version"], k["max_version"]) for k in answer.need()["api_keys"]}


class ClusterNodes:
    """``scene.Nodes`` of containers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names = {i: n for n, i in node_ids(list(cluster.nodes)).items()}

    def stop(self, id: int) -> None:
        self._cluster.nodes[self._names[id]].pause()

    def resume(self, id: int) -> None:
        self._cluster.nodes[self._names[id]].unpause()

    def kill(self, id: int) -> None:
        self._cluster.nodes[self._names[id]].kill()

    def start(self, id: int) -> None:
        self._cluster.nodes[self._names[id]].start()

    def in_sync(self, topic: str, partition: int = 0) -> list[int]:
        seen: Any = self._cluster.observe([topic])["partitions"][topic][str(partition)]["isr"]
        by_name = {n: i for i, n in self._names.items()}
        return sorted(by_name[n] for n in seen)

    def healthy(self, timeout_s: float) -> None:
        self._cluster.wait_healthy(timeout_s)


class KafkaGround:
    """``scene.Ground`` and ``scene.Stage``. Made by ``on_cluster``."""

    product = "kafka"
    #: PLAIN is what ``brokers.kafka.config`` gives the listener that asks for authentication.
    mechanisms: Sequence[str] = ("PLAIN",)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.version = cluster.version
        ids = node_ids(list(cluster.nodes))
        self.addresses: Mapping[int, tuple[str, int]] = {ids[x.node]: x.address for x in cluster.links(_GROUP)}
        asking = list(cluster.links("sasl"))
        self.sasl: tuple[str, int] | None = asking[0].address if asking else None
        self._versions: Versions | None = None
        self._slicing = threading.Lock()
        self._slices = False

    # -- scene.Ground --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        """A scene whose names begin with its own; it deletes what it made when it is closed."""
        if self._versions is None:
            self._versions = self._ask_versions(log)
        made = KafkaScene(
            case, self._sliced() if condition == "slicer" else self, self._versions, variant=variant, condition=condition, product=self.product, version=self.version,
            name=f"bpc-{case.id.lower()}-{os.getpid()}-{next(_numbers)}".replace(".", "-"), log=log, scale=1.0, stop=stop,
        )  # fmt: skip
        try:
            yield made
        finally:
            made.close()

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, KafkaScene)
        return after(scene)

    def logs(self) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            self._cluster.save_logs(Path(folder))
            return {f.stem: f.read_text() for f in sorted(Path(folder).glob("*.log"))}

    def close(self) -> None:
        """The cluster is not ours; the links that were made to slice pass on what comes again."""
        with self._slicing:
            for link in self._cluster.links(_SLICED_GROUP) if self._slices else ():
                link.clear_toxics()
            self._slices = False

    # -- scene.Stage ---------------------------------------------------------------------------------------------------

    def nodes(self) -> Nodes:
        return ClusterNodes(self._cluster)

    def let_in(self, link: Link) -> None:
        """Nobody is asked who he is."""

    def vendor_writes(self, topic: str, keys: Sequence[str]) -> None:
        """In the first node's container, by its own listener for other nodes. Raises EnvironmentProblem."""
        node: Any = next(iter(self._cluster.nodes.values()))
        lines = "".join(f"{key}\\t{key}\\n" for key in keys)
        main = _CONSOLE[int(self.version.split(".")[0]) >= 4]
        command = (
            f"printf '{lines}' | java -Xmx256m -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' {main} "
            f"--bootstrap-server {node.name}:9092 --topic {topic} --property parse.key=true"
        )
        code, said = node.execute(["timeout", str(_VENDOR_S), "/bin/sh", "-c", command])
        if code:
            raise EnvironmentProblem(f"the vendor's console producer in {node.name}: exit {code}: {said[-400:]}")

    def bootstrap(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.addresses.values())

    # -- inside --------------------------------------------------------------------------------------------------------

    def _sliced(self) -> _Sliced:
        """The same cluster, by links that the first who asks makes slice."""
        links = self._cluster.links(_SLICED_GROUP)
        with self._slicing:
            if not self._slices:
                for link, stream in itertools.product(links, ("upstream", "downstream")):
                    link.add_toxic("slicer", stream, **SLICER)
                self._slices = True
        ids = node_ids(list(self._cluster.nodes))
        return _Sliced(self, {ids[link.node]: link.address for link in links})

    def _ask_versions(self, log: WireLog) -> Versions:
        address = next(iter(self.addresses.values()))
        link = Link(address, log=log, name="versions", deadline=time.monotonic() + 20)
        try:
            return versions_of(Connection(link, {}, 10.0))
        finally:
            link.close()


class _Sliced:
    """``scene.Stage`` by other addresses; it has no listener that asks for authentication."""

    def __init__(self, ground: KafkaGround, addresses: Mapping[int, tuple[str, int]]) -> None:
        self._ground, self.addresses, self.mechanisms = ground, addresses, ground.mechanisms
        self.sasl: tuple[str, int] | None = None

    def nodes(self) -> Nodes:
        return self._ground.nodes()

    def let_in(self, link: Link) -> None:
        """Nobody is asked who he is."""

    def vendor_writes(self, topic: str, keys: Sequence[str]) -> None:
        self._ground.vendor_writes(topic, keys)

    def bootstrap(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.addresses.values())


def after(scene: KafkaScene) -> str:
    """After a negative case: a connection from before, a second one, the topics, and a record that goes through one."""
    try:
        if scene.sibling is not None:
            told = scene.sibling.ask("metadata", topics=[])
            if scene.sibling.ended:
                return "the sibling connection was ended"
            if told.fields is None or told.code:
                return f"the sibling connection: {told.seen()}"
        second = scene.spared("after")
        if second.ask("api_versions", 0).code != 0:
            return "a second connection is not served"
        for topic in scene.topics:
            there = scene.partitions(topic.name)
            if len(there) != topic.partitions or any(p["error_code"] for p in there.values()):
                return f"topic {topic.name} is not as it was made"
        probe = scene.topic()
        probe.fill("after")
        if probe.values() != [b"after"]:
            return "a record did not go through a new topic"
    except (Inconclusive, HarnessError) as exc:
        return f"afterwards: {exc}"
    return ""


def on_cluster(cluster: Cluster) -> KafkaGround:
    return KafkaGround(cluster)
