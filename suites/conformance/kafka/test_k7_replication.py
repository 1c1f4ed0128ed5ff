"""K7: replication: acknowledged records over leader kills, the high watermark, how long replicas stay in sync."""

from __future__ import annotations

import time

from brokerproof.conformance.case import case, must
from brokerproof.conformance.kafka.connection import Connection
from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.kafka.topics import READ_COMMITTED, READ_UNCOMMITTED, Fetched, Topic
from brokerproof.conformance.scene import Inconclusive
from brokerproof.errors import EnvironmentProblem
from brokerproof.wire.kafka.records import Record

_KILLS = 10


def _led_by(scene: KafkaScene, topic: Topic, not_by: int) -> int:
    """The leader, when it is another than that node. Raises Inconclusive."""
    found: list[int] = []
    others = [i for i in scene.stage.addresses if i != not_by]

    def so() -> bool:
        for node in others:
            try:
                told = scene.partitions(topic.name, node)
            except (Inconclusive, EnvironmentProblem):
                continue
            if told and told[0]["leader_id"] not in (not_by, -1):
                found.append(told[0]["leader_id"])
                return True
        return False

    if not scene.eventually(so, 40):
        scene.inconclusive("no new leader within 40 s")
    return found[-1]


@case(
    "K7.01", "kafka/acks-all-leader-kill",
    requirement="With three replicas, min.insync.replicas=2 and unclean election off, every record that was acknowledged with "
    "acks=−1 is there after the leader was killed ten times under load.",
    reference="replication documents", level="MUST", topology="cluster", tags=("cluster", "destructive", "slow"), limit_s=600,
    accepts={"": must("every acknowledged record")}, records=("acknowledged",),
)  # fmt: skip
def test_acks_all_leader_kill(scene: KafkaScene) -> None:
    ids = sorted(scene.stage.addresses)
    topic = scene.topic(assignment=[ids], min_insync_replicas=2, unclean_leader_election_enable="false")
    nodes = scene.stage.nodes()
    acknowledged: list[bytes] = []
    leader = scene.leader(topic.name)
    for round_ in range(_KILLS):
        connection = scene.connect(leader)
        for i in range(30):
            _one(scene, connection, topic, f"{round_}-{i}", acknowledged)
        # In flight while it dies: what is answered is acknowledged, the rest is open.
        for i in range(30, 40):
            connection.send("produce", **topic.produce_fields(_batch(scene, f"{round_}-{i}")))
        nodes.kill(leader)
        for i in range(30, 40):
            if _code(connection) == 0:
                acknowledged.append(f"{round_}-{i}".encode())
        dead, leader = leader, _led_by(scene, topic, leader)
        scene.undo(lambda n=dead: nodes.start(n))
        nodes.start(dead)
        nodes.healthy(90)
        leader = scene.leader(topic.name)
    idle = [r for r in range(_KILLS) if not any(v.startswith(b"%d-" % r) for v in acknowledged)]
    if idle:
        scene.inconclusive(f"no record was acknowledged in round {', '.join(map(str, idle))}")
    found = set(topic.read().values)
    missing = [v for v in acknowledged if v not in found]
    scene.record("acknowledged", len(acknowledged))
    scene.require("", not missing, f"{len(missing)} of {len(acknowledged)} missing: {missing[:3]}")


def _batch(scene: KafkaScene, value: str) -> bytes:
    from brokerproof.conformance.kafka.topics import batch

    return batch([Record(value.encode(), None, scene.now_ms())])


def _one(scene: KafkaScene, connection: Connection, topic: Topic, value: str, acknowledged: list[bytes]) -> None:
    if topic.produce(_batch(scene, value), on=connection).code == 0:
        acknowledged.append(value.encode())


def _code(connection: Connection) -> int | None:
    from brokerproof.conformance.kafka.topics import produced

    return produced(connection.receive(2.0)).code


@case(
    "K7.02", "kafka/high-watermark",
    requirement="While the followers stand still and the leader appends with acks=1, consumers of both isolation levels see "
    "nothing above the high watermark; after an election nothing is gone that was read once.",
    reference="replication documents", level="MUST", revision=2, topology="cluster", tags=("cluster", "destructive"), limit_s=180,
    accepts={"uncommitted": must("nothing above"), "committed": must("nothing above"), "after": must("all that was read")},
)  # fmt: skip
def test_high_watermark(scene: KafkaScene) -> None:
    leader, *followers = sorted(scene.stage.addresses, reverse=True)
    topic = scene.topic(assignment=[[leader, *followers]])
    topic.fill("before")
    nodes = scene.stage.nodes()
    scene.finally_(lambda: nodes.healthy(90))
    scene.undo(lambda: nodes.start(leader))
    for node in followers:
        scene.undo(lambda n=node: nodes.resume(n))
        nodes.stop(node)
    on = scene.connect(leader)
    above = topic.produce(_batch(scene, "above"), acks=1, on=on)
    if above.code != 0:
        scene.inconclusive(f"the leader took nothing with acks=1: {above.seen()}")
    read: list[bytes | None] = []
    for step, isolation in (("uncommitted", READ_UNCOMMITTED), ("committed", READ_COMMITTED)):
        seen = topic.fetch(0, on=on, isolation=isolation, max_wait_ms=500)
        read += seen.values
        scene.require(step, seen.values == [b"before"], f"{seen.seen()}: {seen.values}")
    nodes.kill(leader)
    for node in followers:
        nodes.resume(node)
    now = _led_by(scene, topic, leader)
    new = scene.connect(now)
    after: list[Fetched] = []

    def again() -> bool:
        """Its high watermark may be behind for a moment: what counts is that all comes."""
        after.append(topic.fetch(0, on=new))
        return after[-1].code == 0 and all(v in after[-1].values for v in read)

    if not scene.eventually(again, 20) and after[-1].code != 0:
        scene.inconclusive(f"the new leader served no fetch within 20 s: {after[-1].seen()}")
    found = after[-1].values
    scene.require("after", all(v in found for v in read), f"{found} after {read}")


@case(
    "K7.03", "kafka/isr-shrink-time",
    requirement="Recorded: seconds from pausing a follower until it leaves the in-sync set, from resuming until it is back, and "
    "the configured value.",
    reference="replica.lag.time.max.ms", level="unspecified", topology="cluster", tags=("cluster", "destructive", "slow"),
    limit_s=180, records=("configured", "until out", "until back"),
)  # fmt: skip
def test_isr_shrink_time(scene: KafkaScene) -> None:
    leader, follower, other = sorted(scene.stage.addresses, reverse=True)
    topic = scene.topic(assignment=[[leader, follower, other]])
    nodes = scene.stage.nodes()
    scene.finally_(lambda: nodes.healthy(90))
    scene.undo(lambda: nodes.resume(follower))
    scene.record("configured", f"{scene.config('replica.lag.time.max.ms')} ms")

    def waited(out: bool) -> float | str:
        began = time.monotonic()

        def so() -> bool:
            topic.produce(_batch(scene, "x"), acks=1, on=scene.main(leader))
            return (follower not in scene.partitions(topic.name, leader)[0]["isr_nodes"]) is out

        good = scene.eventually(so, 70)
        return round(scene.measured(time.monotonic() - began), 1) if good else "not within 70 s"

    nodes.stop(follower)
    scene.record("until out", waited(out=True))
    nodes.resume(follower)
    scene.record("until back", waited(out=False))
