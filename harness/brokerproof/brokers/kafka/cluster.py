"""A Kafka cluster: starts the nodes behind their links, knows who leads what, and when all is well again."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from brokerproof.brokers.base import LINK_GROUPS, Json, Link, Node, PeerLinks
from brokerproof.brokers.kafka import ask, config, places
from brokerproof.brokers.kafka.adopted import AdoptsKafka
from brokerproof.brokers.kafka.probe import NotPassed, append_time, probe
from brokerproof.brokers.kafka.settings import OWN_OF_TOPIC
from brokerproof.brokers.kafka.wiring import KafkaWiring
from brokerproof.errors import DeadlineError, EnvironmentProblem, HarnessError, ProvisionError
from brokerproof.plan import Destination
from brokerproof.runtime import images
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import NodeSpec
from brokerproof.runtime.seeking import seek
from brokerproof.waiting import wait_until
from brokerproof.where import Where

T = TypeVar("T")

TOPOLOGIES = {
    "cluster": "three nodes k1, k2, k3, each a broker and a controller; topics are led by nodes that are not the active controller",
    "single": "one node k1, broker and controller",
}
_NODES = {"cluster": ("k1", "k2", "k3"), "single": ("k1",)}
#: A topic of one partition per node that nothing but readiness and health use.
PROBE_TOPIC = "brokerproof-probe"
_READY_S = 120.0
_ASK_S = 1.5
_ADMIN_S = 20.0
_OWN_TIME_S = 3.0
_HEAP_MB = 384
_MEMORY_MB = 1024


class KafkaCluster:
    """``brokers.base.Cluster``. Made by ``KafkaBroker``."""

    product = "kafka"
    in_process = False
    keeps_consumed = True
    # A killed member's partitions are given away when its session is over, and the next one has joined.
    redelivery_s = 10.0

    def __init__(self, ground: Ground, *, version: str, topology: str, settings: Json) -> None:
        self.version, self.topology = version, topology
        self._ground = ground
        self._settings = dict(settings)
        self._names = _NODES[topology]
        self._ids = config.node_ids(self._names)
        self._by_id = {i: name for name, i in self._ids.items()}
        self.nodes: Mapping[str, Node] = ground.nodes
        self.peers: PeerLinks | None = ground.peers() if len(self._names) > 1 else None

    # -- addresses -----------------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """``{"bootstrap": ["host:port", …]}``: the group's links; the nodes tell no other address to who comes by them."""
        first = ""
        if name is not None:
            try:
                first = self.leader(name)
            except EnvironmentProblem:
                first = ""  # no leader at the moment: any node will tell when there is one
        links = sorted(self._ground.links_of(group), key=lambda link: link.node != first)
        return {"bootstrap": [f"{host}:{port}" for host, port in (link.address for link in links)]}

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        wanted = {str(k): str(v) for k, v in destination.settings.items() if k not in OWN_OF_TOPIC}
        copies = int(wanted.pop("replication.factor", min(3, len(self._names))))
        self._create(name, self._assignment(destination.partitions, copies), {"retention.ms": "-1", **wanted})
        wait_until(
            lambda: self._led_everywhere(name, destination.partitions), _ADMIN_S,
            f"topic {name!r} known to every node of {self._ground.name!r}", interval_s=0.05,
            retry_on=(EnvironmentProblem,),
        )  # fmt: skip
        # A partition whose min.insync.replicas is not reached yet refuses; a moment later it does not.
        self._passes(name, range(destination.partitions), _ADMIN_S)

    def delete(self, destination: Destination, name: str) -> None:
        with contextlib.suppress(KafkaException, TimeoutError):
            self._admin.delete_topics([name], operation_timeout=5, request_timeout=8)[name].result(timeout=10)

    def leader(self, name: str, partition: int = 0) -> str:
        """By the newest view: a node that was cut off still names the leader of before."""
        found = self._partition(name, partition)
        if found.leader not in self._by_id:
            raise EnvironmentProblem(f"partition {partition} of topic {name!r} has no leader at epoch {found.epoch}")
        return self._by_id[found.leader]

    def replicas(self, name: str) -> Sequence[str]:
        found = self._partition(name, 0)
        return self._named(sorted(found.replicas, key=lambda i: i != found.leader))

    # -- health --------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        doing = f"kafka cluster {self._ground.name!r} healthy"
        wait_until(lambda: self._unhealthy() == "", timeout_s, doing, interval_s=0.15, last_state=self._unhealthy)
        self._lead_off_controller(deadline)
        self._passes(PROBE_TOPIC, range(len(self._names)), max(2.0, deadline - time.monotonic()))

    def _lead_off_controller(self, deadline: float) -> None:
        """After faults leaders sit anywhere, the active controller too. Those of the trials' topics are led away from
        it again, so that isolating a leader never takes the controller away as well (design section 5)."""

        def on_controller() -> dict[str, dict[int, list[int]]]:
            active = self._ids.get(self.controller(), 0)
            newest = _newest(self._views(lambda address: ask.topics(address, _ASK_S)).values())
            found: dict[str, dict[int, list[int]]] = {}
            for name, partitions in newest.items():
                for index, p in partitions.items() if name[:2] != "__" and name != PROBE_TOPIC else ():
                    others = [i for i in p.replicas if i != active]
                    if p.leader == active and others:
                        found.setdefault(name, {})[index] = [*others, active]
            return found

        def moved() -> bool:
            wanted = on_controller()
            if wanted:
                ask.reassign(self._ground.link("admin", self._names[0]).address, _ADMIN_S, wanted)
                parts = [TopicPartition(name, index) for name, indexes in wanted.items() for index in indexes]
                # No request_timeout: 2.16.1 raises SystemError for it.
                self._admin.elect_leaders(ElectionType.PREFERRED, parts).result(timeout=12)
            return not wanted

        wait_until(
            moved, max(2.0, deadline - time.monotonic()), "leaders led away from the active controller",
            retry_on=(ask.NoAnswer, KafkaException, TimeoutError),
        )  # fmt: skip

    def _unhealthy(self) -> str:
        """What keeps the cluster from being healthy, in a sentence; "" when nothing does."""
        alive = self._views(lambda address: ask.brokers(address, _ASK_S))
        quorums = self._views(lambda address: ask.quorum(address, _ASK_S))
        views = self._views(lambda address: ask.topics(address, _ASK_S))
        for name in self._names:
            if name not in alive or name not in views or name not in quorums:
                return f"{name} does not answer"
            missing = set(self._by_id) - alive[name]
            if missing:
                return f"{name} does not see {', '.join(self._by_id[i] for i in sorted(missing))}"
        if len({q.leader for q in quorums.values()}) > 1:
            return f"the nodes disagree who the active controller is: {quorums}"
        for name, topics in views.items():
            if topics != views[self._names[0]]:
                return f"{name} and {self._names[0]} do not know the same partitions yet"
            for topic, partitions in topics.items():
                for index, p in partitions.items():
                    if p.leader not in self._by_id or set(p.isr) != set(p.replicas):
                        return f"{topic}-{index} has leader {p.leader} and in-sync replicas {p.isr} of {p.replicas}"
        return ""

    def sync(self) -> None:
        self._each(self._names, lambda name: self._ground.nodes[name].sync(config.DATA))

    def segments(self, node: str, name: str) -> Sequence[str]:
        """Segments are named by their first offset; the last is the one that is written to. Of all partitions: the node that
        leads one of them need not have a message of that one."""
        return (f"0/{name}-[0-9]*/*.log",)

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Json:
        """controller; per partition leader, epoch, isr, elr by the newest view, and every node that believes it leads;
        coordinators: leader of each partition of ``__consumer_offsets`` and ``__transaction_state``."""
        views = self._views(lambda address: ask.topics(address, _ASK_S))
        newest = _newest(views.values())

        def told(topic: str) -> Json:
            return {
                str(index): {
                    "leader": self._by_id.get(p.leader, ""), "epoch": p.epoch, "isr": self._named(p.isr),
                    "elr": self._named(p.elr),
                    "believes": [
                        n for n, v in views.items() if (own := v.get(topic, {}).get(index)) and own.leader == self._ids[n]
                    ],
                }
                for index, p in sorted(newest.get(topic, {}).items())
            }  # fmt: skip

        internal = ("__consumer_offsets", "__transaction_state", "__share_group_state")
        return {
            "controller": self.controller(),
            "answering": sorted(views),
            "partitions": {name: told(name) for name in names},
            "coordinators": {
                topic: {str(i): self._by_id.get(p.leader, "") for i, p in sorted(newest[topic].items())}
                for topic in internal
                if topic in newest
            },
        }

    def locate(
        self, lanes: Mapping[str, Destination], marks: Mapping[bytes, tuple[str, int]], deadline: float
    ) -> Mapping[str, Mapping[bytes, Where]]:
        """See ``brokers.base.Locates``."""
        folders = places.folders(lanes)

        def one(name: str) -> Mapping[bytes, Where]:
            node = self._ground.nodes[name]
            return seek(node, folders, marks, read=places.read, wanted=places.wanted, deadline=deadline)

        return dict(zip(self._names, self._each(self._names, one), strict=True))

    def admin_address(self, node: str) -> ask.Address:
        """Of the link that no fault breaks."""
        return self._ground.link("admin", node).address

    @contextlib.contextmanager
    def wiring(self) -> Iterator[KafkaWiring]:
        """See ``brokers.base.SupportsWiring``."""
        wiring = KafkaWiring(self)
        try:
            yield wiring
        finally:
            wiring.close()

    def controller(self) -> str:
        """The active controller by the highest epoch that a node tells, "" when none does."""
        seen = [q for q in self._views(lambda address: ask.quorum(address, _ASK_S)).values() if q.leader in self._by_id]
        return self._by_id[max(seen, key=lambda q: q.epoch).leader] if seen else ""

    def own_clock(self, node: str) -> tuple[float, float, str] | None:
        """See ``brokers.base.TellsTime``: the time that the node stamps on a message to a partition that it leads."""
        view = _newest(self._views(lambda address: ask.topics(address, _ASK_S, [PROBE_TOPIC])).values())
        led = [i for i, p in view.get(PROBE_TOPIC, {}).items() if p.leader == self._ids[node]]
        if not led:
            return None
        before = time.time()
        try:
            stamp = append_time(self.endpoint("admin")["bootstrap"], PROBE_TOPIC, led[0], _OWN_TIME_S)
        except NotPassed as exc:
            raise EnvironmentProblem(f"asking {node} of {self._ground.name!r} for its time: {exc}") from exc
        after = time.time()
        return stamp - (before + after) / 2, (after - before) / 2, "log append time"

    def settings(self) -> Json:
        features: dict[str, int] = {}
        for known in self._views(lambda address: ask.features(address, _ASK_S)).values():
            features = known
        return {
            "broker": config.changed(len(self._names), self._settings),
            "features": features,
            "eligible_leader_replicas": features.get("eligible.leader.replicas.version", 0) > 0,
            "jvm": f"-Xmx{_HEAP_MB}m, serial collector, first compiler only",
            "nodes": len(self._names),
        }

    def save_logs(self, folder: Path) -> None:
        self._ground.save_logs(folder)

    def close(self) -> None:
        self._ground.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def start_nodes(self, image: str, progress: Callable[[str], None], equipment: Sequence[str] = ()) -> None:
        """Launches the nodes side by side and waits until a message went through each of them."""

        def launch(name: str) -> None:
            advertised = {link.group: link.address for link in self._ground.links if link.node == name}
            props = config.properties(name, self._names, advertised, self._settings)
            self._ground.launch(
                NodeSpec(
                    name=name, image=image, entrypoint=["/bin/sh"], command=[config.START],
                    files=config.files(self.version, props, self._ground.name, _HEAP_MB), memory_mb=_MEMORY_MB,
                    data=(config.DATA,),
                )
            )  # fmt: skip

        begin = time.monotonic()
        self._each(self._names, launch)
        progress(f"kafka {self.version}: waiting for {len(self._names)} node(s)")
        wait_until(
            self._all_in, _READY_S, f"the nodes of kafka cluster {self._ground.name!r} to form a cluster",
            last_state=lambda: self._last_lines("k1"),
        )  # fmt: skip
        replicas = [self._rotated(i) for i in range(len(self._names))]
        # Stamped by the broker, a probe tells the broker's time of day.
        self._create(PROBE_TOPIC, replicas, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
        self._warm_coordinator()
        self.wait_healthy(_READY_S)
        progress(f"kafka {self.version}: ready after {time.monotonic() - begin:.1f} s")

    def _all_in(self) -> bool:
        for name in self._names:
            self._ground.nodes[name].ensure_running(f"starting kafka {self.version}")
        alive = self._views(lambda address: ask.brokers(address, _ASK_S))
        return len(alive) == len(self._names) and all(seen == set(self._by_id) for seen in alive.values())

    def _last_lines(self, name: str) -> str:
        return "\n".join(self._ground.nodes[name].logs(tail=10).splitlines())

    def _warm_coordinator(self) -> None:
        """Asking for a group makes ``__consumer_offsets``, so that no trial's first consumer pays for it."""
        address = self._ground.link("admin", self._names[0]).address
        wait_until(
            lambda: ask.coordinator(address, 3.0, "brokerproof") >= 0, _ADMIN_S, "a coordinator for consumer groups",
            retry_on=(ask.NoAnswer,),
        )  # fmt: skip

    def _rotated(self, first: int) -> list[int]:
        ids = list(self._ids.values())
        return ids[first % len(ids) :] + ids[: first % len(ids)]

    def _assignment(self, partitions: int, copies: int) -> list[list[int]]:
        """Replicas of each partition, its leader first. No leader is the active controller, so isolating a leader never
        takes the controller away as well; nor is it a follower (while there is a choice)."""
        if copies > len(self._names):
            raise HarnessError(
                f"replication.factor {copies} needs as many nodes; topology {self.topology!r} has {len(self._names)}"
            )
        active = self._ids.get(self.controller(), 0)
        leaders = [i for i in self._ids.values() if i != active] or list(self._ids.values())
        chosen = []
        for partition in range(partitions):
            leader = leaders[partition % len(leaders)]
            chosen.append(sorted(self._rotated(leader - 1), key=lambda i: i == active)[:copies])
        return chosen

    def _create(self, name: str, replicas: list[list[int]], settings: Mapping[str, str]) -> None:
        topic = NewTopic(name, num_partitions=len(replicas), replica_assignment=replicas, config=dict(settings))

        def created() -> bool:
            try:
                self._admin.create_topics([topic], operation_timeout=10, request_timeout=12)[name].result(timeout=15)
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return True  # by an earlier try whose answer did not come
                if error.code() in (KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION, KafkaError.INVALID_REQUEST):
                    raise EnvironmentProblem(f"creating topic {name!r} with {dict(settings)!r}: {error.str()}") from exc
                raise
            return True

        wait_until(created, 2 * _ADMIN_S, f"topic {name!r} created", retry_on=(KafkaException, TimeoutError))

    def _led_everywhere(self, name: str, partitions: int) -> bool:
        views = self._views(lambda address: ask.topics(address, _ASK_S, [name]))
        return len(views) == len(self._names) and all(
            len(view.get(name, {})) == partitions and all(p.leader in self._by_id for p in view[name].values())
            for view in views.values()
        )

    def _passes(self, topic: str, partitions: Iterable[int], timeout_s: float) -> None:
        try:
            probe(self.endpoint("admin")["bootstrap"], topic, list(partitions), timeout_s)
        except NotPassed as exc:
            raise DeadlineError(f"a message through topic {topic!r} of {self._ground.name!r} and back: {exc}") from exc

    def _partition(self, name: str, partition: int) -> ask.Partition:
        views = self._views(lambda address: ask.topics(address, _ASK_S, [name]))
        found = _newest(views.values()).get(name, {}).get(partition)
        if found is None:
            raise EnvironmentProblem(
                f"no node of {self._ground.name!r} knows partition {partition} of topic {name!r}; answering: {sorted(views)}"
            )
        return found

    def _views(self, look: Callable[[ask.Address], T]) -> dict[str, T]:
        """What each node answers, by name; nodes that do not answer are left out."""

        def one(name: str) -> T | None:
            try:
                return look(self._ground.link("admin", name).address)
            except ask.NoAnswer:
                return None

        return {
            name: seen for name, seen in zip(self._names, self._each(self._names, one), strict=True) if seen is not None
        }

    def _each(self, names: Sequence[str], do: Callable[[str], T]) -> list[T]:
        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(do, names))

    def _named(self, ids: Iterable[int]) -> list[str]:
        return [self._by_id.get(i, str(i)) for i in ids]

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(
            {"bootstrap.servers": ",".join(self.endpoint("admin")["bootstrap"]), "reconnect.backoff.ms": 50,
             "reconnect.backoff.max.ms": 500, "log_level": 0},
            logger=logging.getLogger("brokerproof.kafka"),
        )  # fmt: skip


