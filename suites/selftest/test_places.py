"""Where nodes have a message: read from literal bytes of each product's files, and looked for in a bounded way."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from test_checking import write

from brokerproof.brokers.base import Locates
from brokerproof.brokers.kafka import places as kafka
from brokerproof.brokers.memory.cluster import MemoryCluster
from brokerproof.brokers.rabbitmq import places as rabbitmq
from brokerproof.brokers.rabbitmq.erlang import Replica
from brokerproof.brokers.rocketmq import places as rocketmq
from brokerproof.errors import EnvironmentProblem
from brokerproof.message import Bodies, mark
from brokerproof.places import read_places, record_places
from brokerproof.plan import Destination, Plan, Sender, Workload
from brokerproof.runtime import seeking
from brokerproof.runtime.seeking import Hits, plain, seek
from brokerproof.where import Where

TRIAL = 0x1122334455667788
BODIES = Bodies(trial=TRIAL, sender=0, seed=1, size=64)


def body(n: int) -> bytes:
    return BODIES.one(n, -1)


def marks(*numbers: int) -> dict[bytes, tuple[str, int]]:
    return {mark(TRIAL, n): ("t", 0) for n in numbers}


# -- Kafka: record batches, version 2 ----------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def batch(base: int, numbers: Sequence[int], *, epoch: int = 3, codec: int = 0, key: bytes = b"k") -> bytes:
    records = b""
    for delta, n in enumerate(numbers):
        record = b"\0" + varint(200) + varint(delta) + varint(len(key)) + key + varint(64) + body(n) + varint(0)
        records += varint(len(record)) + record
    head = struct.pack(">ibIhiqqqhii", epoch, 2, 0, codec, len(numbers) - 1, 0, 0, -1, -1, -1, len(numbers))
    return struct.pack(">qi", base, len(head) + len(records)) + head + records


SEGMENT = "t-2/00000000000000000000.log"


def test_a_kafka_record_has_its_batchs_epoch_and_an_offset_of_its_own() -> None:
    data = batch(0, [900, 901]) + batch(2, [5, 6, 7], epoch=4) + batch(5, [5], epoch=6)
    found = list(kafka.read(SEGMENT, data, Hits(marks(7, 5))))
    assert [(m, p["partition"], p["offset"], p["epoch"]) for m, p in found] == [
        (mark(TRIAL, 5), 2, 2, 4), (mark(TRIAL, 7), 2, 4, 4), (mark(TRIAL, 5), 2, 5, 6),
    ]  # fmt: skip
    for m, place in found:
        assert data[place["byte"] :].startswith(m) and place["file"] == SEGMENT


def test_a_kafka_record_that_is_cut_short_has_no_offset() -> None:
    data = batch(0, [900]) + batch(1, [5])[:-1]
    ((_, place),) = kafka.read(SEGMENT, data, Hits(marks(5)))
    assert place["offset"] == "none, it is no whole record"


def test_packed_kafka_batches_are_said_not_to_be_read() -> None:
    node = Node({SEGMENT: batch(0, [5]) + batch(1, [6], codec=3)})
    found = seek(node, [""], marks(5, 6), read=kafka.read, deadline=later())
    assert found[mark(TRIAL, 5)].found
    assert found[mark(TRIAL, 6)].says == f"not looked: {SEGMENT}: batches are packed with lz4"


# -- RocketMQ: the commit log ------------------------------------------------------------------------------------------


def record(n: int, queue_offset: int, physical: int, *, v6: bool = False) -> bytes:
    host, flag = (20, 1 << 4 | 1 << 5) if v6 else (8, 0)
    rest = struct.pack(">iqi", 0, 0, 64) + body(n) + b"\x07a-topic" + struct.pack(">h", 0)
    hosts = bytes(host) + struct.pack(">q", 1) + bytes(host)
    size = 48 + len(hosts) + len(rest)
    return struct.pack(">iiIiiqqiq", size, -626843481, 0, 3, 0, queue_offset, physical, flag, 1) + hosts + rest


@pytest.mark.parametrize("v6", [False, True])
def test_a_rocketmq_record_is_found_around_its_body(v6: bool) -> None:
    first = record(900, 6, 4096, v6=v6)
    data = first + record(5, 7, 4096 + len(first), v6=v6) + bytes(64)
    ((_, place),) = rocketmq.read("commitlog/00000000000000004096", data, Hits(marks(5)))
    told = (place["topic"], place["queue"], place["queue offset"], place["commit-log offset"])
    assert told == ("a-topic", 3, 7, 4096 + len(first))
    where = Where((place,))
    assert "beyond the end of its log" not in rocketmq.within(where, 4096 + len(data)).found[0]
    assert rocketmq.within(where, 4096 + len(first)).found[0]["beyond the end of its log"] == 4096 + len(first)
    assert rocketmq.within(where, None).says == "the end of its log is not known"


def test_octets_of_a_body_without_a_record_are_called_so() -> None:
    ((_, place),) = rocketmq.read("commitlog/00000000000000000000", bytes(200) + body(5), Hits(marks(5)))
    assert place["record"].startswith("none")
    ((_, place),) = rocketmq.read("commitlog/00000000000000000000", body(5), Hits(marks(5)))
    assert place["record"].startswith("none")


# -- RabbitMQ: Ra's write-ahead log and segments -----------------------------------------------------------------------


def wal(*entries: tuple[int, int, int, int]) -> bytes:
    """(writer, index, term, message number) each; a writer's name stands before its first."""
    out, known = b"RAWA\x01", set()
    for writer, index, term, n in entries:
        data = b"\x83" + body(n) + b"tail"
        name = f"2F_Q{writer}".encode()
        first = writer not in known
        known.add(writer)
        out += ((0 if first else 1 << 22) | writer).to_bytes(3, "big")
        out += struct.pack(">H", len(name)) + name if first else b""
        out += struct.pack(">IIQQ", 0, len(data), index, term) + data
    return out


