"""K4: Fetch, offsets, logs: limits, sessions, compaction, order over cut connections, long polls."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from brokerproof.conformance.case import Seen, case, error, must
from brokerproof.conformance.kafka.scene import RECORDED, KafkaScene
from brokerproof.conformance.kafka.topics import (
    EARLIEST,
    EARLIEST_LOCAL,
    LARGEST_TIMESTAMP,
    LAST_TIERED,
    LATEST,
    Fetched,
    Topic,
    fetched,
    produced,
)  # fmt: skip
from brokerproof.wire.kafka import murmur, records
from brokerproof.wire.kafka.records import Record, batch

_OUT_OF_RANGE, _UNKNOWN_SESSION, _WRONG_SESSION_EPOCH, _FENCED_EPOCH, _UNKNOWN_EPOCH = 1, 70, 71, 74, 75


@case(
    "K4.01", "kafka/offset-out-of-range",
    requirement="Fetch below the log's start and above its end gives 1; at the end 0 and no records.",
    reference="Fetch", level="MUST", negative=True,
    accepts={"below": error(_OUT_OF_RANGE), "above": error(_OUT_OF_RANGE), "at the end": must("error 0, no records")},
)  # fmt: skip
def test_offset_out_of_range(scene: KafkaScene) -> None:
    topic = scene.topic()
    topic.fill("a", "b", "c", "d")
    if topic.delete_records(2)[2] != 2:
        scene.inconclusive("DeleteRecords did not move the log's start: there is nothing below it")
    scene.saw("below", topic.fetch(1).seen())
    scene.saw("above", topic.fetch(5).seen())
    end = topic.fetch(4)
    scene.require("at the end", end.code == 0 and not end.octets, f"{end.seen()}, {end.octets} octets")


@case(
    "K4.02", "kafka/delete-records",
    requirement="DeleteRecords to n: low watermark n, Fetch below it gives 1, ListOffsets(−2) gives n. Beyond the high "
    "watermark it gives 1 and changes nothing.",
    reference="DeleteRecords", level="MUST", negative=True,
    accepts={"to n": must("low watermark n"), "fetch below": error(_OUT_OF_RANGE), "start": must("n"),
             "beyond": error(_OUT_OF_RANGE), "then": must("as before")},
)  # fmt: skip
def test_delete_records(scene: KafkaScene) -> None:
    topic = scene.topic()
    for i in range(6):
        topic.fill(f"v{i}")
    _, code, low = topic.delete_records(3)
    scene.require("to n", (code, low) == (0, 3), f"error {code}, low watermark {low}")
    scene.saw("fetch below", topic.fetch(2).seen())
    start = topic.start()
    scene.require("start", start == 3, f"{start}")
    answer, code, _ = topic.delete_records(7)
    scene.saw("beyond", answer.seen(code))
    now = (topic.start(), topic.end())
    scene.require("then", now == (3, 6), f"log from {now[0]} to {now[1]}")


@case(
    "K4.03", "kafka/first-batch-whole",
    requirement="Fetch with max_bytes and partition_max_bytes of 1 returns the first batch whole.",
    reference="KIP-74", level="MUST", accepts={"": must("the first batch whole")},
)  # fmt: skip
def test_first_batch_whole(scene: KafkaScene) -> None:
    topic = scene.topic()
    topic.fill("x" * 3000, "y")
    topic.fill("z")
    found = topic.fetch(0, max_bytes=1, partition_max_bytes=1)
    scene.require("", found.values[:2] == [b"x" * 3000, b"y"], f"{found.seen()}: {found.octets} octets")


_ASKED = {"end": LATEST, "start": EARLIEST, "largest timestamp": LARGEST_TIMESTAMP, "earliest local": EARLIEST_LOCAL,
          "last tiered": LAST_TIERED}  # fmt: skip
_SINCE = {"largest timestamp": 7, "earliest local": 8, "last tiered": 9}


@case(
    "K4.04", "kafka/list-offsets",
    requirement="ListOffsets: −1 the end, −2 the start, −3 the largest timestamp's offset, −4 the earliest local, −5 the last "
    "tiered; a timestamp: the first offset at or after it, −1 if none.",
    reference="ListOffsets; KIP-734, KIP-405, KIP-1005", level="MUST",
    accepts={**{k: must().or_else(RECORDED) for k in _ASKED}, "timestamp": must(), "exact": must(), "later": must("−1")},
)  # fmt: skip
def test_list_offsets(scene: KafkaScene) -> None:
    topic = scene.topic()
    base = scene.now_ms() - 100_000
    for i, at in enumerate((0, 5000, 2000, 9000, 7000)):
        topic.produce([Record(b"%d" % i, None, base + at)])
    topic.delete_records(1)
    # Nothing is tiered here: there is no last tiered offset.
    due = {"end": 5, "start": 1, "largest timestamp": 3, "earliest local": 1, "last tiered": -1}
    for step, asked in _ASKED.items():
        if not scene.serves("list_offsets", _SINCE.get(step, 1)):
            scene.saw(step, Seen("recorded"))  # not advertised: left out
            continue
        _, code, offset, _ = topic.list_offsets(asked)
        scene.require(step, (code, offset) == (0, due[step]), f"error {code}, offset {offset}")
    for step, at, wanted in (("timestamp", 5001, 3), ("exact", 5000, 1), ("later", 9001, -1)):
        _, code, offset, _ = topic.list_offsets(base + at)
        scene.require(step, (code, offset) == (0, wanted), f"error {code}, offset {offset}, not {wanted}")


@case(
    "K4.05", "kafka/fetch-session",
    requirement="An incremental fetch with an unknown session gives 70, with a wrong epoch 71; a right one returns only what "
    "changed.",
    reference="KIP-227", level="MUST", negative=True,
    accepts={"unknown": error(_UNKNOWN_SESSION), "wrong epoch": error(_WRONG_SESSION_EPOCH),
             "nothing new": must("no partition"), "one new": must("only the one that changed")},
)  # fmt: skip
def test_fetch_session(scene: KafkaScene) -> None:
    topic = scene.topic(partitions=2)
    topic.fill("a", partition=0)
    connection = scene.connect()
    fields = topic.fetch_fields(0, 0, session_epoch=0, min_bytes=0)
    fields["topics"][0]["partitions"] += topic.fetch_fields(0, 1)["topics"][0]["partitions"]
    session = fetched(connection.ask("fetch", **fields)).session

    def again(session: int, epoch: int, *, moved: int | None = None) -> Fetched:
        more = topic.fetch_fields(moved or 0, session=session, session_epoch=epoch, min_bytes=0)
        if moved is None:
            more["topics"] = []
        return fetched(connection.ask("fetch", **more))

    if not session:
        scene.inconclusive("the broker gave no fetch session")
    none = again(session, 1, moved=1)
    scene.require("nothing new", none.top == 0 and not none.partitions, f"{none.seen()}: {none.partitions}")
    topic.fill("b", partition=1)
    one = again(session, 2)
    scene.require("one new", [p for _, p in one.partitions] == [1] and one.values == [b"b"], f"{one.partitions}")
    scene.saw("wrong epoch", again(session, 77).seen())
    scene.saw("unknown", again(session ^ 0x5A5A5A, 1).seen())


@case(
    "K4.06", "kafka/leader-epoch",
    requirement="Fetch and ListOffsets with an older leader epoch give 74, with a newer one 75; OffsetForLeaderEpoch gives the "
    "end offset of the epoch before a leader change.",
    reference="KIP-320", level="MUST", topology="cluster", tags=("cluster", "destructive"), negative=True, limit_s=150,
    accepts={"fetch older": error(_FENCED_EPOCH), "fetch newer": error(_UNKNOWN_EPOCH),
             "list older": error(_FENCED_EPOCH), "list newer": error(_UNKNOWN_EPOCH), "end": must("of the old epoch")},
)  # fmt: skip
def test_leader_epoch(scene: KafkaScene) -> None:
    ids = sorted(scene.stage.addresses)
    topic = scene.topic(assignment=[ids])
    topic.fill("a", "b", "c")
    old = scene.partitions(topic.name)[0]
    nodes = scene.stage.nodes()
    leader = old["leader_id"]
    scene.finally_(lambda: nodes.healthy(90))
    scene.finally_(lambda: nodes.start(leader))
    nodes.kill(leader)
    other = next(i for i in ids if i != leader)

    def moved() -> bool:
        return bool(scene.partitions(topic.name, other)[0]["leader_id"] not in (leader, -1))

    if not scene.eventually(moved, 40):
        scene.inconclusive("no new leader within 40 s")
    now = scene.partitions(topic.name, other)[0]
    on = scene.connect(now["leader_id"])
    epoch = now["leader_epoch"]
    for name, given in (("older", old["leader_epoch"]), ("newer", epoch + 5)):
        scene.saw(f"fetch {name}", topic.fetch(0, leader_epoch=given, on=on).seen())
        answer, code, _, _ = topic.list_offsets(-1, leader_epoch=given, on=on)
        scene.saw(f"list {name}", answer.seen(code))
    # Only what the new leader has appended tells the end of the old epoch from the log's end.
    if topic.produce([Record(b"d", None, scene.now_ms())], on=on, acks=1).code != 0:
        scene.inconclusive("the new leader takes no record")
    part = {"partition": 0, "current_leader_epoch": -1, "leader_epoch": old["leader_epoch"]}
    told = on.ask("offset_for_leader_epoch", replica_id=-1, topics=[{"topic": topic.name, "partitions": [part]}])
    found = told.need()["topics"][0]["partitions"][0]
    good = (found["error_code"], found["leader_epoch"], found["end_offset"]) == (0, old["leader_epoch"], 3)
    nodes.start(leader)
    nodes.healthy(90)
    scene.require("end", good, f"error {found['error_code']}, epoch {found['leader_epoch']}, end {found['end_offset']}")


_KEYS, _WRITES, _BURIED = 100, 10_000, 10


@case(
    "K4.07", "kafka/compaction",
    requirement="A compacted topic keeps the last value of each key, renumbers no offset, keeps the order, and drops tombstones "
    "after delete.retention.ms.",
    reference="log compaction documents", level="MUST", tags=("slow", "config"), limit_s=150,
    settings={"log.cleaner.backoff.ms": "500"},
    accepts={"cleaned": must("fewer records in time"), "last values": must("kept"), "offsets": must("as written, in order"),
             "tombstones": must("gone")},
)  # fmt: skip
def test_compaction(scene: KafkaScene) -> None:
    topic = scene.topic(
        cleanup_policy="compact", segment_bytes=1_048_576 if scene.version >= "4.0" else 20_000, segment_ms=1000,
        min_cleanable_dirty_ratio="0.01", delete_retention_ms=1000, max_compaction_lag_ms=1000,
    )  # fmt: skip
    last: dict[bytes, tuple[int, bytes | None]] = {}
    for start in range(0, _WRITES, 500):
        made = [Record(b"value %d" % i, b"key %d" % (i % _KEYS), scene.now_ms()) for i in range(start, start + 500)]
        base = topic.produce(made).base_offset
        last.update({r.key or b"": (base + i, r.value) for i, r in enumerate(made)})
    buried = [Record(None, b"key %d" % i, scene.now_ms()) for i in range(_BURIED)]
    topic.produce(buried)
    wanted = {k: v for k, v in last.items() if k not in {r.key for r in buried}}
    seen: list[list[Record]] = [[]]

    def rolled() -> list[Record]:
        # A segment is cleaned when it is no longer the one that is written to: a record now and then lets it roll.
        topic.produce([Record(b"-", b"filler", scene.now_ms())])
        seen[0] = [r for r in records.plain(topic.read().batches) if r.key != b"filler"]
        return seen[0]

    cleaned = scene.eventually(lambda: len(rolled()) <= _KEYS + 2 * _BURIED, 60)
    scene.require("cleaned", cleaned, f"{len(seen[0])} records")
    gone = scene.eventually(lambda: all(r.value is not None for r in rolled()), 45)
    scene.require("tombstones", gone, f"{sum(r.value is None for r in seen[0])} are there")
    kept = {r.key or b"": (r.offset, r.value) for r in seen[0]}
    scene.require(
        "last values", {k: v for k, (_, v) in kept.items()} == {k: v for k, (_, v) in wanted.items()}, "other values"
    )
    offsets = [r.offset for r in seen[0]]
    scene.require("offsets", kept == wanted and offsets == sorted(set(offsets)), "other offsets, or out of order")


_CUTS, _IN_FLIGHT = 20, 5


@case(
    "K4.08", "kafka/order-in-flight-5",
    requirement="Five requests in flight of an idempotent producer, whose connection is cut and all sent again, 20 times: in "
    "each topic-partition the order as sent, and no copy.",
    reference="idempotent producer documents", level="MUST", revision=2, records=("control",),
    accepts={"": must("order as sent, no copy")},
)  # fmt: skip
def test_order_in_flight_5(scene: KafkaScene) -> None:
    sent = [(i % 2, f"v{i}".encode()) for i in range(_CUTS * _IN_FLIGHT)]
    control = scene.topic(partitions=2)
    _sent_over_cuts(scene, control, [(p, batch([Record(v, None, scene.now_ms())])) for p, v in sent])
    copies = sum(len(control.values(p)) for p in (0, 1)) - len(sent)
    scene.record("control", {"sent": len(sent), "copies in the log": copies})
    if copies < 1:
        scene.inconclusive("without sequence numbers there was no copy either: the cuts did nothing")
    topic, producer = scene.topic(partitions=2), scene.producer()
    _sent_over_cuts(scene, topic, [(p, producer.batch(topic, [v], p)) for p, v in sent])
    found = {p: topic.values(p) for p in (0, 1)}
    wanted = {p: [v for to, v in sent if to == p] for p in (0, 1)}
    scene.require("", found == wanted, f"{[len(v) for v in found.values()]} records of {len(sent)}, or another order")


def _sent_over_cuts(scene: KafkaScene, topic: Topic, batches: list[tuple[int, bytes]]) -> None:
    """Five at a time; the connection is cut before the answers are read; then all five again, until each is acknowledged.

    batches: (topic-partition, octets)."""
    for at in range(0, len(batches), _IN_FLIGHT):
        five = batches[at : at + _IN_FLIGHT]
        first = scene.connect()
        for to, data in five:
            first.send("produce", **topic.produce_fields(data, to))
        if at // _IN_FLIGHT % 2:
            first.receive()
        first.abort()
        second = scene.connect()
        for to, data in five:
            second.send("produce", **topic.produce_fields(data, to))
        codes = [produced(second.receive()).code for _ in five]
        if any(code != 0 for code in codes):
            # In flight on the first connection still: once that is dealt with, the same again is right.
            for to, data in five:
                topic.produce(data, to)
        second.close()


_GOLDEN = {b"21": -973932308, b"foobar": -790332482, b"abc": 479470107}
_PARTITIONS = 7


@case(
    "K4.09", "kafka/key-partitioner",
    requirement="partition = (murmur2(key) & 0x7fffffff) mod n: the vendor's console producer puts 200 keys there. Recorded: "
    "where librdkafka's partitioners put them.",
    reference="vendor's default partitioner", level="MUST", records=("other clients",), limit_s=120,
    accepts={"golden": must("murmur2 as published"), "": must("every key where it is due")},
)  # fmt: skip
def test_key_partitioner(scene: KafkaScene) -> None:
    scene.require("golden", {k: murmur.murmur2(k) for k in _GOLDEN} == _GOLDEN, "other values")
    topic = scene.topic(partitions=_PARTITIONS)
    keys = [f"key-{i}" for i in range(200)]
    scene.stage.vendor_writes(topic.name, keys)
    wrong = _misplaced(topic)
    scene.require(
        "", not wrong and _count(topic) == len(keys), f"{len(wrong)} elsewhere of {_count(topic)}: {wrong[:5]}"
    )
    scene.record("other clients", {p: _by_librdkafka(scene, p, keys) for p in ("murmur2_random", "consistent_random")})


def _count(topic: Topic) -> int:
    return sum(len(topic.values(p)) for p in range(topic.partitions))


def _misplaced(topic: Topic) -> list[str]:
    return [
        f"{r.key!r} in {p}" for p in range(topic.partitions) for r in records.plain(topic.read(p).batches)
        if p != murmur.partition_of(r.key or b"", topic.partitions)
    ]  # fmt: skip


def _by_librdkafka(scene: KafkaScene, partitioner: str, keys: list[str]) -> str:
    from confluent_kafka import Producer

    topic = scene.topic(partitions=_PARTITIONS)
    producer = Producer({"bootstrap.servers": scene.stage.bootstrap(), "partitioner": partitioner, "log_level": 0})
    for key in keys:
        producer.produce(topic.name, key=key, value=key)
    producer.flush(20)
    return f"{len(keys) - len(_misplaced(topic))} of {len(keys)} where the vendor's puts them"


@case(
    "K4.10", "kafka/long-poll",
    requirement="A Fetch that waits 2 s on an empty log is answered after 2 s (± 0.5 s), at once when a record is written "
    "meanwhile, and waits while fewer than min_bytes are there.",
    reference="Fetch min_bytes, max_wait_ms", level="MUST", timing=True,
    accepts={"empty": must("after 2 s"), "written": must("at once"), "too few": must("after 2 s")},
)  # fmt: skip
def test_long_poll(scene: KafkaScene) -> None:
    topic = scene.topic()

    def waited(min_bytes: int, asks: Event | None = None) -> tuple[float, Fetched]:
        connection = scene.connect()
        topic.fetch(0, max_wait_ms=0, on=connection)
        began = time.monotonic()
        if asks is not None:
            asks.set()
        found = topic.fetch(0, max_wait_ms=2000, min_bytes=min_bytes, on=connection, within=scene.seconds(10))
        return round(scene.measured(time.monotonic() - began), 2), found

    took, found = waited(1)
    scene.require(
        "empty", 1.5 <= took <= 2.5 and found.code == 0 and not found.octets, f"after {took} s: {found.seen()}"
    )
    with ThreadPoolExecutor(1) as other:
        asks = Event()
        waiting = other.submit(waited, 1, asks)
        # On a busy machine a connection takes longer than the pause: the record would be there before the question.
        asks.wait(10)
        scene.hold(0.7)
        topic.fill("x" * 40)
        took, found = waiting.result()
    scene.require("written", 0.5 <= took <= 1.5 and bool(found.octets), f"after {took} s: {found.octets} octets")
    took, found = waited(10_000)
    scene.require("too few", 1.5 <= took <= 2.5 and found.code == 0, f"after {took} s: {found.octets} octets")
