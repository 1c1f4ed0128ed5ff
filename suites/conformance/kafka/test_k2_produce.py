"""K2: Produce: acknowledgements, batches that are broken on purpose, limits, compression, leaders."""

from __future__ import annotations

from brokerproof.conformance.case import CUT, Line, Seen, Table, case, error, must, should
from brokerproof.conformance.kafka.scene import BROKER, RECORDED, TOPIC, KafkaScene
from brokerproof.conformance.kafka.topics import FETCH_BY_ID, PRODUCE_BY_ID, Topic
from brokerproof.wire.kafka import packing, records
from brokerproof.wire.kafka.records import Record, batch

_HOUR_MS = 3_600_000
_TOO_FAR, _INVALID, _CORRUPT = 32, 87, 2


def _made(scene: KafkaScene, *values: str, key: bytes | None = None) -> list[Record]:
    now = scene.now_ms()
    return [Record(v.encode(), key, now) for v in values]


def _unchanged(scene: KafkaScene, topic: Topic, end: int = 0) -> None:
    """The step ``log``: nothing was appended."""
    now = topic.end()
    scene.require("log", now == end, f"log end {now}, not {end}")


_NOTHING = {"log": must("nothing appended")}


@case(
    "K2.01", "kafka/acks-0",
    requirement="Produce with acks=0 gets no octet back and is appended; one that fails ends the connection.",
    reference="Produce, acks=0", level="MUST", negative=True,
    accepts={
        "valid": must("no answer, readable"),
        "no such partition": Table("closed", (Line("PASS", behaviour=("silent",), endings=("eof", "reset")),)),
    },
    conditions={"slicer": {}, "cut": {"valid": must("half of a batch is not stored")}},
)  # fmt: skip
def test_acks_0(scene: KafkaScene) -> None:
    topic = scene.topic()
    connection = scene.connect()
    connection.send("produce", answered=False, **topic.produce_fields(batch(_made(scene, "a")), acks=0))
    seen = connection.quiet(scene.seconds(1))
    if scene.condition == CUT:
        scene.require("valid", topic.end() == 0, "half of a batch was stored")
        connection = scene.connect()
    else:
        readable = scene.eventually(lambda: topic.values() == [b"a"], 5)
        scene.require("valid", seen == Seen("silent", ending="open") and readable, f"{seen}, readable: {readable}")
    connection.send("produce", answered=False, **topic.produce_fields(batch(_made(scene, "b")), 7, acks=0))
    scene.saw("no such partition", connection.quiet(scene.seconds(scene.window_s)))


@case(
    "K2.02", "kafka/acks-illegal",
    requirement="Produce with acks of 2 or −2 is refused with 21 for the partition, and nothing is appended.",
    reference="Produce, acks", level="MUST", negative=True, accepts={"2": error(21), "-2": error(21), **_NOTHING},
)  # fmt: skip
def test_acks_illegal(scene: KafkaScene) -> None:
    topic = scene.topic()
    for acks in (2, -2):
        scene.saw(str(acks), topic.produce(_made(scene, "a"), acks=acks, on=scene.connect()).seen())
    _unchanged(scene, topic)