def test_a_raft_entry_has_index_and_term_and_may_be_replaced_later() -> None:
    data = wal((1, 10, 2, 5), (2, 3, 1, 900), (1, 11, 2, 6), (1, 11, 4, 7), (2, 4, 1, 8)) + bytes(40)
    found = dict(rabbitmq.read("quorum/rabbit@r1/1.wal", data, Hits(marks(5, 6, 7, 8))))
    said = [(found[mark(TRIAL, n)]["index"], found[mark(TRIAL, n)]["term"]) for n in (5, 6, 7, 8)]
    assert said == [(10, 2), (11, 2), (11, 4), (4, 1)]
    assert {n: found[mark(TRIAL, n)].get("replaced") for n in (5, 6, 7, 8)} == {
        5: None, 6: "by index 11 of term 4", 7: None, 8: None,
    }  # fmt: skip


@pytest.mark.parametrize(("version", "form"), [(1, ">QQIII"), (2, ">QQQII")])
def test_a_segment_has_an_index_in_front(version: int, form: str) -> None:
    at = 8 + 3 * struct.calcsize(form)
    index = b"".join(struct.pack(form, 20 + i, 5, at + 64 * i, 64, 0) for i in range(2))
    data = struct.pack(">4sHH", b"RASG", version, 3) + index + bytes(struct.calcsize(form)) + body(5) + body(6)
    ((_, place),) = rabbitmq.read("quorum/rabbit@r1/2F_Q/00000001.segment", data, Hits(marks(6)))
    assert (place["index"], place["term"], place["byte"]) == (21, 5, at + 64)


def test_other_files_of_rabbitmq_give_file_and_byte_and_the_node_what_it_is() -> None:
    ((_, place),) = rabbitmq.read("msg_stores/vhosts/x/queues/y/0.qs", b"junk" + body(5), Hits(marks(5)))
    assert place == {"file": "msg_stores/vhosts/x/queues/y/0.qs", "byte": 4}
    where = Where((place,))
    assert rabbitmq.remarked(where, Replica("follower", 3, 17)).says == "follower of the queue at term 3, commit 17"
    nowhere = rabbitmq.remarked(Where(says="not there"), Replica("none"))
    assert nowhere.says == "not there (what was consumed may have left its files); no member of the queue"
    assert "does not say" in rabbitmq.remarked(where, None).says


# -- looking -----------------------------------------------------------------------------------------------------------


class Node:
    """A node whose files are given."""

    def __init__(self, files: dict[str, bytes], error: str = "") -> None:
        self._files, self._error = files, error

    def files(self, folder: str) -> Iterator[tuple[str, int, IO[bytes]]]:
        for path, data in self._files.items():
            yield path, len(data), io.BytesIO(data)
        if self._error:
            raise EnvironmentProblem(self._error)


def later() -> float:
    return time.monotonic() + 60


