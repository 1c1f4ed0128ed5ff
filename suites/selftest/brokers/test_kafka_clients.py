"""The parts of Kafka's load processes that need no broker: settings, the ledger of rows, bodies by the thousand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Message, Producer

from brokerproof.brokers.base import Pace, SendJob
from brokerproof.brokers.kafka import config, sending, settings
from brokerproof.message import Bodies
from brokerproof.plan import Sender
from brokerproof.tape import Tape


def job(tmp_path: Path, partitions: int = 1, **sender: Any) -> SendJob:
    return SendJob(
        endpoint={"bootstrap": ["127.0.0.1:1"]}, destination="t", kind="log", lane=3, partitions=partitions,
        tape=Tape(tmp_path, slot=0, slots=1, zero_ns=time.monotonic_ns()), seed=1, trial_number=2,
        stopping=lambda: False, report=lambda **_: None, sender=Sender(**sender),
        pace=Pace(rate_per_s=None, count=1, load_ns=1, keys=0), bodies=Bodies(trial=2, sender=0, seed=1, size=64),
    )  # fmt: skip


@pytest.mark.parametrize(
    "given", [{}, {"acks": "1"}, {"acks": 0}, {"acks": "all", "enable.idempotence": False, "retries": 0}]
)
def test_the_producer_takes_our_settings(tmp_path: Path, given: dict[str, Any]) -> None:
    made = settings.of_producer(job(tmp_path, settings=given))
    Producer(made)
    assert str(made["acks"]) == str(given.get("acks", "all"))
    assert made["enable.idempotence"] is (given.get("acks", "all") == "all" and "retries" not in given)


def test_a_plan_s_word_stands_even_where_the_client_refuses_it(tmp_path: Path) -> None:
    made = settings.of_producer(job(tmp_path, settings={"acks": "1", "enable.idempotence": True}))
    assert made["acks"] == "1" and made["enable.idempotence"] is True


def test_rows_are_found_by_number_across_resends() -> None:
    ledger = sending.Ledger()
    ledger.opened(0, 0)  # messages 0..9 are rows 0..9
    ledger.resent[4] = 10  # row 10 is a resend
    ledger.opened(10, 11)  # messages 10..19 are rows 11..20
    assert ledger.rows(np.array([3, 4, 12])).tolist() == [3, 10, 13]
    assert ledger.rows(np.array([4])).tolist() == [4], "a resend is answered once"


def test_numbers_are_read_out_of_the_bodies_of_reports() -> None:
    bodies = Bodies(trial=2, sender=0, seed=1, size=64)
    joined = bodies.make(70_000, np.full(1000, -1, np.int32))
    cut = sending._cut(joined, 64)
    assert list(cut) == [joined[i : i + 64] for i in range(0, 64_000, 64)]
    reports = [Message(topic="t", partition=0, offset=i, value=b) for i, b in enumerate(cut)]
    assert sending._numbers(reports, 64).tolist() == list(range(70_000, 71_000))


@pytest.mark.parametrize(
    ("partitions", "sender", "lanes"),
    [
        (1, {}, [3, 3, 3]),
        (2, {"spread": "round_robin"}, [3, 4, 3]),
        (2, {"keys": 5}, [-1, -1, -1]),  # the client's partitioner decides; the report tells
    ],
)
def test_the_lane_of_an_intent(tmp_path: Path, partitions: int, sender: dict[str, Any], lanes: list[int]) -> None:
    place = sending._placing(job(tmp_path, partitions, **sender))
    assert np.broadcast_to(place.lanes(0, 3), 3).tolist() == lanes


def test_each_node_advertises_a_link_of_its_own_to_each_group_of_clients() -> None:
    links = {group: ("127.0.0.1", 30000 + i) for i, group in enumerate(config.PORTS)}
    text = config.properties("k2", ["k1", "k2", "k3"], links, {"min.insync.replicas": 2})
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert lines["node.id"] == "2"
    assert "PRODUCER://127.0.0.1:30000" in lines["advertised.listeners"].split(",")
    assert "PEERS://k2:9092" in lines["advertised.listeners"].split(",")
    assert lines["controller.quorum.voters"] == "1@k1:9093,2@k2:9093,3@k3:9093"
    assert lines["min.insync.replicas"] == "2" and lines["auto.create.topics.enable"] == "false"


def test_internal_topics_have_as_many_copies_as_there_are_nodes() -> None:
    assert config.changed(1, {})["offsets.topic.replication.factor"] == "1"
    assert config.changed(3, {})["transaction.state.log.replication.factor"] == "3"
    assert config.changed(3, {})["transaction.state.log.min.isr"] == "2"


def test_a_cluster_id_is_the_same_on_every_node_and_never_looks_like_an_option() -> None:
    ids = {config.cluster_id(f"cluster-{i}") for i in range(200)}
    assert len(ids) == 200 and all(len(i) == 22 and not i.startswith("-") for i in ids)