@case(
    "K2.03", "kafka/min-isr",
    requirement="With min.insync.replicas=2 and one replica in sync, acks=−1 is refused with 19 and nothing appended, acks=1 "
    "is accepted; a request that waits while the followers stop may end with 20. acks=−1 never succeeds below the minimum.",
    reference="min.insync.replicas", level="MUST", revision=2, topology="cluster", tags=("cluster", "destructive"), limit_s=150,
    accepts={"while stopping": Table("19, 20, 7 or no answer yet, never success", (
        Line("FAIL", behaviour=("answered",), codes=(0,)),
        Line("PASS", behaviour=("answered",), codes=(20, 19, 7)), Line("PASS", behaviour=("no answer",)),
    )), "acks=-1": error(19), "acks=1": error(0), "log": must("only acks=1 appended")},
)  # fmt: skip
def test_min_isr(scene: KafkaScene) -> None:
    leader, slow, last = sorted(scene.stage.addresses, reverse=True)
    topic = scene.topic(assignment=[[leader, slow, last]], min_insync_replicas=2)
    topic.fill("before")
    nodes = scene.stage.nodes()
    scene.finally_(lambda: nodes.healthy(90))
    # Two nodes that stand still would take the controllers' majority with them, and nothing would leave the in-sync set. So
    # one follower leaves it, is given more than it may fetch, and comes back as a controller that does not catch up.
    everybody = {"follower_replication_throttled_replicas": "*", "leader_replication_throttled_replicas": "*"}
    scene.configure(TOPIC, topic.name, **everybody)
    for node, rate in ((slow, "follower_replication_throttled_rate"), (leader, "leader_replication_throttled_rate")):
        if scene.configure(BROKER, str(node), **{rate: 1}).code != 0:
            scene.inconclusive(f"node {node} does not take {rate}")
        scene.undo(lambda node=node, rate=rate: scene.configure(BROKER, str(node), **{rate: 10**9}))
    scene.finally_(lambda: nodes.resume(last))
    scene.finally_(lambda: nodes.resume(slow))
    nodes.stop(slow)
    _wait_for(scene, topic, leader, {leader, last})
    for _ in range(12):
        topic.produce(_made(scene, "x" * 900_000), acks=1, on=scene.main(leader))
    nodes.resume(slow)
    nodes.stop(last)
    # ``last`` stands still and cannot have it, so a success is right only if ``slow`` came back meanwhile: which shows before or after,
    # since it cannot leave so soon. Of ``last`` itself the set says nothing: it stays in it until its time to lag is over.
    before = scene.partitions(topic.name, leader)[0]["isr_nodes"]
    waiting = topic.produce(_made(scene, "waits"), timeout_ms=20_000, on=scene.connect(leader))
    after = scene.partitions(topic.name, leader)[0]["isr_nodes"]
    if waiting.code == 0 and slow in {*before, *after}:
        scene.inconclusive(f"acknowledged with {before} in sync, then {after}: the follower {slow} was not kept out")
    scene.saw("while stopping", waiting.seen())
    _wait_for(scene, topic, leader, {leader})
    end = _log_end(topic, leader, scene)
    scene.saw("acks=-1", topic.produce(_made(scene, "refused"), on=scene.main(leader)).seen())
    one = topic.produce(_made(scene, "one"), acks=1, on=scene.main(leader))
    scene.saw("acks=1", one.seen())
    scene.require("log", one.base_offset == end, f"appended at {one.base_offset}, log end was {end}")


def _wait_for(scene: KafkaScene, topic: Topic, node: int, in_sync: set[int]) -> None:
    def so() -> bool:
        return set(scene.partitions(topic.name, node)[0]["isr_nodes"]) == in_sync

    if not scene.eventually(so, 40):
        scene.inconclusive(f"the in-sync replicas did not become {in_sync}: {scene.partitions(topic.name, node)}")


def _log_end(topic: Topic, leader: int, scene: KafkaScene) -> int:
    """Of the leader's log, above the high watermark too: where a record goes that nobody but the leader acknowledges."""
    return topic.produce(_made(scene, "here"), acks=1, on=scene.main(leader)).base_offset + 1


#: What the CRC covers, and itself -> one octet of it, from the start or the end of a batch.
_COVERED = {
    "CRC": records.AT_CRC,
    "attributes": records.AT_ATTRIBUTES + 1,
    "first timestamp": records.AT_ATTRIBUTES + 12,
    "value": -3,
}