def test_what_is_found_not_there_and_not_looked_at_are_three_things(monkeypatch: pytest.MonkeyPatch) -> None:
    five, six = mark(TRIAL, 5), mark(TRIAL, 6)
    files = {"a.log": b"junk" + body(5), "b.log": body(6) + body(5), "c.index": body(6)}

    def look(node: Node, *, deadline: float | None = None) -> dict[bytes, Where]:
        return seek(node, [""], marks(5, 6, 7), read=plain, wanted=lambda p: p.endswith(".log"),
                    deadline=later() if deadline is None else deadline)  # fmt: skip

    found = look(Node(files))
    assert [(p["file"], p["byte"]) for p in found[five].found] == [("a.log", 4), ("b.log", 64)]
    assert [(p["file"], p["byte"]) for p in found[six].found] == [("b.log", 0)]
    assert (found[five].says, found[mark(TRIAL, 7)]) == ("", Where(says="not there"))

    broken = look(Node(files, error="it is gone"))
    assert broken[five].found and {w.says for w in broken.values()} == {"not looked: it is gone"}
    assert {w.says for w in look(Node(files), deadline=0.0).values()} == {"not looked: time was up"}
    assert {w.says for w in look(Node({})).values()} == {"not there: it has no files of that kind"}

    monkeypatch.setattr(seeking, "BYTES_MAX", 70)
    short = look(Node(files))
    assert len(short[five].found) == 1 and not short[six].found
    assert short[six].says.startswith("not looked: only the first")


def test_a_message_that_lies_there_a_hundred_times_is_told_a_few_times() -> None:
    found = seek(Node({"a": body(5) * 100}), [""], marks(5), read=plain, deadline=later())
    assert len(found[mark(TRIAL, 5)].found) == seeking.COPIES_MAX


# -- a trial's file ----------------------------------------------------------------------------------------------------


def trial(folder: Path, *tale: str) -> Plan:
    write(folder, *tale)
    return Plan(
        product="memory", version="sound", topology="single", trial=folder.name, seed=7,
        workload=Workload(destinations=(Destination(name="q", kind="queue"),), senders=(Sender(),)),
    )  # fmt: skip


def test_the_witnesses_and_one_that_was_kept_are_looked_for_and_nothing_else(tmp_path: Path) -> None:
    lost = [f"ok send {n}" for n in range(40)]
    plans = [trial(tmp_path / "bad", *lost, "ok send 50", "ok send 51", "ok receive 50", "ok receive 51"),
             trial(tmp_path / "sane", "ok send 1", "ok receive 1")]  # fmt: skip
    cluster = MemoryCluster("sound", {})
    assert isinstance(cluster, Locates)
    for plan, kept in zip(plans, ((50, 51), (1,)), strict=True):
        cluster.create(plan.workload.destinations[0], plan.destination_name(0))
        bodies = Bodies(trial=plan.trial_number, sender=0, seed=1, size=64)
        for n in kept:
            cluster.store(plan.destination_name(0), 0, bodies.one(n, -1))
    record_places(cluster, [(plan, tmp_path / plan.trial) for plan in plans], 9.5)
    bad = json.loads((tmp_path / "bad" / "places.json").read_text())
    assert (bad["sample"], bad["says"]) == (51, "")
    assert set(bad["messages"]) == {*map(str, range(20)), "51"}
    assert bad["messages"]["3"] == {"m1": {"found": [], "says": "not there"}}
    where, at_s, said = read_places(tmp_path / "bad", 51)
    assert at_s == 9.5
    assert (where["m1"].lines(), said) == (["partition 0, position 1, state in the queue"], "")
    assert set(json.loads((tmp_path / "sane" / "places.json").read_text())["messages"]) == {"1"}
    assert read_places(tmp_path / "bad", 30)[2].endswith("first witnesses; message 51 was, of those that were kept")
    assert read_places(tmp_path, 1) == ({}, -1.0, "not recorded")


@pytest.mark.parametrize(
    ("cluster", "said"),
    [("cannot", "not looked: memory cannot tell"), ("raises", "not looked: RuntimeError: the disk is on fire")],
)
def test_a_cluster_that_cannot_be_asked_costs_nothing_but_the_answer(tmp_path: Path, cluster: str, said: str) -> None:
    class Cannot:
        product = "memory"

    class Raises(Cannot):
        def locate(self, *asked: Any) -> Any:
            raise RuntimeError("the disk is on fire")

    plan = trial(tmp_path / "one", "ok send 1")
    made: Any = Cannot() if cluster == "cannot" else Raises()
    record_places(made, [(plan, tmp_path / "one")], 9.5)
    assert read_places(tmp_path / "one", 0) == ({}, -1.0, said)


def test_a_history_that_cannot_be_read_is_said_and_raises_nothing(tmp_path: Path) -> None:
    plan = trial(tmp_path / "one", "ok send 1")
    (tmp_path / "one" / "history.arrow").unlink()
    record_places(MemoryCluster("sound", {}), [(plan, tmp_path / "one")], 9.5)
    assert "not looked: HistoryError" in read_places(tmp_path / "one", 1)[2]
