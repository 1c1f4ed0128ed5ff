"""K3: idempotence and transactions: sequences, epochs, isolation, time-outs, markers."""

from __future__ import annotations

from brokerproof.conformance.case import Line, Seen, Table, case, error, must
from brokerproof.conformance.kafka.groups import committed
from brokerproof.conformance.kafka.producers import END_RAISES, PRODUCE_ADDS
from brokerproof.conformance.kafka.scene import KafkaScene
from brokerproof.conformance.kafka.topics import LATEST, READ_COMMITTED, Topic

_OUT_OF_ORDER, _DUPLICATE, _OLD_EPOCH, _TXN_STATE, _CONCURRENT, _FENCED = 45, 46, 47, 48, 51, 90
_SEQUENCE_MAX = 2**31 - 1
_OLD_PRODUCER = (_OLD_EPOCH, _TXN_STATE, _FENCED, 120)


@case(
    "K3.01", "kafka/idempotent-retry",
    requirement="Five batches with rising sequence, each sent again octet by octet: error 0 with the original base offset, and "
    "the log end unchanged.",
    reference="KIP-98; idempotent producer", level="MUST", accepts={"": must("the original offsets"), "log": must("unchanged")},
)  # fmt: skip
def test_idempotent_retry(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer()
    batches = [producer.batch(topic, [f"v{i}"]) for i in range(5)]
    first = [topic.produce(b) for b in batches]
    again = [topic.produce(b) for b in batches]
    pairs = [(a.code, a.base_offset, b.code, b.base_offset) for a, b in zip(first, again, strict=True)]
    scene.require("", all(a == (0, i, 0, i) for i, a in enumerate(pairs)), f"{pairs}")
    scene.require("log", topic.end() == 5, f"log end {topic.end()}")


@case(
    "K3.02", "kafka/sequence-gap",
    requirement="After six batches the first one again gives 45 or 46, a batch that skips a sequence 45; nothing is appended.",
    reference="KIP-98", level="MUST", negative=True,
    accepts={"old duplicate": error(_OUT_OF_ORDER, _DUPLICATE), "gap": error(_OUT_OF_ORDER), "log": must("unchanged")},
)  # fmt: skip
def test_sequence_gap(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer()
    batches = [producer.batch(topic, [f"v{i}"]) for i in range(6)]
    for data in batches:
        topic.produce(data)
    scene.saw("old duplicate", topic.produce(batches[0]).seen())
    scene.saw("gap", topic.produce(producer.batch(topic, ["gap"], sequence=7)).seen())
    scene.require("log", topic.end() == 6, f"log end {topic.end()}")


@case(
    "K3.03", "kafka/unknown-producer",
    requirement="Recorded: a fresh producer id whose first batch has sequence 7; and a batch repeated after DeleteRecords has "
    "removed all of that producer's.",
    reference="idempotent producer state", level="unspecified", records=("first sequence 7", "after DeleteRecords"),
)  # fmt: skip
def test_unknown_producer(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer()
    done = topic.produce(producer.batch(topic, ["seven"], sequence=7))
    scene.record("first sequence 7", f"{done.seen()}")
    other, second = scene.topic(), scene.producer()
    data = second.batch(other, ["one"])
    other.produce(data)
    other.delete_records(1)
    done = other.produce(data)
    scene.record("after DeleteRecords", f"{done.seen()}, base offset {done.base_offset}, log end {other.end()}")


@case(
    "K3.04", "kafka/sequence-wrap",
    requirement="A producer's sequence at 2^31 − 1 goes on at 0, and from there; what is sent again behind the turn is known by its sequence.",
    reference="KIP-98", level="MUST", revision=2,
    accepts={"": Table("accepted", (Line("PASS", behaviour=("answered",), codes=(0,)),)), "goes on": error(0),
             "again": must("the original offsets"), "log": must("each once, in order")},
)  # fmt: skip
def test_sequence_wrap(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer()
    sent = [
        producer.batch(topic, [f"{number}"], sequence=number) for number in (_SEQUENCE_MAX - 1, _SEQUENCE_MAX, 0, 1)
    ]
    for last, data in zip((_SEQUENCE_MAX - 1, _SEQUENCE_MAX), sent[:2], strict=True):
        done = topic.produce(data)
        if done.code != 0:
            scene.inconclusive(f"the broker takes no batch with sequence {last}: {done.seen()}")
    scene.saw("", topic.produce(sent[2]).seen())
    scene.saw("goes on", topic.produce(sent[3]).seen())
    again = [(done.code, done.base_offset) for done in map(topic.produce, sent[1:])]
    scene.require("again", again == [(0, 1), (0, 2), (0, 3)], f"{again}")
    found = topic.values()
    scene.require("log", found == [str(n).encode() for n in (_SEQUENCE_MAX - 1, _SEQUENCE_MAX, 0, 1)], f"{found}")


@case(
    "K3.05", "kafka/stale-epoch",
    requirement="After a second InitProducerId, the old epoch gets 47 for Produce and 90 for AddPartitionsToTxn and EndTxn.",
    reference="KIP-588; KIP-360", level="MUST", negative=True,
    accepts={"produce": error(_OLD_EPOCH), "add partitions": error(_FENCED), "end": error(_FENCED)},
)  # fmt: skip
def test_stale_epoch(scene: KafkaScene) -> None:
    topic, old = scene.topic(), scene.producer(transactional=True)
    old.send(topic, "first")
    old.finish(commit=True)
    new = scene.producer(id=old.id or "")
    new.send(topic, "second")  # the partition's leader knows the new epoch from here on
    data = old.batch(topic, ["late"])
    scene.saw(
        "produce", old.send_batch(topic, data, version=min(PRODUCE_ADDS - 1, scene.main().best("produce"))).seen()
    )
    scene.saw("add partitions", scene.settled(lambda: old.add(topic), unless=(_CONCURRENT,)).seen())
    end = scene.settled(lambda: old.end(True, version=old.to().best("end_txn")), unless=(_CONCURRENT,))
    scene.saw("end", end.seen())
    new.finish(commit=True)


@case(
    "K3.06", "kafka/init-fences",
    requirement="A second InitProducerId while the first has an open transaction: 51 until that is done, then the same id with "
    "a higher epoch or a new id; the open transaction is aborted, and the first one's next call is fenced.",
    reference="KIP-98", level="MUST", negative=True,
    accepts={"init": must("a higher epoch or a new id"), "aborted": must("the open transaction"),
             "fenced": error(_FENCED, _OLD_EPOCH)},
)  # fmt: skip
def test_init_fences(scene: KafkaScene) -> None:
    topic, old = scene.topic(), scene.producer(transactional=True)
    old.send(topic, "open")
    new = scene.producer(id=old.id or "")
    higher = new.pid != old.pid or new.epoch > old.epoch
    scene.require("init", higher, f"id {new.pid} epoch {new.epoch} after id {old.pid} epoch {old.epoch}")
    done = scene.eventually(lambda: _stable(topic), 15)
    kept = topic.read(isolation=READ_COMMITTED).committed()
    scene.require("aborted", done and not kept, f"last stable offset moved on: {done}; {kept}")
    scene.saw("fenced", scene.settled(lambda: old.end(True), unless=(_CONCURRENT,)).seen())


def _stable(topic: Topic) -> bool:
    """Whether no transaction is open: the last stable offset is the high watermark, and something is there."""
    found = topic.fetch(topic.start())
    return found.last_stable == found.high_watermark > 0


@case(
    "K3.07", "kafka/isolation",
    requirement="With committed, aborted and open transactions between plain records, read_committed returns nothing at or "
    "past the last stable offset and lists the aborted ranges; read_uncommitted returns all up to the high watermark.",
    reference="KIP-98; Fetch isolation_level", level="MUST",
    accepts={"committed": must("up to the last stable offset"), "aborted": must("listed"), "uncommitted": must("all"),
             "offsets": must("ListOffsets agrees")},
)  # fmt: skip
def test_isolation(scene: KafkaScene) -> None:
    topic = scene.topic()
    good, bad, open_ = (scene.producer(transactional=True) for _ in range(3))
    topic.fill("plain 1")
    good.send(topic, "good")
    first_bad = bad.send(topic, "bad").base_offset
    good.finish(commit=True)
    bad.finish(commit=False)
    # The markers are written after the answer: until they are, the last stable offset is where the transaction began.
    if not scene.eventually(lambda: _stable(topic), 10):
        scene.inconclusive("the markers of ended transactions were not written within 10 s")
    topic.fill("plain 2")
    held = open_.send(topic, "open").base_offset
    topic.fill("plain 3")
    committed, every = topic.read(isolation=READ_COMMITTED), topic.read()
    past = [b.base_offset for b in committed.batches if b.last_offset >= held]
    values = committed.committed()
    right = values == [b"plain 1", b"good", b"plain 2"] and committed.last_stable == held and not past
    scene.require("committed", right, f"{values}, last stable offset {committed.last_stable}, past it {past}")
    scene.require("aborted", committed.aborted == ((bad.pid, first_bad),), f"{committed.aborted}")
    wanted = [b"plain 1", b"good", b"bad", b"plain 2", b"open", b"plain 3"]
    scene.require("uncommitted", every.values == wanted, f"{every.values}")
    ends = topic.offset(LATEST, isolation=READ_COMMITTED), topic.end()
    scene.require("offsets", ends == (held, every.high_watermark), f"{ends}")
    open_.finish(commit=False)


@case(
    "K3.08", "kafka/transaction-timeout",
    requirement="A timeout above the broker's maximum gives 50; a transaction of 5 s that is left open is aborted, and the last "
    "stable offset moves on.",
    reference="transaction.max.timeout.ms", level="MUST", tags=("slow",), timing=True, limit_s=120,
    accepts={"too long": error(50), "aborted": must("within 60 s")},
)  # fmt: skip
def test_transaction_timeout(scene: KafkaScene) -> None:
    limit = int(scene.config("transaction.max.timeout.ms"))
    answer = scene.settled(
        lambda: scene.ask("init_producer_id", transactional_id=scene.fresh("x"), transaction_timeout=limit + 1)
    )
    scene.saw("too long", answer.seen())
    topic = scene.topic()
    left = scene.producer(transactional=True, timeout_ms=5000)
    left.send(topic, "left open")
    aborted = scene.eventually(lambda: _stable(topic), 60)
    kept = topic.read(isolation=READ_COMMITTED).committed()
    scene.require("aborted", aborted and not kept, f"last stable offset moved on: {aborted}; {kept}")


@case(
    "K3.09", "kafka/transaction-version-2",
    requirement="With transaction.version 2 EndTxn v5 returns the epoch raised by one per transaction, and Produce v12 adds "
    "the partition without AddPartitionsToTxn.",
    reference="KIP-890", level="MUST", needs="kafka>=4.0",
    accepts={"produce": error(0), "epoch": must("raised by one each"), "committed": must("all of it")},
)  # fmt: skip
def test_transaction_version_2(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer(transactional=True)
    epochs = [(producer.pid, producer.epoch)]
    for i in range(3):
        data = producer.batch(topic, [f"v{i}"])
        done = scene.settled(lambda data=data: producer.send_batch(topic, data).answer, unless=(_CONCURRENT,))
        scene.saw("produce", done.seen())
        scene.settled(lambda: producer.end(True, version=END_RAISES), unless=(_CONCURRENT,))
        epochs.append((producer.pid, producer.epoch))
    pid, first = epochs[0]
    scene.require("epoch", epochs == [(pid, first + i) for i in range(4)], f"{epochs}")
    scene.eventually(lambda: _stable(topic), 10)
    values = topic.read(isolation=READ_COMMITTED).committed()
    scene.require("committed", values == [b"v0", b"v1", b"v2"], f"{values}")


@case(
    "K3.10", "kafka/no-late-write",
    requirement="A Produce that arrives after its transaction was aborted, also by time-out, is refused (47, 48, 90 or 120), "
    "and nothing is left open.",
    reference="KIP-890", level="MUST", negative=True, tags=("slow",), variants=("", "timeout"), limit_s=120,
    accepts={"late": error(*_OLD_PRODUCER), "stable": must("nothing left open")},
)  # fmt: skip
def test_no_late_write(scene: KafkaScene) -> None:
    topic = scene.topic()
    producer = scene.producer(transactional=True, timeout_ms=5000 if scene.variant else 60_000)
    producer.send(topic, "in time")
    late = producer.batch(topic, ["late"])
    if not scene.variant:
        raises = scene.serves("end_txn", END_RAISES)
        scene.settled(lambda: producer.end(False, version=END_RAISES if raises else None), unless=(_CONCURRENT,))
    if not scene.eventually(lambda: _stable(topic), 60):
        scene.inconclusive("the transaction was not aborted within 60 s")
    scene.saw("late", producer.send_batch(topic, late, version=scene.main().best("produce", PRODUCE_ADDS - 1)).seen())
    found = topic.fetch()
    left = found.high_watermark - found.last_stable
    scene.require(
        "stable",
        found.code == 0 and left == 0,
        f"last stable offset {left} below the high watermark, code {found.code}",
    )


@case(
    "K3.11", "kafka/end-txn-state",
    requirement="EndTxn(commit) after an abort has completed gives 48; a call while the last one still completes 51, and the "
    "same call later is taken.",
    reference="EndTxn", level="MUST", negative=True,
    accepts={
        "commit after abort": error(_TXN_STATE),
        "while completing": Table("51, or done already", (
            Line("PASS", behaviour=("answered",), codes=(_CONCURRENT,)),
            Line("PASS", behaviour=("always done already",)),
        )),
        "retried": error(0), "again": error(0),
    },
)  # fmt: skip
def test_end_txn_state(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer(transactional=True)
    seen = None
    for i in range(40):
        producer.send(topic, f"v{i}")
        producer.finish(commit=True)
        quick = producer.add(topic)
        if quick.code:
            seen = seen or quick
            quick = scene.settled(lambda: producer.add(topic), unless=(_CONCURRENT,))
            scene.saw("retried", quick.seen())
            break
    else:
        scene.saw("retried", quick.seen())
    scene.saw("while completing", Seen("always done already") if seen is None else seen.seen())
    producer.finish(commit=False)
    scene.eventually(lambda: _stable(topic), 10)
    # The same end again is what a client does whose answer got lost.
    scene.saw("again", scene.settled(lambda: producer.end(False), unless=(_CONCURRENT,)).seen())
    scene.saw("commit after abort", scene.settled(lambda: producer.end(True), unless=(_CONCURRENT,)).seen())


@case(
    "K3.12", "kafka/txn-offset-commit",
    requirement="Offsets of TxnOffsetCommit are invisible until the commit and gone on abort; OffsetFetch with require_stable "
    "gives 88 while they are pending.",
    reference="KIP-98; KIP-447", level="MUST",
    accepts={"pending": must("invisible"), "stable": error(88), "committed": must("visible"), "aborted": must("gone")},
)  # fmt: skip
def test_txn_offset_commit(scene: KafkaScene) -> None:
    topic, producer, group = scene.topic(), scene.producer(transactional=True), scene.group()

    def commit(offset: int) -> None:
        scene.settled(
            lambda: producer.to().ask(
                "add_offsets_to_txn", transactional_id=producer.id, producer_id=producer.pid,
                producer_epoch=producer.epoch, group_id=group,
            ), unless=(_CONCURRENT, 14, 15, 16),
        ).need()  # fmt: skip
        part = {
            "partition_index": 0,
            "committed_offset": offset,
            "committed_leader_epoch": -1,
            "committed_metadata": "",
        }
        done = scene.settled(
            lambda: scene.coordinator(group).ask(
                "txn_offset_commit", min(4, scene.main().best("txn_offset_commit")), transactional_id=producer.id,
                group_id=group, producer_id=producer.pid, producer_epoch=producer.epoch, generation_id=-1, member_id="",
                topics=[{"name": topic.name, "partitions": [part]}],
            ), unless=(_CONCURRENT, 14, 15, 16),
        )  # fmt: skip
        if done.code != 0:
            scene.inconclusive(f"TxnOffsetCommit: {done.seen()}")

    def told(stable: bool = False) -> tuple[int | None, int]:
        return committed(scene, group, topic, stable=stable)

    commit(7)
    scene.require("pending", told() == (0, -1), f"{told()}")
    scene.saw("stable", Seen("answered", code=told(stable=True)[0]))
    producer.finish(commit=True)
    visible = scene.eventually(lambda: told(stable=True) == (0, 7), 10)
    scene.require("committed", visible, f"{told()}")
    commit(9)
    producer.finish(commit=False)
    gone = scene.eventually(lambda: told(stable=True) == (0, 7), 10)
    scene.require("aborted", bool(gone), f"{told()}, stable {told(stable=True)}")


@case(
    "K3.13", "kafka/control-batches",
    requirement="After commits and aborts the client hands no control record to the application, offsets have holes where the "
    "markers are, and a consumer goes over them.",
    reference="record batch v2", level="MUST",
    accepts={"markers": must("at the holes"), "client": must("the committed records only")},
)  # fmt: skip
def test_control_batches(scene: KafkaScene) -> None:
    topic, producer = scene.topic(), scene.producer(transactional=True)
    for i, commit in enumerate((True, False, True)):
        producer.send(topic, f"v{i}")
        producer.finish(commit=commit)
        scene.eventually(lambda: _stable(topic), 10)
    topic.fill("last")
    found = topic.read().batches
    holes = [b.base_offset for b in found if b.control]
    kinds = [b.records[0].key for b in found if b.control]
    scene.require("markers", holes == [1, 3, 5] and [k and k[3] for k in kinds] == [1, 0, 1], f"{holes} {kinds}")
    handed = _by_client(scene, topic, 3)
    scene.require("client", handed == [(0, b"v0"), (4, b"v2"), (6, b"last")], f"{handed}")


def _by_client(scene: KafkaScene, topic: Topic, count: int) -> list[tuple[int, bytes]]:
    """(offset, value) of what a client library hands on, isolation level read_committed."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {"bootstrap.servers": scene.stage.bootstrap(), "group.id": scene.fresh("g"), "enable.auto.commit": False,
         "isolation.level": "read_committed", "log_level": 0, "fetch.wait.max.ms": 100}
    )  # fmt: skip
    found: list[tuple[int, bytes]] = []
    try:
        consumer.assign([TopicPartition(topic.name, 0, 0)])

        def enough() -> bool:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                found.append((message.offset(), message.value()))
            return len(found) >= count

        scene.eventually(enough, 15)
        consumer.poll(0.2)
    finally:
        consumer.close()
    return found
