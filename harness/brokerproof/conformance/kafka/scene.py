"""What the script of a Kafka case is handed: connections, fresh topics, groups and producers, configuration, nodes."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from brokerproof.conformance.case import CUT, Case, Line
from brokerproof.conformance.kafka.connection import Answer, Connection
from brokerproof.conformance.kafka.producers import Producer
from brokerproof.conformance.kafka.topics import Topic
from brokerproof.conformance.link import Link, OutOfTime
from brokerproof.conformance.scene import Inconclusive, Scene
from brokerproof.conformance.way import OURS, Way
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import DeadlineError, HarnessError
from brokerproof.waiting import wait_until
from brokerproof.wire.kafka import schema
from brokerproof.wire.kafka.schema import Fields

_UNDO_S = 100.0
Versions = Mapping[int, tuple[int, int]]
#: Resource types of DescribeConfigs.
TOPIC, BROKER, GROUP = 2, 4, 32
#: Key types of FindCoordinator.
OF_GROUP, OF_TRANSACTION, OF_SHARE = 0, 1, 2
#: A listener that asks for authentication; ``brokers.kafka.config`` opens it where the settings name it.
SASL_LISTENER: Mapping[str, str] = {
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.sasl.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_conformance="conformance";'
    ),
}
#: What is judged only from some version on, and recorded below.
RECORDED = Line("INFO", behaviour=("recorded",))
#: "Not yet": a coordinator or a topic that is being made, or what it did before is not complete.
LOADING, NO_COORDINATOR, NOT_COORDINATOR, CONCURRENT = 14, 15, 16, 51
NOT_YET = (3, 5, 6, LOADING, NO_COORDINATOR, NOT_COORDINATOR, 100)


class Nodes(Protocol):
    """The nodes of a cluster, by node id."""

    def stop(self, id: int) -> None:
        """Pauses it: it holds its connections and does nothing."""

    def resume(self, id: int) -> None: ...
    def kill(self, id: int) -> None: ...
    def start(self, id: int) -> None: ...
    def in_sync(self, topic: str, partition: int = 0) -> list[int]: ...
    def healthy(self, timeout_s: float) -> None: ...


class Stage(Protocol):
    """What a ground offers its scenes. addresses: by node id.  sasl: of a listener that asks for authentication; None: none."""

    addresses: Mapping[int, tuple[str, int]]
    sasl: tuple[str, int] | None
    mechanisms: Sequence[str]

    def nodes(self) -> Nodes: ...

    def let_in(self, link: Link) -> None:
        """Logs in on a fresh connection, where that is asked for."""

    def vendor_writes(self, topic: str, keys: Sequence[str]) -> None:
        """Records with these keys, by the vendor's own producer with its default partitioner."""

    def bootstrap(self) -> str:
        """For a client library."""