def _newest(views: Iterable[Mapping[str, Mapping[int, ask.Partition]]]) -> dict[str, dict[int, ask.Partition]]:
    """Per partition what the view with the highest leader epoch says."""
    newest: dict[str, dict[int, ask.Partition]] = {}
    for view in views:
        for topic, partitions in view.items():
            known = newest.setdefault(topic, {})
            for index, p in partitions.items():
                if index not in known or p.epoch > known[index].epoch:
                    known[index] = p
    return newest


class KafkaBroker(AdoptsKafka):
    """``brokers.base.Broker``, ``brokers.base.Adopts``."""

    product = "kafka"
    versions = ("4.3.1", "3.9.2")
    topologies: Mapping[str, str] = TOPOLOGIES
    #: several_consumers_per_lane: share groups.
    capabilities = frozenset({"leader", "peers", "three_nodes", "dedup", "transactions", "several_consumers_per_lane"})
    #: Share groups are on by default since 4.2; in 4.0 and 4.1 they are a preview. Source: KIP-932.
    capability_versions: Mapping[str, str] = {"several_consumers_per_lane": "kafka>=4.2"}
    live_settings: frozenset[str] = frozenset()

    def start(self, *, version: str, topology: str, settings: Json, name: str, run: str,
              progress: Callable[[str], None], equipment: Sequence[str] = ()) -> KafkaCluster:  # fmt: skip
        image = images.ensure("kafka", version, progress).tag
        nodes = _NODES[topology]
        links = [LinkSpec(group, node, config.PORTS[group]) for group in LINK_GROUPS for node in nodes]
        if config.with_sasl(settings):
            links += [LinkSpec(config.SASL, node, config.SASL_PORT) for node in nodes]
        ground = Ground.open(name=name, run=run, nodes=nodes, links=links, opening=ask.opening(), equipment=equipment)
        try:
            cluster = KafkaCluster(ground, version=version, topology=topology, settings=settings)
            cluster.start_nodes(image, progress)
        except DeadlineError as exc:
            ground.close()
            raise ProvisionError(f"starting kafka {version} ({topology}): {exc}") from exc
        except BaseException:
            ground.close()
            raise
        return cluster

    def attach(self, *, version: str, topology: str, settings: Json, name: str, run: str) -> KafkaCluster:
        ground = Ground.attach(name=name, run=run, opening=ask.opening())
        return KafkaCluster(ground, version=version, topology=topology, settings=settings)


BROKER = KafkaBroker()
