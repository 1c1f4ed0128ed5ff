"""RocketMQ's cases on a real cluster: addresses through Toxiproxy, names of each case's own, removed afterwards."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence

from brokerproof.brokers.base import Cluster, both_ways
from brokerproof.brokers.rocketmq import routes
from brokerproof.brokers.rocketmq.access import Access
from brokerproof.brokers.rocketmq.cluster import SLICED, RocketmqCluster
from brokerproof.brokers.rocketmq.configuration import LAYOUTS
from brokerproof.conformance.case import Case
from brokerproof.conformance.link import SLICER
from brokerproof.conformance.rocketmq.after import unlike_before
from brokerproof.conformance.rocketmq.place import Address
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime.node import ContainerNode

#: So slow that the one page of a flush takes 16 s; ``syncFlushTimeout`` is 5 s.
_CRAWL_BYTES_S = 256
_HEALTHY_S = 180.0


class ClusterPlace:
    """``place.Place`` of a running cluster. group: by whose links its nodes are reached."""

    access: Access = None

    def __init__(self, cluster: RocketmqCluster, group: str = "admin") -> None:
        self._cluster, self._group = cluster, group
        self.brokers: Sequence[str] = cluster.brokers
        self.name_servers: Sequence[str] = cluster.name_servers
        self.broker_name = LAYOUTS[cluster.topology].sets[0][0]

    def address(self, node: str) -> Address:
        return self._cluster.link(self._group, node).address

    def proxy(self) -> Address:
        return self._cluster.gateway_address

    def master(self) -> str:
        return self._cluster.master

    def kill(self, node: str) -> None:
        self._cluster.nodes[node].kill()

    def stop(self, node: str) -> None:
        self._cluster.nodes[node].stop()

    def start(self, node: str) -> None:
        if self._cluster.nodes[node].state() != "running":
            self._cluster.nodes[node].start()

    def cut(self, left: Sequence[str], right: Sequence[str]) -> None:
        assert self._cluster.peers is not None
        self._cluster.peers.cut(both_ways(left, right))

    def heal(self) -> None:
        assert self._cluster.peers is not None
        self._cluster.peers.heal()

    def slow_disk(self, node: str) -> bool:
        disk = self._cluster.nodes[node].disk
        if disk is None:
            return False
        try:
            disk.throttle(_CRAWL_BYTES_S)
        except EnvironmentProblem:
            return False  # no control group of ours: the case says what it does instead
        return True

    def quick_disk(self, node: str) -> None:
        disk = self._cluster.nodes[node].disk
        if disk is not None:
            disk.throttle(0)

    def memory(self, node: str) -> float:
        found = self._cluster.nodes[node]
        assert isinstance(found, ContainerNode)
        return found.memory().own_mb

    def controller(self) -> Address:
        return self._cluster.controller_address

    def connected(self, one: str, other: str) -> bool:
        node, peer = self._cluster.nodes[one], self._cluster.nodes[other]
        assert isinstance(node, ContainerNode) and isinstance(peer, ContainerNode)
        _, table = node.execute(["cat", "/proc/net/tcp", "/proc/net/tcp6"])
        return any(host == peer.address for host, _ in routes.established(table))

    def registrations(self, name_server: str, broker: str, since: float) -> list[float]:
        return routes.beats(self._cluster, name_server, broker, since)

    def wait_healthy(self, timeout_s: float) -> None:
        self._cluster.wait_healthy(timeout_s)


class ClusterGround:
    """``scene.Ground`` of a running cluster."""

    product = "rocketmq"

    def __init__(self, cluster: RocketmqCluster) -> None:
        self.version = cluster.version
        self._cluster = cluster
        self._bystanders: dict[int, Remote] = {}
        self._slicing = threading.Lock()
        self._slices = False

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        name = f"{case.id.replace('.', '')}{variant[:8]}-{secrets.token_hex(3)}"
        place = self._sliced() if condition == "slicer" else ClusterPlace(self._cluster)
        scene = RocketmqScene(
            case, place=place, variant=variant, condition=condition, product=self.product,
            version=self.version, name=name, log=log, stop=stop,
        )  # fmt: skip
        if case.watched(condition):
            self._bystanders[id(scene)] = scene.spared("bystander")
        try:
            yield scene
        finally:
            self._bystanders.pop(id(scene), None)
            scene.close()
            if case.alone:
                self._mend()

    def _sliced(self) -> ClusterPlace:
        """The same cluster, by links that the first who asks makes slice: what the peer is sent. Its answers, of which one that
        lists a broker's configuration has 15,000 octets, would take 10 s that way."""
        with self._slicing:
            if not self._slices:
                for link in self._cluster.links(SLICED):
                    link.add_toxic("slicer", "upstream", **SLICER)
                self._slices = True
        return ClusterPlace(self._cluster, SLICED)

    def _mend(self) -> None:
        """After a case that broke something: everything runs, and everybody reaches everybody."""
        for node in self._cluster.nodes.values():
            if node.state() != "running":
                node.start()
        if self._cluster.peers is not None:
            self._cluster.peers.heal()
        self._cluster.wait_healthy(_HEALTHY_S)

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, RocketmqScene)
        return unlike_before(scene, self._bystanders.get(id(scene)))

    def close(self) -> None:
        """The cluster is the caller's; the links that were made to slice pass on what comes again."""
        with self._slicing:
            for link in self._cluster.links(SLICED) if self._slices else ():
                link.clear_toxics()
            self._slices = False


def on_cluster(cluster: Cluster) -> ClusterGround:
    assert isinstance(cluster, RocketmqCluster)
    return ClusterGround(cluster)