class KafkaScene(Scene):
    """patience_s: how long an answer that must come is waited for, in seconds of ours."""

    def __init__(
        self, case: Case, stage: Stage, versions: Versions, *, variant: str, condition: str, product: str, version: str,
        name: str, log: WireLog, scale: float, stop: Callable[[], bool], way: Way = OURS,
    ) -> None:  # fmt: skip
        if condition not in ("", "slicer", CUT):
            raise HarnessError(f"Kafka's cases have no condition {condition!r}")
        super().__init__(
            case, variant=variant, condition=condition, product=product, version=version, name=name, log=log, scale=scale,
            stop=stop, way=way,
        )  # fmt: skip
        self.stage, self.advertised = stage, versions
        self.patience_s = max(self.seconds(15), 3.0)
        self._numbers = itertools.count()
        self._connected: dict[int, Connection] = {}
        self.topics: list[Topic] = []
        self._groups: list[str] = []
        #: A connection that nothing forbidden is sent on; with several nodes it could be to one that is taken down.
        self.sibling: Connection | None = None
        if case.watched(condition) and case.topology == "single":
            self.sibling = self.spared("sibling")

    # -- connections ---------------------------------------------------------------------------------------------------

    def connect(self, node: int | None = None, *, address: tuple[str, int] | None = None) -> Connection:
        """A fresh one, to a node (the first) or any address; closed when the case ends. Where frames are cut short, what is sent by
        it is."""
        return self._dial(node, address, "", self.cut_short if self.condition == CUT else None)

    def spared(self, name: str, node: int | None = None) -> Connection:
        """A fresh one on which no frame is cut short."""
        return self._dial(node, None, name, None)

    def _dial(
        self, node: int | None, address: tuple[str, int] | None, name: str, cut: Callable[[bytes], bytes] | None
    ) -> Connection:
        where = address or self.stage.addresses[min(self.stage.addresses) if node is None else node]
        link = self.link(where, name or f"c{next(self._numbers)}")
        self.stage.let_in(link)
        made = Connection(link, self.advertised, self.patience_s, cut)
        self.finally_(made.close)
        return made

    def main(self, node: int | None = None) -> Connection:
        """One that is kept for the node; made anew when it was ended."""
        chosen = min(self.stage.addresses) if node is None else node
        kept = self._connected.get(chosen)
        if kept is None or kept.ended or kept.closed:
            kept = self._connected[chosen] = self.spared(f"n{chosen}", chosen)
        return kept

    def ask(self, api: str, version: int | None = None, *, node: int | None = None, **fields: Any) -> Answer:
        """Over the node's kept connection; once more over a new one where that turns out to have been ended."""
        answer = self.main(node).ask(api, version, **fields)
        if answer.fields is None and answer.ended:
            answer = self.main(node).ask(api, version, **fields)
        return answer

    def settled(self, ask: Callable[[], Answer], unless: Iterable[int] = NOT_YET) -> Answer:
        """Asks until the answer has none of these errors, which say "not yet"; the last one when time is over."""
        last: list[Answer] = []
        waiting = set(unless)

        def done() -> bool:
            last.append(ask())
            return last[-1].code not in waiting

        with contextlib.suppress(DeadlineError):
            wait_until(done, self.patience_s, "an answer that is not «not yet»", interval_s=0.02)
        return last[-1]

    def eventually(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it becomes so within so many seconds of the broker's."""
        try:
            wait_until(
                condition, max(self.seconds(seconds), 0.5), "a case's condition", interval_s=min(0.1, self.seconds(0.2))
            )
        except DeadlineError:
            return False
        return True

    def hold(self, seconds: float) -> None:
        """Lets so much of the broker's time go by."""
        until = time.monotonic() + self.seconds(seconds)
        wait_until(lambda: time.monotonic() >= until, self.seconds(seconds) + 1, "time to go by", interval_s=0.01)

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def undo(self, what: Callable[[], object]) -> None:
        """``finally_``, but what does not work does not change the verdict: the name is nobody else's."""

        def tried() -> None:
            try:
                what()
            except (HarnessError, Inconclusive, OutOfTime, OSError) as exc:
                self.log.note(f"not put back: {exc}")

        self.finally_(tried)

    def close(self) -> None:
        """Putting back has time of its own."""
        self.deadline = time.monotonic() + max(self.seconds(_UNDO_S), 3.0)
        self._connected.clear()
        super().close()

    # -- versions ------------------------------------------------------------------------------------------------------

    def serves(self, api: str, version: int) -> bool:
        """Whether the broker advertises it, and there is a schema."""
        key = schema.KEYS[api]
        low, high = self.advertised.get(key, (0, -1))
        ours = schema.versions(key)
        return low <= version <= high and ours[0] <= version <= ours[1]

    def served(self, api: str, least: int = 0, most: int = 99) -> list[int]:
        return [v for v in range(least, min(most, 99) + 1) if self.serves(api, v)]

    # -- topics --------------------------------------------------------------------------------------------------------

    def fresh(self, what: str) -> str:
        name = f"{self.name}-{what}{next(self._numbers)}"
        self.way.named(name)
        return name

    def topic(self, partitions: int = 1, *, copies: int = 1, assignment: Sequence[Sequence[int]] = (), name: str = "", **config: Any) -> Topic:  # fmt: skip
        """A fresh one that is led; deleted when the case ends. config: the vendor's words with ``_`` for ``.``.
        assignment: replicas of each partition, the leader first."""
        chosen = name or self.fresh("t")
        self.way.named(chosen)
        assigned = [{"partition_index": i, "broker_ids": list(ids)} for i, ids in enumerate(assignment)]
        fields: Fields = {
            "name": chosen, "num_partitions": -1 if assigned else partitions,
            "replication_factor": -1 if assigned else copies, "assignments": assigned,
            "configs": [{"name": k.replace("_", "."), "value": str(v)} for k, v in config.items()],
        }  # fmt: skip
        answer = self.settled(lambda: self.ask("create_topics", topics=[fields], timeout=10_000), unless=(7, 41))
        if answer.code not in (0, 36):  # 36: made by an earlier try whose answer did not come
            raise Inconclusive(f"topic {chosen} with {config}: {answer.seen()} {answer.fields}")
        self.undo(lambda: self.ask("delete_topics", topics=[{"name": chosen}], topic_names=[chosen], timeout=5000))
        count = len(assigned) or partitions
        found: list[uuid.UUID] = []

        def led() -> bool:
            for node in self.stage.addresses:
                told = self.partitions(chosen, node)
                if len(told) < count or any(p["leader_id"] < 0 or p["error_code"] for p in told.values()):
                    return False
            found.append(self._ids(chosen))
            return True

        wait_until(led, self.patience_s, f"topic {chosen!r} led", interval_s=0.02)
        made = Topic(self, chosen, found[-1], count)
        self.topics.append(made)
        for partition in range(count):
            self._ready(made, partition)
        return made

    def partitions(self, topic: str, node: int | None = None) -> dict[int, Fields]:
        """As a node tells them; empty where it knows no such topic."""
        answer = self.ask(
            "metadata", node=node, topics=[{"name": topic}], allow_auto_topic_creation=False
        ).need()  # fmt: skip
        found = answer["topics"][0]
        return {p["partition_index"]: p for p in found["partitions"]} if not found["error_code"] else {}

    def leading(self, topic: Topic, partition: int = 0) -> Connection:
        """To the partition's leader."""
        if len(self.stage.addresses) == 1:
            return self.main()
        return self.main(self.leader(topic.name, partition))

    def leader(self, topic: str, partition: int = 0) -> int:
        """Its node id, by the newest view that any node has."""
        found = [p[partition] for n in self.stage.addresses if partition in (p := self._told(topic, n))]
        if not found:
            raise Inconclusive(f"no node tells who leads {topic}-{partition}")
        return int(max(found, key=lambda p: p.get("leader_epoch", 0))["leader_id"])

    # -- groups, coordinators, configuration ---------------------------------------------------------------------------

    def group(self) -> str:
        """A fresh name; deleted when the case ends, if it was made."""
        name = self.fresh("g")
        self.undo(lambda: self.coordinator(name).ask("delete_groups", groups_names=[name]))
        return name

    def coordinator(self, key: str, kind: int = OF_GROUP) -> Connection:
        """To the node that coordinates it; its topic is made by the first who asks, so this may wait."""

        def find() -> Answer:
            return self.ask("find_coordinator", key=key, key_type=kind, coordinator_keys=[key])

        found = self.settled(find).need()
        one = (found.get("coordinators") or [found])[0]
        if one["error_code"] or one["node_id"] not in self.stage.addresses:
            raise Inconclusive(f"coordinator of {key!r}: error {one['error_code']}, node {one['node_id']}")
        return self.main(one["node_id"])

    def producer(self, transactional: bool = False, *, id: str = "", timeout_ms: int = 60_000) -> Producer:
        """A fresh one, with a producer id. id: an existing transactional one's."""
        chosen = id or (self.fresh("x") if transactional else None)
        made = Producer(self, chosen, timeout_ms)
        made.initialize()
        return made

    def config(self, name: str, kind: int = BROKER, resource: str = "") -> str:
        """The value that is in force, of a broker (the first node), a topic or a group; empty where it has none."""
        chosen = resource or str(min(self.stage.addresses))
        asked = {"resource_type": kind, "resource_name": chosen, "configuration_keys": [name]}
        found = self.ask("describe_configs", resources=[asked]).need()["results"][0]
        if found["error_code"]:
            raise Inconclusive(f"configuration {name} of {chosen}: error {found['error_code']}")
        return next((str(c["value"]) for c in found["configs"] if c["name"] == name), "")

    def configure(self, kind: int, resource: str, **values: Any) -> Answer:
        """Sets these, in the vendor's words with ``_`` for ``.``."""
        configs = [{"name": k.replace("_", "."), "config_operation": 0, "value": str(v)} for k, v in values.items()]
        asked = {"resource_type": kind, "resource_name": resource, "configs": configs}
        # A broker's own configuration is taken by that broker only.
        return self.ask("incremental_alter_configs", node=int(resource) if kind == BROKER else None, resources=[asked])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _told(self, topic: str, node: int) -> dict[int, Fields]:
        try:
            return self.partitions(topic, node)
        except Inconclusive:
            return {}

    def _ids(self, topic: str) -> uuid.UUID:
        found = self.ask("metadata", topics=[{"name": topic}], allow_auto_topic_creation=False).need()
        id = found["topics"][0].get("topic_id", schema.NO_ID)
        return id if isinstance(id, uuid.UUID) else schema.NO_ID

    def _ready(self, topic: Topic, partition: int) -> None:
        """A leader may have been named before it knows that it leads."""
        wait_until(
            lambda: topic.list_offsets(-1, partition)[1] == 0, self.patience_s,
            f"the leader of {topic.name}-{partition} leading", interval_s=0.02,
        )  # fmt: skip
