"""Nodes, each asked by itself: who serves, who is in sync, and who speaks first. Decided over cases."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from brokerproof.brokers.kafka.wiring import KafkaWiring
from brokerproof.cases import Case, Found, by_cases
from brokerproof.claims import claim
from brokerproof.experiment import Cell, PropertyExperiment

_ONE = {"kafka": ("",)}
_LONGER = ("standard", "thorough")
_NOT_LEADER = "NOT_LEADER_OR_FOLLOWER"


# -- who serves ------------------------------------------------------------------------------------------------------------


def _refuses(nodes: str, *, fetch_versions: tuple[int, ...]) -> Iterable[Case]:
    """Followers, or the leader, do not serve: they refuse to write, and to read by these versions of Fetch."""

    def case(w: KafkaWiring) -> Found:
        w.topic(copies=3)
        for node in w.followers if nodes == "followers" else [w.leader]:
            said = w.produce(node)
            if said != _NOT_LEADER:
                return {"a message for": nodes, "is answered with": said or "success"}
            for version in fetch_versions:
                fetched = w.fetch(node, version=version)
                if fetched.error != _NOT_LEADER:
                    return {"a read from": nodes, "Fetch version": version, "is answered with octets": fetched.octets}
        return None

    yield case


def _slave_refuses(node: str, *, slave_reads: bool) -> Iterable[Case]:
    def case(cluster: Any) -> Found:
        from brokerproof.brokers.rocketmq import replicas

        said = replicas.refuses(cluster, node, slave_reads=slave_reads)
        return None if all(word.startswith("refused") for word in said.values()) else {"asked": node, **said}

    yield case


@claim(
    "broker/replicas-only-copy", revision=1, kind="property",
    sentence="The leader serves, followers only copy.",
    source="S2", brokers={"kafka": ("",), "rocketmq": ("default", "slaveReadEnable")},
    control="the leader (the master) is asked in place of the followers (the slave)", profiles=_LONGER,
)  # fmt: skip
def test_replicas_only_copy(cell: Cell) -> PropertyExperiment:
    if cell.broker == "rocketmq":
        reads = cell.own_variant == "slaveReadEnable"
        return by_cases(
            lambda: _slave_refuses("s1", slave_reads=reads), lambda: _slave_refuses("m1", slave_reads=reads),
            topology="master-slave",
        )  # fmt: skip
    versions = (10, 11)
    return by_cases(
        lambda: _refuses("followers", fetch_versions=versions), lambda: _refuses("leader", fetch_versions=versions)
    )


@claim(
    "broker/replicas-only-copy--writes", revision=1, kind="property",
    sentence="Only the leader takes writes, and reads from consumers that do not know of follower fetching (Fetch before version 11).",
    source="KIP-392; protocol guide, Produce and Fetch", brokers=_ONE, sharpens="broker/replicas-only-copy",
    control="the leader is asked in place of the followers", needs=("three_nodes",), profiles=_LONGER,
)  # fmt: skip
def test_replicas_only_copy_writes(cell: Cell) -> PropertyExperiment:
    return by_cases(
        lambda: _refuses("followers", fetch_versions=(10,)), lambda: _refuses("leader", fetch_versions=(10,))
    )


# -- who is in sync --------------------------------------------------------------------------------------------------------


def _leaves_and_returns(*, paused: bool) -> Iterable[Case]:
    """A follower that stands still is out of the in-sync replicas, and when it goes on and has caught up it is back. Twice as
    long as replica.lag.time.max.ms (10 s here, 30 s by default) is waited for the one, a minute for the other."""

    def case(w: KafkaWiring) -> Found:
        w.topic(copies=3)
        follower = w.followers[0]
        if paused:
            with w.paused(follower):
                left = w.watch(lambda isr: follower not in isr, 20.0)
            if left is None:
                return {"stood still for s": 20, "and the in-sync replicas are": w.in_sync}
        else:
            left = w.watch(lambda isr: follower not in isr, 20.0)
            if left is None:
                return {"did not stand still; the in-sync replicas are": w.in_sync}
        back = w.watch(lambda isr: follower in isr, 60.0)
        w.healthy()
        return None if back is not None else {"left after s": left, "back within 60 s": False}

    for _ in range(3 if paused else 1):
        yield case


@claim(
    "broker/kafka-isr-shrinks-and-rejoins", revision=1, kind="property",
    sentence="A follower that lags leaves the in-sync replicas, and comes back when it has caught up.",
    source="S2; Kafka documentation, broker configuration replica.lag.time.max.ms", brokers=_ONE,
    control="the follower does not stand still", needs=("three_nodes",), profiles=_LONGER,
)  # fmt: skip
def test_isr_shrinks_and_rejoins(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _leaves_and_returns(paused=True), lambda: _leaves_and_returns(paused=False))


# -- who speaks first ------------------------------------------------------------------------------------------------------


def _pushed(*, sent: bool) -> Iterable[Case]:
    """What is sent to the topic comes to a client that is connected, by itself."""

    def case(w: KafkaWiring) -> Found:
        w.topic(copies=3)
        came = w.unasked(4.0 if sent else 0.0)
        return None if came else {"octets that came to a connected client that asked for nothing": came}

    yield case


@claim(
    "consumer/kafka-push", revision=1, kind="property",
    sentence="Kafka pushes: messages come to a consumer that is connected without its asking.",
    source="S3 speaks of Kafka's push as well as its pull", brokers=_ONE, control="no time for anything to come", profiles=_LONGER,
)  # fmt: skip
def test_kafka_push(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _pushed(sent=True), lambda: _pushed(sent=False))


def _long_poll(*, asking: bool) -> Iterable[Case]:
    """A Fetch from the end of the log, which may wait 8 s: nothing comes for a second; then a message is sent, and the answer
    comes."""

    def case(w: KafkaWiring) -> Found:
        w.topic(copies=3)
        before, after = w.answered_late(8000, 1.0, asking=asking)
        return None if not before and after else {"octets before the message": before, "octets after it": after}

    for _ in range(3):
        yield case


@claim(
    "consumer/kafka-push--long-poll", revision=1, kind="property",
    sentence="A message comes only as the answer to a Fetch, which the broker may hold back until there is something "
    "(fetch.max.wait.ms, fetch.min.bytes): the consumer asks, and the message comes at once.",
    source="protocol guide, Fetch; Kafka documentation, design, push vs. pull", brokers=_ONE, sharpens="consumer/kafka-push",
    control="no Fetch is sent", profiles=_LONGER,
)  # fmt: skip
def test_kafka_long_poll(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _long_poll(asking=True), lambda: _long_poll(asking=False))