@case(
    "K2.04", "kafka/batch-crc",
    requirement="A batch with one bit of another than its CRC-32C says, wherever that is, is refused with 2 and nothing is appended. "
    "The partition leader epoch is not covered: one with another is taken, and read back with the leader's.",
    reference="record batch v2", level="MUST", negative=True, revision=2,
    accepts={
        **{where: error(_CORRUPT) for where in _COVERED}, **_NOTHING,
        "epoch changed": error(0), "read back": must("the value, and the leader's epoch"),
    },
    conditions={"slicer": {}, "cut": {"read back": must("nothing appended")}},
)  # fmt: skip
def test_batch_crc(scene: KafkaScene) -> None:
    topic = scene.topic()
    good = batch(_made(scene, "some value"))
    for where, at in _COVERED.items():
        bad = bytearray(good)
        bad[at] ^= 1
        scene.saw(where, topic.produce(bytes(bad), on=scene.connect()).seen())
    _unchanged(scene, topic)
    changed = good[: records.AT_EPOCH] + b"\0\0\0\x07" + good[records.AT_MAGIC :]
    scene.saw("epoch changed", topic.produce(changed, on=scene.connect()).seen())
    if scene.condition == CUT:  # nothing was wrong with that one but its length
        end = topic.end()
        scene.require("read back", end == 0, f"log end {end}, not 0")
        return
    stored = topic.read().batches
    as_it_was = [b.octets[records.AT_MAGIC :] for b in stored] == [good[records.AT_MAGIC :]]
    epochs = [b.leader_epoch for b in stored]
    scene.require(
        "read back", as_it_was and 7 not in epochs, f"{len(stored)} batches, epochs {epochs}, as it was: {as_it_was}"
    )


