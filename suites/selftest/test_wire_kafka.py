"""Kafka's codec: every message and version round trips, batches whole and broken, octets that are no messages."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerproof.wire.kafka import frames, murmur, octets, packing, records, removed, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.records import Record
from brokerproof.wire.kafka.schema import TAGS, Field, Struct

_PAIRS = [(k, v) for k in schema.NAMES for v in range(schema.versions(k)[0], schema.versions(k)[1] + 1)]
_SIGNED = {"int8": 7, "int16": 15, "int32": 31, "int64": 63}
_UNSIGNED = {"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64}
#: The first message of a kind loads its schema.
_CALM = settings(deadline=None)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _values(field: Field) -> st.SearchStrategy[Any]:
    one = _one(field)
    if field.array:
        several = st.lists(one, max_size=3)
        return st.none() | several if field.nullable else several
    return st.none() | one if field.nullable and field.kind in ("string", "bytes") and field.tag is None else one


def _one(field: Field) -> st.SearchStrategy[Any]:
    if field.struct is not None:
        return _messages(field.struct)
    if field.kind in _SIGNED:
        edge = 2 ** _SIGNED[field.kind]
        return st.integers(-edge, edge - 1)
    if field.kind in _UNSIGNED:
        return st.integers(0, 2 ** _UNSIGNED[field.kind] - 1)
    others: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "string": _TEXT,
        "bytes": st.binary(max_size=20),
        "float64": st.floats(allow_nan=False),
        "uuid": st.uuids(),
    }
    return others[field.kind]


def _messages(struct: Struct) -> st.SearchStrategy[dict[str, Any]]:
    made = st.fixed_dictionaries({f.name: _values(f) for f in struct.fields})
    if not struct.flexible:
        return made
    unknown = st.dictionaries(st.integers(1000, 2**20), st.binary(max_size=8), min_size=1, max_size=2)
    return st.builds(lambda m, t: {**m, TAGS: t} if t else m, made, st.none() | unknown)


@_CALM
@given(st.data())
def test_any_message_round_trips(data: st.DataObject) -> None:
    key, version = data.draw(st.sampled_from(_PAIRS))
    struct = data.draw(st.sampled_from([schema.request(key, version), schema.response(key, version)]))
    message = data.draw(_messages(struct))
    reader = octets.Reader(schema.encode(struct, message))
    assert schema.decode(struct, reader) == message
    assert not reader.left


@pytest.mark.parametrize("key", sorted(schema.NAMES))
def test_defaults_of_every_version_round_trip(key: int) -> None:
    for version in range(schema.versions(key)[0], schema.versions(key)[1] + 1):
        for struct in (schema.request(key, version), schema.response(key, version)):
            data = schema.encode(struct, {})
            again = schema.decode(struct, octets.Reader(data))
            untagged = {f.name: again[f.name] for f in struct.fields if f.tag is None}
            assert schema.encode(struct, untagged) == data


@_CALM
@given(st.sampled_from(_PAIRS), st.binary(max_size=300))
def test_octets_that_are_no_message_are_refused(pair: tuple[int, int], data: bytes) -> None:
    for struct in (schema.request(*pair), schema.response(*pair)):
        try:
            schema.decode(struct, octets.Reader(data))
        except WireError:
            continue


@_CALM
@given(st.data())
def test_a_changed_message_is_read_or_refused(data: st.DataObject) -> None:
    key, version = data.draw(st.sampled_from(_PAIRS))
    whole = bytearray(schema.encode(schema.response(key, version), {}))
    for _ in range(data.draw(st.integers(1, 4))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        frames.parse_response(key, version, b"\0\0\0\1" + bytes(whole))


def test_a_request_says_who_asks_and_what() -> None:
    data = frames.request(3, 12, 7, {"topics": None}, tags={9999: b"x"})
    found = frames.parse_request(data[4:])
    assert (found.key, found.version, found.correlation, found.client) == (3, 12, 7, "brokerproof")
    assert found.tags == {9999: b"x"}
    assert found.fields["topics"] is None


def test_api_versions_has_no_tags_in_its_response_header() -> None:
    plain = frames.response(18, 3, 5, {"api_keys": []})
    assert plain[4:8] == b"\0\0\0\5" and plain[8:10] == b"\0\0"
    assert frames.response(3, 9, 5, {"brokers": []})[8] == 0  # others do


@_CALM
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 7))
def test_a_stream_is_cut_into_frames(payloads: list[bytes], step: int) -> None:
    stream = b"".join(frames.framed(p) for p in payloads)
    found, cutter = [], frames.Frames()
    for at in range(0, len(stream), step):
        cutter.feed(stream[at : at + step])
        while (one := cutter.next()) is not None:
            found.append(one)
    assert found == payloads and not cutter.pending


def test_a_length_that_cannot_be_is_an_error() -> None:
    cutter = frames.Frames()
    cutter.feed(b"\xff\xff\xff\xff")
    with pytest.raises(WireError, match="-1 octets"):
        cutter.next()


_RECORDS = st.lists(
    st.builds(
        Record,
        value=st.none() | st.binary(max_size=30),
        key=st.none() | st.binary(max_size=10),
        timestamp=st.integers(0, 2**42),
        headers=st.lists(st.tuples(_TEXT, st.none() | st.binary(max_size=5)), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=6,
)


@_CALM
@given(_RECORDS, st.sampled_from(packing.KINDS), st.integers(0, 2**40))
def test_a_batch_comes_back(made: list[Record], kind: str, base: int) -> None:
    (found,) = records.batches(records.batch(made, compression=kind, base_offset=base))
    assert found.crc_good and found.compression == kind and found.count == len(made)
    assert [(r.value, r.key, r.timestamp, r.headers) for r in found.records] == [
        (r.value, r.key, r.timestamp, r.headers) for r in made
    ]
    assert [r.offset for r in found.records] == list(range(base, base + len(made)))


@_CALM
@given(_RECORDS, st.data())
def test_a_changed_batch_is_seen(made: list[Record], data: st.DataObject) -> None:
    whole = bytearray(records.batch(made))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        found = records.batches(bytes(whole))
    except WireError:
        return
    # Length (then it is cut short), base offset and leader epoch are outside of what the CRC covers.
    assert at < records.AT_MAGIC or not found or not found[0].crc_good or records.AT_MAGIC <= at < records.AT_CRC


@_CALM
@given(st.binary(max_size=200))
def test_octets_that_are_no_batch_are_refused(data: bytes) -> None:
    for kind in packing.KINDS:
        try:
            packing.unpack(kind, data)
            records.batches(data)
        except WireError:
            continue


def test_what_is_wrong_on_purpose_is_wrong() -> None:
    made = [Record(b"a"), Record(b"b")]
    (found,) = records.batches(records.batch(made, last_offset_delta=7, crc=1, attributes=records.CONTROL))
    assert found.last_offset_delta == 7 and not found.crc_good and found.control
    moved = records.rewritten(records.batch(made), base_offset=40, leader_epoch=3)
    assert records.batches(moved)[0].crc_good and records.batches(moved)[0].last_offset == 41


@pytest.mark.parametrize(("key", "hash"), [(b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107)])
def test_murmur2_is_the_vendors(key: bytes, hash: int) -> None:
    assert murmur.murmur2(key) == hash
    assert murmur.partition_of(key, 7) == (hash & 0x7FFFFFFF) % 7


def test_removed_versions_are_those_that_the_schemas_lack() -> None:
    for key, version, body in removed.requests("topic", "group"):
        assert version < schema.versions(key)[0] and b"topic" in body


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(WireError, match="no field"):
        schema.encode(schema.request(3, 12), {"topic": []})
    with pytest.raises(WireError, match="no schema"):
        schema.versions(32000)
    with pytest.raises(WireError, match="int16"):
        octets.fixed("int16", 70_000)


def test_fields_of_other_versions_are_left_out() -> None:
    both = {"topics": [{"topic": "x", "topic_id": uuid.UUID(int=5), "partitions": []}]}
    assert schema.fitting(schema.request(1, 4), both) == {"topics": [{"topic": "x", "partitions": []}]}
    assert schema.fitting(schema.request(1, 13), both)["topics"][0].keys() == {"topic_id", "partitions"}
