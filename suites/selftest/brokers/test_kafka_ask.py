"""What is asked of one Kafka node, and what is made of its answer, whole or not: against a node of one answer in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from brokerproof.brokers.kafka import ask
from brokerproof.brokers.kafka.wiring import Fetched, KafkaWiring
from brokerproof.wire.kafka import frames, records, schema
from brokerproof.wire.kafka.schema import Fields

ASK_S = 5.0


@contextlib.contextmanager
def _node(answer: Callable[[frames.Request], bytes]) -> Iterator[tuple[ask.Address, list[frames.Request]]]:
    """Answers one request, and ends the connection. What it was asked."""
    asked: list[frames.Request] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            incoming = frames.Frames()
            while (payload := incoming.next()) is None:
                incoming.feed(sock.recv(65536))
            asked.append(frames.parse_request(payload))
            sock.sendall(answer(asked[0]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[:2], asked
        thread.join(ASK_S)
    finally:
        listener.close()


def _says(fields: Fields) -> Callable[[frames.Request], bytes]:
    return lambda asked: frames.response(asked.key, asked.version, asked.correlation, fields)


def _topic(code: int, name: str, elr: list[int] | None) -> Fields:
    part = {
        "error_code": 0, "partition_index": 3, "leader_id": 2, "leader_epoch": 7, "replica_nodes": [2, 1], "isr_nodes": [2],
        "eligible_leader_replicas": elr, "last_known_elr": None, "offline_replicas": [],
    }  # fmt: skip
    return {"error_code": code, "name": name, "partitions": [] if code else [part]}


def test_a_node_is_heard_for_its_view_of_topics_and_those_it_does_not_know_are_left_out() -> None:
    answer = {"topics": [_topic(0, "t", None), _topic(0, "u", [1]), _topic(3, "gone", None)], "next_cursor": None}
    with _node(_says(answer)) as (address, asked):
        found = ask.topics(address, ASK_S, ["t", "u", "gone"])
    assert found == {"t": {3: ask.Partition(2, 7, (2, 1), (2,), ())}, "u": {3: ask.Partition(2, 7, (2, 1), (2,), (1,))}}
    assert [t["name"] for t in asked[0].fields["topics"]] == ["t", "u", "gone"]


def test_the_quorum_says_how_far_each_voter_is_behind() -> None:
    voters = [{"replica_id": i, "log_end_offset": end} for i, end in ((1, 90), (2, 100))]
    part = {"partition_index": 0, "error_code": 0, "leader_id": 2, "leader_epoch": 5, "high_watermark": 99, "current_voters": voters, "observers": []}  # fmt: skip
    topic = {"topic_name": "__cluster_metadata", "partitions": [part]}
    with _node(_says({"error_code": 0, "topics": [topic]})) as (address, _):
        assert ask.quorum(address, ASK_S) == ask.Quorum(2, 5, {1: 10, 2: 0})


def test_features_brokers_and_coordinator_are_read() -> None:
    feature = {"name": "kraft.version", "max_version_level": 1, "min_version_level": 0}
    with _node(_says({"error_code": 0, "api_keys": [], "finalized_features": [feature]})) as (address, _):
        assert ask.features(address, ASK_S) == {"kraft.version": 1}
    alive = [{"node_id": i, "host": "h", "port": 9, "rack": None} for i in (1, 3)]
    with _node(_says({"brokers": alive, "cluster_id": None, "controller_id": 1, "topics": []})) as (address, asked):
        assert ask.brokers(address, ASK_S) == {1, 3}
    assert (asked[0].fields["topics"], asked[0].fields["allow_auto_topic_creation"]) == ([], False)
    found = {"error_code": 0, "error_message": None, "node_id": 3, "host": "h", "port": 9}
    with _node(_says(found)) as (address, _):
        assert ask.coordinator(address, ASK_S, "g") == 3


def test_topic_partitions_are_given_these_replicas_in_this_order() -> None:
    with _node(_says({"error_code": 0, "error_message": None, "responses": []})) as (address, asked):
        ask.reassign(address, ASK_S, {"t": {0: [2, 1]}})
    (topic,) = asked[0].fields["topics"]
    assert (topic["name"], [(p["partition_index"], p["replicas"]) for p in topic["partitions"]]) == ("t", [(0, [2, 1])])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_says({"error_code": 15, "error_message": None, "node_id": -1, "host": "", "port": -1}), "error 15"),
        (lambda asked: b"", "closed before"),
        (lambda asked: b"\0\0\0\x20half", "closed before"),
        (lambda asked: b"\x7f\xff\xff\xff", "announced"),
        (lambda asked: frames.framed(b"\0\0\0\x01\0"), "is none"),
    ],
    ids=["error", "nothing", "half", "huge", "short"],
)
def test_what_is_no_answer_is_said(answer: Callable[[frames.Request], bytes], says: str) -> None:
    with _node(answer) as (address, _), pytest.raises(ask.NoAnswer, match=says):
        ask.coordinator(address, ASK_S, "g")


class _Parts:
    """A cluster of one node."""

    def __init__(self, address: ask.Address) -> None:
        self.address = address

    def admin_address(self, node: str) -> ask.Address:
        return self.address

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"nothing else is asked of the cluster, not {name}")


def test_a_node_is_asked_for_a_topic_by_hand() -> None:
    part: Fields = {
        "partition_index": 0, "error_code": 6, "high_watermark": 5, "last_stable_offset": 5, "log_start_offset": 0,
        "aborted_transactions": None, "records": b"12345",
    }  # fmt: skip
    answer: Fields = {"error_code": 0, "session_id": 0, "responses": [{"topic": "t", "partitions": [part]}]}
    with _node(_says(answer)) as (address, asked):
        assert KafkaWiring(_Parts(address)).fetch("k1", version=10) == Fetched("NOT_LEADER_OR_FOLLOWER", 5)
    assert (asked[0].fields["isolation_level"], asked[0].fields["min_bytes"]) == (1, 1)


def test_a_batch_that_shall_not_be_written_has_another_checksum_than_its_own() -> None:
    part = {"index": 0, "error_code": 2, "base_offset": -1}
    answer: Fields = {"responses": [{"name": "t", "partition_responses": [part]}]}
    with _node(_says(answer)) as (address, asked):
        assert KafkaWiring(_Parts(address)).produce("k1") == "CORRUPT_MESSAGE"
    ((topic,), acks) = asked[0].fields["topic_data"], asked[0].fields["acks"]
    (batch,) = records.batches(topic["partition_data"][0]["records"])
    assert (acks, batch.crc_good, asked[0].version) == (1, False, 7)
    assert schema.NAMES[asked[0].key] == "produce"