@case(
    "K2.05", "kafka/one-batch-magic-2",
    requirement="Two batches in one partition's records, and a batch of magic 1, are refused with 87; zero batches recorded.",
    reference="Produce v3+", level="?", negative=True, records=("zero batches",),
    accepts={"two batches": error(_INVALID), "magic 1": error(_INVALID), **_NOTHING},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_one_batch_magic_2(scene: KafkaScene) -> None:
    topic = scene.topic()
    good = batch(_made(scene, "a"))
    scene.saw("two batches", topic.produce(good + good, on=scene.connect()).seen())
    scene.saw(
        "magic 1", topic.produce(good[: records.AT_MAGIC] + b"\1" + good[records.AT_CRC :], on=scene.connect()).seen()
    )
    _unchanged(scene, topic)
    scene.record("zero batches", str(topic.produce(b"", on=scene.connect()).seen()))


@case(
    "K2.06", "kafka/client-batch-invalid",
    requirement="A client's batch with the control bit, a wrong record count, a wrong lastOffsetDelta, or offset deltas that "
    "do not rise is refused with 87, and nothing is appended.",
    reference="record batch v2", level="?", negative=True,
    accepts={**dict.fromkeys(("control", "count", "last delta", "deltas", "deltas packed"), error(_INVALID)), **_NOTHING},
    conditions=("slicer", "cut"),
)  # fmt: skip
def test_client_batch_invalid(scene: KafkaScene) -> None:
    topic = scene.topic()
    made = _made(scene, "a", "b", "c")
    for step, data in {
        "control": batch(made, attributes=records.CONTROL), "count": batch(made, count=2, last_offset_delta=1),
        "last delta": batch(made, last_offset_delta=7), "deltas": batch(made, deltas=(0, 2, 2), last_offset_delta=2),
        "deltas packed": batch(made, deltas=(0, 2, 2), last_offset_delta=2, compression="gzip"),
    }.items():  # fmt: skip
        scene.saw(step, topic.produce(data, on=scene.connect()).seen())
    _unchanged(scene, topic)


@case(
    "K2.07", "kafka/batch-too-large",
    requirement="A batch of exactly max.message.bytes is accepted, one octet more is refused with 10.",
    reference="max.message.bytes", level="MUST", negative=True,
    accepts={"exactly": error(0), "one more": error(10), "log": must("nothing of it appended")},
)  # fmt: skip
def test_batch_too_large(scene: KafkaScene) -> None:
    limit = 5000
    topic = scene.topic(max_message_bytes=limit)

    def of(size: int) -> bytes:
        data = batch(_made(scene, "x" * 4000))
        return batch(_made(scene, "x" * (4000 + size - len(data))))

    assert (len(of(limit)), len(of(limit + 1))) == (limit, limit + 1)
    scene.saw("exactly", topic.produce(of(limit)).seen())
    scene.saw("one more", topic.produce(of(limit + 1)).seen())
    _unchanged(scene, topic, 1)


@case(
    "K2.08", "kafka/compacted-null-key",
    requirement="Of three records to a compacted topic the second has no key: refused with 87, record_errors name index 1, "
    "nothing is appended.",
    reference="KIP-467; cleanup.policy=compact", level="MUST", negative=True,
    accepts={"": error(_INVALID), "record errors": must("index 1"), **_NOTHING},
)  # fmt: skip
def test_compacted_null_key(scene: KafkaScene) -> None:
    topic = scene.topic(cleanup_policy="compact")
    now = scene.now_ms()
    done = topic.produce([Record(b"v", key, now) for key in (b"a", None, b"c")])
    scene.saw("", done.seen())
    scene.require("record errors", done.record_errors == (1,), f"{done.record_errors}")
    _unchanged(scene, topic)


@case(
    "K2.09", "kafka/future-timestamp",
    requirement="On an untouched configuration a record dated two hours ahead is refused with 32. Below 4.0 recorded.",
    reference="KIP-1030; message.timestamp.after.max.ms", level="MUST", negative=True, records=("answer",),
    accepts={"": error(_TOO_FAR).or_else(RECORDED), "log": must("nothing appended").or_else(RECORDED)},
)  # fmt: skip
def test_future_timestamp(scene: KafkaScene) -> None:
    topic = scene.topic()
    done = topic.produce([Record(b"late", None, scene.now_ms() + 2 * _HOUR_MS)])
    scene.record("answer", str(done.seen()))
    if scene.version.startswith(("2.", "3.")):
        scene.saw("", Seen("recorded"))
        scene.saw("log", Seen("recorded"))
        return
    scene.saw("", done.seen())
    _unchanged(scene, topic)


@case(
    "K2.10", "kafka/zstd-old-version",
    requirement="A zstd batch by Produce v6, and Fetch v9 from a partition that holds zstd, are refused with 76 each.",
    reference="KIP-110", level="MUST", needs="kafka>=2.1", negative=True, revision=2,
    accepts={"produce v6": error(76), "log": must("nothing of it appended"), "fetch v9": error(76), "fetch v9, topic's own": error(76)},
)  # fmt: skip
def test_zstd_old_version(scene: KafkaScene) -> None:
    topic = scene.topic()
    if not (scene.serves("produce", 6) and scene.serves("fetch", 9)):
        scene.inconclusive("Produce v6 or Fetch v9 is not served by a version that should")
    data = batch(_made(scene, "x" * 200), compression="zstd")
    scene.saw("produce v6", topic.produce(data, version=6).seen())
    _unchanged(scene, topic)
    for step, found in (("fetch v9", topic), ("fetch v9, topic's own", scene.topic(compression_type="zstd"))):
        found.produce(data)
        if {b.compression for b in found.read().batches} != {"zstd"}:
            scene.inconclusive(f"{step}: the partition holds no zstd, so no Fetch of it can be refused for that")
        scene.saw(step, found.fetch(version=9).seen())


@case(
    "K2.11", "kafka/compression-round-trip",
    requirement="Records packed by gzip, snappy, lz4 and zstd come back identical; a topic with compression.type=gzip that is "
    "fed with lz4 gives gzip batches with identical records.",
    reference="record batch v2; compression.type", level="MUST",
    accepts={k: must("identical") for k in (*packing.KINDS[1:], "lz4 to gzip")},
)  # fmt: skip
def test_compression_round_trip(scene: KafkaScene) -> None:
    def same(topic: Topic, kind: str, stored: str) -> tuple[bool, str]:
        sent = [
            Record(f"value {i} ".encode() * 20, b"key", scene.now_ms() + i, headers=(("h", b"1"),)) for i in range(20)
        ]
        done = topic.produce(batch(sent, compression=kind))
        read = topic.read()
        came = [(r.value, r.key, r.timestamp, r.headers) for r in records.plain(read.batches)]
        kinds = {b.compression for b in read.batches}
        good = came == [(r.value, r.key, r.timestamp, r.headers) for r in sent] and kinds == {stored}
        return good, f"{done.seen()}: {len(came)} records, {kinds}"

    for kind in packing.KINDS[1:]:
        scene.require(kind, *same(scene.topic(), kind, kind))
    scene.require("lz4 to gzip", *same(scene.topic(compression_type="gzip"), "lz4", "gzip"))


@case(
    "K2.12", "kafka/log-append-time",
    requirement="On a LogAppendTime topic the answer's log_append_time is the fetched batch's timestamp, the attribute bit is "
    "set, and the time is within 5 s of now.",
    reference="message.timestamp.type", level="MUST", accepts={"": must("the broker's time, the same in both")},
)  # fmt: skip
def test_log_append_time(scene: KafkaScene) -> None:
    topic = scene.topic(message_timestamp_type="LogAppendTime")
    done = topic.produce([Record(b"old", None, scene.now_ms() - 24 * _HOUR_MS)])
    batches = topic.read().batches
    if not batches:
        scene.require("", False, f"nothing is there: {done.seen()}")
        return
    one = batches[0]
    bit = bool(one.attributes & records.LOG_APPEND_TIME)
    near = abs(done.log_append_time - scene.now_ms()) < 5000
    scene.require(
        "", done.code == 0 and bit and near and one.max_timestamp == done.log_append_time,
        f"answer {done.log_append_time}, batch {one.max_timestamp}, bit {bit}",
    )  # fmt: skip


@case(
    "K2.13", "kafka/not-leader",
    requirement="Produce to a follower is refused with 6 and nothing appended; from v10 on the answer names the leader and its "
    "address.",
    reference="KIP-951; Produce", level="MUST", needs="kafka>=3.7", topology="cluster", tags=("cluster",), negative=True,
    accepts={"": error(6), **_NOTHING, "hint": should("the leader, with its address")},
)  # fmt: skip
def test_not_leader(scene: KafkaScene) -> None:
    ids = sorted(scene.stage.addresses)
    topic = scene.topic(assignment=[ids])
    leader = scene.leader(topic.name)
    follower = next(i for i in ids if i != leader)
    done = topic.produce(_made(scene, "a"), on=scene.main(follower))
    scene.saw("", done.seen())
    _unchanged(scene, topic)
    if done.answer.version < 10:
        scene.inconclusive("Produce v10 is not served by a version that should")
    ends = {e["node_id"]: (e["host"], e["port"]) for e in (done.answer.fields or {}).get("node_endpoints", [])}
    good = done.leader == leader and ends.get(leader) == scene.stage.addresses[leader]
    scene.require("hint", good, f"leader {done.leader}, end points {ends}")


@case(
    "K2.14", "kafka/unknown-topic",
    requirement="Produce and Fetch by name to an unknown topic give 3, by topic id 100.",
    reference="KIP-516", level="MUST", negative=True,
    accepts={"produce by name": error(3), "fetch by name": error(3), "produce by id": error(100).or_else(RECORDED),
             "fetch by id": error(100).or_else(RECORDED)},
)  # fmt: skip
def test_unknown_topic(scene: KafkaScene) -> None:
    import uuid

    nowhere = Topic(scene, scene.fresh("none"), uuid.uuid4(), 1)
    made, main = _made(scene, "a"), scene.main()
    by_name = main.best("produce", PRODUCE_BY_ID - 1)
    scene.saw("produce by name", nowhere.produce(made, version=by_name, on=main).seen())
    scene.saw("fetch by name", nowhere.fetch(version=main.best("fetch", FETCH_BY_ID - 1), on=main).seen())
    if scene.serves("produce", PRODUCE_BY_ID):
        scene.saw("produce by id", nowhere.produce(made, on=main).seen())
    else:
        scene.saw("produce by id", Seen("recorded"))  # not advertised: left out
    if scene.serves("fetch", FETCH_BY_ID):
        scene.saw("fetch by id", nowhere.fetch(on=main).seen())
    else:
        scene.saw("fetch by id", Seen("recorded"))
