"""Asks one node what it believes, with requests of our own.

A client library answers from whichever node it likes and remembers old answers; a harness that isolates a leader has
to hear each node for itself: a node that was cut off goes on believing that it leads. A few requests do,
each over a fresh connection with a deadline; one of them changes something that confluent-kafka has no call for.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brokerproof.brokers.base import LONGER_OCTETS, Opening, framed
from brokerproof.wire.kafka import frames, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.schema import Fields

Address = tuple[str, int]

_METADATA_TOPIC = "__cluster_metadata"
_RECEIVE_OCTETS = 65536


class NoAnswer(Exception):
    """The node did not answer in time, closed the connection, or answered with an error."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A topic-partition as one node sees it. leader: node id, -1 none. elr: eligible leader replicas (KIP-966)."""

    leader: int
    epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """The controllers. leader: id of the active controller. caught_up: voter -> how many records it is behind."""

    leader: int
    epoch: int
    behind: Mapping[int, int]


def opening() -> Opening:
    """What every Kafka node answers to strangers: ApiVersions, version 0; made longer by the client's name."""
    longer = frames.CLIENT.ljust(LONGER_OCTETS, ".")
    return Opening(_versions_asked(frames.CLIENT), _versions_asked(longer), framed)


def _versions_asked(client: str) -> bytes:
    return frames.request(frames.API_VERSIONS, 0, 1, {}, client=client)


def features(address: Address, timeout_s: float) -> dict[str, int]:
    """Finalized features and their levels, e.g. ``eligible.leader.replicas.version``."""
    us = {"client_software_name": frames.CLIENT, "client_software_version": "1"}
    answer = _checked(_call(address, timeout_s, "api_versions", 3, **us), "ApiVersions")
    return {f["name"]: f["max_version_level"] for f in answer["finalized_features"]}


def brokers(address: Address, timeout_s: float) -> frozenset[int]:
    """The brokers that this node holds for alive (registered and not fenced)."""
    answer = _call(address, timeout_s, "metadata", 7, topics=[], allow_auto_topic_creation=False)
    return frozenset(b["node_id"] for b in answer["brokers"])


def coordinator(address: Address, timeout_s: float, group: str) -> int:
    """The node that coordinates this consumer group; asking for the first one makes ``__consumer_offsets``."""
    answer = _checked(_call(address, timeout_s, "find_coordinator", 2, key=group), "FindCoordinator")
    return int(answer["node_id"])


def quorum(address: Address, timeout_s: float) -> Quorum:
    """Who the active controller is, as it says itself: brokers forward this request to it."""
    wanted = [{"topic_name": _METADATA_TOPIC, "partitions": [{"partition_index": 0}]}]
    answer = _checked(_call(address, timeout_s, "describe_quorum", 0, topics=wanted), "DescribeQuorum")
    if not answer["topics"] or not answer["topics"][0]["partitions"]:
        raise NoAnswer(f"DescribeQuorum answered without {_METADATA_TOPIC}")
    only = _checked(answer["topics"][0]["partitions"][0], "DescribeQuorum")
    ends = {v["replica_id"]: v["log_end_offset"] for v in only["current_voters"]}
    newest = max(ends.values(), default=0)
    return Quorum(only["leader_id"], only["leader_epoch"], {node: newest - end for node, end in ends.items()})


def topics(address: Address, timeout_s: float, names: Sequence[str] = ()) -> dict[str, dict[int, Partition]]:
    """The partitions of these topics (of all, internal ones too, without names); a topic that is not there is not
    in the answer."""
    answer = _call(address, timeout_s, "describe_topic_partitions", 0, topics=[{"name": n} for n in names])
    return {
        t["name"]: {p["partition_index"]: _partition(p) for p in t["partitions"]}
        for t in answer["topics"] if t["error_code"] == 0
    }  # fmt: skip


def _partition(told: Fields) -> Partition:
    ids = (tuple(told[name] or ()) for name in ("replica_nodes", "isr_nodes", "eligible_leader_replicas"))
    return Partition(told["leader_id"], told["leader_epoch"], *ids)


def reassign(address: Address, timeout_s: float, replicas: Mapping[str, Mapping[int, Sequence[int]]]) -> None:
    """Gives topic-partitions these replicas, the preferred leader first; at once where only their order changes."""
    wanted = [
        {"name": name, "partitions": [{"partition_index": i, "replicas": list(ids)} for i, ids in partitions.items()]}
        for name, partitions in replicas.items()
    ]
    answer = _call(address, timeout_s, "alter_partition_reassignments", 0, timeout=int(timeout_s * 1000), topics=wanted)
    _checked(answer, "AlterPartitionReassignments")


# -- on a connection ---------------------------------------------------------------------------------------------------


def request(api: str, version: int, **fields: Any) -> bytes:
    """A whole frame."""
    return frames.request(schema.KEYS[api], version, 1, fields)


def answer_from(sock: socket.socket, api: str, version: int) -> Fields:
    """The next response on the connection, which has to be of that kind. Raises NoAnswer, OSError."""
    incoming = frames.Frames()
    try:
        # No octet beyond it: what else the node sends is for whoever asks for it.
        wanted = 4
        while (payload := incoming.next()) is None:
            data = sock.recv(min(wanted - incoming.pending, _RECEIVE_OCTETS))
            if not data:
                raise NoAnswer("the connection was closed before the answer was whole")
            incoming.feed(data)
            wanted = 4 + (incoming.announced() or 0)
        return frames.parse_response(schema.KEYS[api], version, payload).fields
    except WireError as exc:
        raise NoAnswer(f"what should be an answer of {api} v{version} is none: {exc}") from exc


def _call(address: Address, timeout_s: float, api: str, version: int, **fields: Any) -> Fields:
    try:
        with socket.create_connection(address, timeout=timeout_s) as sock:
            sock.sendall(request(api, version, **fields))
            return answer_from(sock, api, version)
    except OSError as exc:
        raise NoAnswer(f"{address[0]}:{address[1]}: {exc}") from exc


def _checked(answer: Fields, what: str) -> Fields:
    if answer["error_code"]:
        raise NoAnswer(f"{what} answered with error {answer['error_code']}")
    return answer
