"""K1: protocol basics: versions, framing, order, refusals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from brokerproof.conformance.case import Line, Seen, Table, case, error, must
from brokerproof.conformance.kafka.connection import Connection, as_octets
from brokerproof.conformance.kafka.scene import RECORDED, SASL_LISTENER, KafkaScene
from brokerproof.wire.kafka import removed, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.octets import fixed
from brokerproof.wire.kafka.schema import TAGS, Fields

_API_VERSIONS = 18
_UNSUPPORTED = 35
_ENDED = ("eof", "reset")
#: Ended without a word; an error reply first is not canonical.
_CLOSED = Table(
    "the connection is closed without a reply",
    (
        Line("PASS", behaviour=("silent",), endings=("eof", "reset")),
        Line("NONSTRICT", behaviour=("octets came",), endings=("eof", "reset")),
    ),
)
_OUR_NAME = {"client_software_name": "brokerproof", "client_software_version": "1.0"}


def _sound(keys: list[Fields]) -> bool:
    return bool(keys) and all(0 <= k["min_version"] <= k["max_version"] for k in keys)


@case(
    "K1.01", "kafka/api-versions-before-auth",
    requirement="On a listener that asks for authentication, ApiVersions of every version served is answered as the first "
    "request: error 0, and a list with min ≤ max for every key.",
    reference="protocol guide; KIP-35; ApiVersions", level="MUST", tags=("config",), settings=SASL_LISTENER,
    accepts={"": must("answered in every version")},
)  # fmt: skip
def test_api_versions_before_auth(scene: KafkaScene) -> None:
    wrong = []
    for version in scene.served("api_versions"):
        answer = scene.connect(address=scene.stage.sasl).ask("api_versions", version, **_OUR_NAME)
        if answer.code != 0 or not _sound(answer.need()["api_keys"]):
            wrong.append(f"v{version} {answer.seen()}")
    scene.require("", not wrong, "; ".join(wrong))


@case(
    "K1.02", "kafka/api-versions-too-new",
    requirement="ApiVersions of an unknown version is answered as version 0 with error 35 and a list that holds ApiVersions "
    "with its range; a request in that range works on the same connection.",
    reference="KIP-511", level="MUST",
    accepts={
        "": Table(
            "error 35 with the range of ApiVersions",
            (
                Line("PASS", behaviour=("range",), codes=(35,)), Line("CODE", behaviour=("empty list",), codes=(35,)),
                Line("FAIL", behaviour=("no range",), codes=(35,)),
            ),
        ),
        "then": must("a request in that range works"),
    },
    conditions=("slicer",),
)  # fmt: skip
def test_api_versions_too_new(scene: KafkaScene) -> None:
    connection = scene.connect()
    connection.by_hand(_API_VERSIONS, 32767, b"\2x\x021\0", flexible=True, answer_version=0)
    answer = connection.receive()
    if answer.fields is None:
        scene.saw("", answer.seen())
        scene.require("then", False, "no answer")
        return
    own = [k for k in answer.fields["api_keys"] if k["api_key"] == _API_VERSIONS]
    scene.saw(
        "", Seen("range" if own else "empty list" if not answer.fields["api_keys"] else "no range", code=answer.code)
    )
    version = own[0]["max_version"] if own else 0
    again = connection.ask("api_versions", min(version, schema.versions(_API_VERSIONS)[1]), **_OUR_NAME)
    scene.require("then", again.code == 0, f"{again.seen()}")


@case(
    "K1.03", "kafka/api-versions-header-v0",
    requirement="The header of an ApiVersions response of version 3 and newer has no tagged fields: header 0 and the body are "
    "exactly the frame.",
    reference="KIP-511; ApiVersionsResponse schema", level="MUST", accepts={"": must("header 0 and body are the frame")},
    conditions=("slicer",),
)  # fmt: skip
def test_api_versions_header_v0(scene: KafkaScene) -> None:
    wrong, versions = [], scene.served("api_versions", least=3)
    if not versions:
        scene.inconclusive("no version of ApiVersions from 3 on is served by a version that should")
    for version in versions:
        answer = scene.connect().ask("api_versions", version, **_OUR_NAME)
        if answer.code != 0 or answer.leftover or not _sound((answer.fields or {}).get("api_keys", [])):
            wrong.append(f"v{version}: {answer.seen()}, {answer.leftover} octets left over")
    scene.require("", not wrong, "; ".join(wrong))


_NAMES = {
    "empty name": ("", "1.0"), "name -x": ("-x", "1.0"), "name a b": ("a b", "1.0"), "empty version": ("x", ""),
    "version with a space": ("x", "1.0 "),
}  # fmt: skip


@case(
    "K1.04", "kafka/client-software-name",
    requirement="ApiVersions with a client software name or version outside its pattern is refused with 42; legal ones are "
    "taken.",
    reference="KIP-511", level="MUST", negative=True,
    accepts={**dict.fromkeys(_NAMES, error(42)), "legal": error(0)},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_client_software_name(scene: KafkaScene) -> None:
    for step, (name, version) in {**_NAMES, "legal": ("Ab-c.1", "1.0-x.Y2")}.items():
        asked = {"client_software_name": name, "client_software_version": version}
        scene.saw(step, scene.connect().ask("api_versions", **asked).seen())


@case(
    "K1.05", "kafka/unsupported-api",
    requirement="Recorded: the reaction to a version of Metadata and to an API key that do not exist, and how long it takes.",
    reference="protocol guide (requests that cannot be served)", level="unspecified",
    records=("metadata v999", "api key 32000"),
)  # fmt: skip
def test_unsupported_api(scene: KafkaScene) -> None:
    for name, key, version in (("metadata v999", 3, 999), ("api key 32000", 32000, 0)):
        connection = scene.connect()
        connection.by_hand(key, version, b"\0" * 8, flexible=True)
        began = time.monotonic()
        payload = connection.payload(scene.seconds(scene.window_s))
        answered = "" if payload is None else f"answered {payload.hex()[:64]}"
        how = answered or {"eof": "closed", "reset": "reset"}.get(connection.ended, "no answer, left open")
        scene.record(name, {"reaction": how, "seconds": round(scene.measured(time.monotonic() - began), 1)})


#: Where the schema's defaults would not be legal, harmless, or answered.
_HARMLESS: dict[str, Fields] = {
    "produce": {"acks": -1, "timeout": 1000}, "fetch": {"max_wait": 10, "replica_id": -1}, "metadata": {"topics": []},
    "list_offsets": {"replica_id": -1}, "api_versions": _OUR_NAME, "elect_leaders": {"topic_partitions": []},
    "unregister_broker": {"broker_id": 999_999}, "sasl_handshake": {"mechanism": "NOPE"},
    "add_raft_voter": {"cluster_id": "none", "voter_id": 999_999}, "describe_groups": {"groups": []},
    "remove_raft_voter": {"cluster_id": "none", "voter_id": 999_999}, "init_producer_id": {"transaction_timeout": 1000},
    "alter_partition_reassignments": {"timeout": 1000}, "create_topics": {"timeout": 1000},
    "describe_acls": {"resource_type_filter": 1, "pattern_type_filter": 1, "operation": 1, "permission_type": 1},
    "add_partitions_to_txn": {
        "transactions": [{"transactional_id": "none", "verify_only": True, "topics": []}],
        "v3_and_below_transactional_id": "none",
    },
    # 3.9 never answers one for no group at all.
    "offset_fetch": {"groups": [{"group_id": "none", "topics": None}]},
    "list_partition_reassignments": {"topics": [], "timeout": 1000},
}  # fmt: skip


def _unserved(connection: Connection, key: int, version: int, old: Mapping[tuple[int, int], bytes]) -> str:
    """How a minimal legal request of that version is not served; empty where it is. old: bodies of versions without a schema."""
    name = schema.NAMES[key]
    if (key, version) in old:
        sent = connection.by_hand(key, version, old[key, version], answer_version=schema.versions(key)[0])
        answer = connection.receive()  # not of the version that it is read by here: its octets are what counts
        if not answer.payload:
            return f"{name} v{version}: {answer.what()}"
        try:
            unsupported = _UNSUPPORTED in removed.codes(key, version, answer.payload)
        except WireError as exc:
            return f"{name} v{version}: not readable as v{version}: {exc}"
        if int.from_bytes(answer.payload[:4], "big", signed=True) != sent:
            return f"{name} v{version}: another correlation id"
        return f"{name} v{version}: answered {_UNSUPPORTED}" if unsupported else ""
    struct = schema.request(key, version)
    body = schema.encode(struct, schema.fitting(struct, _HARMLESS.get(name, {})))
    connection.by_hand(key, version, body, flexible=struct.header == 2)
    answer = connection.receive()
    if answer.fields is None or answer.leftover or answer.ended or answer.code == _UNSUPPORTED:
        left = f", {answer.leftover} octets left over" if answer.leftover else ""
        return f"{name} v{version}: {answer.what()}{f' {answer.code}' if answer.code else ''}{left}"
    return ""


@case(
    "K1.06", "kafka/advertised-is-served",
    requirement="Every version of every API that the client listener advertises is served: a minimal legal request gets a "
    "response that decodes in that version and is not error 35.",
    reference="KIP-35; KIP-896", level="MUST", accepts={"": must("all pairs served")}, records=("pairs",), limit_s=120, revision=2,
)  # fmt: skip
def test_advertised_is_served(scene: KafkaScene) -> None:
    topic = scene.topic()
    pairs = [(k, v) for k, (low, high) in sorted(scene.advertised.items()) for v in range(low, high + 1)]
    old = {(key, version): body for key, version, body in removed.harmless(topic.name, scene.group())}
    unserved = []
    unknown = []
    connection = scene.connect()
    for key, version in pairs:
        low, high = schema.versions(key) if key in schema.NAMES else (0, -1)
        if not low <= version <= high and (key, version) not in old:
            unknown.append(f"{key} v{version}")  # no schema of ours: nothing can be said
            continue
        wrong = _unserved(connection, key, version, old)
        if wrong:
            unserved.append(wrong)
        if wrong or connection.ended:
            connection = scene.connect()
    scene.record("pairs", {"advertised": len(pairs), "no schema": unknown})
    scene.require("", not unserved, "not served", "; ".join(unserved))


@case(
    "K1.07", "kafka/removed-versions",
    requirement="Versions that were removed are not served: error 35, or the connection is closed. Below 4.0 recorded.",
    reference="KIP-896", level="MUST", revision=2, negative=True, records=("reactions",), limit_s=90,
    accepts={"": must("error 35 or closed").or_else(RECORDED)},
)  # fmt: skip
def test_removed_versions(scene: KafkaScene) -> None:
    topic = scene.topic()
    topic.fill("kept")
    found = {}
    for key, version, body in removed.requests(topic.name, scene.group()):
        connection = scene.connect()
        connection.by_hand(key, version, body)
        payload = connection.payload(scene.patience_s)
        reaction = "closed" if connection.ended else "no answer"
        if payload:
            try:
                reaction = "35" if _UNSUPPORTED in removed.codes(key, version, payload) else "served"
            except WireError as exc:
                reaction = f"answered, not readable: {exc}"
        found[f"{schema.NAMES[key]} v{version}"] = reaction
    scene.record("reactions", found)
    served = [name for name, reaction in found.items() if reaction not in ("35", "closed")]
    if scene.version.startswith(("2.", "3.")):
        scene.saw("", Seen("recorded"))
    else:
        scene.require("", not served and topic.end() == 1, f"served: {', '.join(served)}")


_UNKNOWN = {9999: b"unknown tag 9999"}


@case(
    "K1.08", "kafka/unknown-tagged-fields",
    requirement="A tagged field that the schema does not know, in the request's header and body, changes nothing.",
    reference="KIP-482", level="MUST",
    accepts={step: must("the same answer as without") for step in ("metadata", "produce", "fetch")},
    conditions=("slicer",),
)  # fmt: skip
def test_unknown_tagged_fields(scene: KafkaScene) -> None:
    topic = scene.topic()
    topic.fill("one")

    def ask(api: str, tagged: bool, fields: dict[str, Any]) -> Any:
        connection = scene.connect()
        more = {TAGS: _UNKNOWN} if tagged else {}
        connection.send(api, header=_UNKNOWN if tagged else None, **fields, **more)
        answer = connection.receive()
        return answer.fields, answer.what()

    metadata = {"topics": [{"name": topic.name, "topic_id": schema.NO_ID}], "allow_auto_topic_creation": False}
    fetch = topic.fetch_fields(0)
    for step, fields in (("metadata", metadata), ("fetch", fetch)):
        without, tagged = (ask(step, t, fields) for t in (False, True))
        scene.require(
            step, without == tagged and without[0] is not None, f"{tagged[1]}, differs", detail=f"{without[1]}"
        )
    from brokerproof.conformance.kafka.topics import batch, produced

    connection = scene.connect()
    more = {TAGS: _UNKNOWN}
    connection.send("produce", header=_UNKNOWN, **topic.produce_fields(batch("two")), **more)
    done = produced(connection.receive())
    scene.require("produce", done.code == 0 and topic.values() == [b"one", b"two"], f"{done.seen()}")


@case(
    "K1.09", "kafka/bad-length",
    requirement="A frame longer than the limit, of negative length, or with fields cut short ends that connection without a "
    "reply; everything else lives.",
    reference="protocol guide; socket.request.max.bytes", level="MUST", negative=True,
    accepts=dict.fromkeys(("limit + 1", "negative", "cut short"), _CLOSED),
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_bad_length(scene: KafkaScene) -> None:
    limit = int(scene.config("socket.request.max.bytes"))
    head = as_octets(("int16", 3), ("int16", 1), ("int32", 1))
    for step, data in {
        "limit + 1": fixed("int32", limit + 1) + head,
        "negative": fixed("int32", -2) + head,
        "cut short": fixed("int32", len(head) + 4) + head + fixed("int16", -1) + b"\0\0",
    }.items():
        connection = scene.connect()
        connection.octets(data, step)
        scene.saw(step, connection.quiet(scene.seconds(scene.window_s)))


@case(
    "K1.10", "kafka/response-order",
    requirement="200 pipelined requests of several kinds on one connection, some of which wait, are answered in their order, "
    "each with its correlation id.",
    reference="protocol guide", level="MUST", accepts={"": must("in order, with their correlation ids")},
)  # fmt: skip
def test_response_order(scene: KafkaScene) -> None:
    topic = scene.topic()
    topic.fill("first")
    connection = scene.connect()
    part = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": -1}
    for i in range(50):
        connection.send("metadata", topics=[{"name": topic.name}], allow_auto_topic_creation=False)
        connection.send("list_offsets", replica_id=-1, topics=[{"name": topic.name, "partitions": [part]}])
        wait = {"max_wait_ms": 200, "min_bytes": 1 << 20} if i % 20 == 0 else {"min_bytes": 0}
        connection.send("fetch", **topic.fetch_fields(0, **wait))
        from brokerproof.conformance.kafka.topics import batch

        connection.send("produce", **topic.produce_fields(batch(f"v{i}"), acks=1))
    wrong = []
    for _ in range(200):
        answer = connection.receive()
        if answer.code is None or answer.code:
            wrong.append(f"{answer.api}: {answer.seen()}")
    scene.require("", not wrong and len(topic.values()) == 51, "; ".join(wrong[:3]) or "records are missing")


@case(
    "K1.11", "kafka/sasl-refusals",
    requirement="SaslHandshake with an unknown mechanism is answered with 33 and the enabled ones, and the connection closed. "
    "A request before authentication gets no data, and the connection is closed.",
    reference="protocol guide; SaslHandshake", level="MUST", negative=True, tags=("config",), settings=SASL_LISTENER,
    accepts={"handshake": error(33), "mechanisms": must("the enabled mechanisms"), "then": must("closed"),
             "metadata": _CLOSED},
)  # fmt: skip
def test_sasl_refusals(scene: KafkaScene) -> None:
    connection = scene.connect(address=scene.stage.sasl)
    answer = connection.ask("sasl_handshake", 1, mechanism="NOPE")
    scene.saw("handshake", answer.seen())
    told = (answer.fields or {}).get("mechanisms")
    scene.require("mechanisms", told == list(scene.stage.mechanisms), f"{told}")
    after = connection.quiet(scene.seconds(scene.window_s))
    scene.require("then", after.ending in _ENDED, f"{after}")
    early = scene.connect(address=scene.stage.sasl)
    early.send("metadata", answered=False, topics=None)
    scene.saw("metadata", early.quiet(scene.seconds(scene.window_s)))


@case(
    "K1.12", "kafka/metadata-null-empty",
    requirement="Metadata v1 and newer: null means all topics, an empty list none; v0: an empty list means all.",
    reference="MetadataRequest schema", level="MUST", accepts={"": must("as each version says")},
)  # fmt: skip
def test_metadata_null_empty(scene: KafkaScene) -> None:
    name = scene.topic().name
    wrong = []
    for version in scene.served("metadata"):
        for asked in ([],) if version == 0 else (None, []):
            found = scene.ask("metadata", version, topics=asked, allow_auto_topic_creation=False)
            topics = [t["name"] for t in (found.fields or {}).get("topics", [])]
            every = version == 0 or asked is None
            if found.fields is None or (name in topics) is not every or (not every and topics):
                wrong.append(f"v{version} {asked}: {found.what()}, {len(topics)} topics")
    scene.require("", not wrong, "; ".join(wrong))


@case(
    "K1.13", "kafka/idle-close",
    requirement="Recorded: connections.max.idle.ms of an untouched broker; and with 10 s the time until an idle connection is "
    "ended, and how.",
    reference="connections.max.idle.ms", level="unspecified", tags=("slow", "config"), records=("configured", "idle"),
    variants=("", "10s"), variant_settings={"10s": {"connections.max.idle.ms": "10000"}}, limit_s=90,
)  # fmt: skip
def test_idle_close(scene: KafkaScene) -> None:
    scene.record("configured", scene.config("connections.max.idle.ms"))
    if not scene.variant:
        scene.record("idle", "not waited for")
        return
    connection = scene.connect()
    connection.ask("api_versions", 0)
    began = time.monotonic()
    seen = connection.quiet(scene.seconds(40))
    scene.record("idle", {"ended": seen.ending, "seconds": round(scene.measured(time.monotonic() - began))})
