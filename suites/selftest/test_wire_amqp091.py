"""The codec of AMQP 0-9-1: round trips, pamqp as an independent oracle, and octets that are no AMQP."""

from __future__ import annotations

import contextlib
import datetime
import math
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands, frame, header

from brokerproof.wire import amqp091 as wire
from brokerproof.wire.amqp091 import Field, Frame, Raw, WireError

_SHORT = st.text(max_size=60)
_FLOATS = st.floats(allow_nan=False, width=32)
_SCALARS = st.one_of(
    st.builds(Field, st.just("t"), st.booleans()),
    *(
        st.builds(Field, st.just(tag), st.integers(low, high))
        for tag, low, high in (
            ("b", -(2**7), 2**7 - 1), ("B", 0, 2**8 - 1), ("s", -(2**15), 2**15 - 1), ("u", 0, 2**16 - 1),
            ("I", -(2**31), 2**31 - 1), ("i", 0, 2**32 - 1), ("l", -(2**63), 2**63 - 1), ("L", -(2**63), 2**63 - 1),
            ("T", 0, 2**64 - 1),
        )
    ),
    st.builds(Field, st.just("f"), _FLOATS),
    st.builds(Field, st.just("d"), st.floats(allow_nan=False)),
    st.builds(Field, st.just("S"), _SHORT),
    st.builds(Field, st.just("x"), st.binary(max_size=60)),
    st.just(Field("V", None)),
    st.builds(lambda digits, scale: Field("D", Decimal(digits).scaleb(-scale)), st.integers(-(2**31), 2**31 - 1), st.integers(0, 20)),
)  # fmt: skip
_FIELDS = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.builds(Field, st.just("A"), st.lists(inner, max_size=4)),
        st.builds(Field, st.just("F"), st.dictionaries(_SHORT, inner, max_size=4)),
    ),
    max_leaves=12,
)
_TABLES = st.dictionaries(_SHORT, _FIELDS, max_size=5)
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "bit": st.booleans(), "octet": st.integers(0, 255), "short": st.integers(0, 65535), "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**63 - 1), "timestamp": st.integers(0, 2**32 - 1), "shortstr": st.text(max_size=50), "longstr": _SHORT,
    "table": _TABLES,
}  # fmt: skip


@st.composite
def methods(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(wire.METHODS)))
    return name, {argument: draw(_KINDS[kind]) for argument, kind in wire.METHODS[name].arguments}


@settings(deadline=None)
@given(_TABLES)
def test_a_table_comes_back_with_its_types(table: dict[str, Field]) -> None:
    assert wire.read_table(wire.table(table)) == table


@settings(deadline=None)
@given(methods())
def test_a_method_comes_back_as_it_was(method: tuple[str, dict[str, Any]]) -> None:
    name, arguments = method
    found = wire.read_method(wire.method_payload(name, arguments))
    assert (found.name, found.arguments) == (name, arguments)


@settings(deadline=None)
@given(methods())
def test_pamqp_reads_what_this_codec_writes(method: tuple[str, dict[str, Any]]) -> None:
    name, arguments = method
    known: dict[int, Any] = dict(commands.INDEX_MAPPING)
    command = next((c for c in known.values() if wire._words(c.name) == name), None)
    if command is None:  # access.request is not in pamqp
        return
    arguments = {k: ({} if wire.METHODS[name].arguments and isinstance(v, dict) else v) for k, v in arguments.items()}
    octets = Frame(wire.METHOD, 3, wire.method_payload(name, arguments)).encode()
    consumed, channel, found = frame.unmarshal(octets)
    assert (consumed, channel, type(found)) == (len(octets), 3, command)
    assert {wire._argument(slot): getattr(found, slot) for slot in command.__slots__} == arguments


@settings(deadline=None)
@given(
    st.dictionaries(_SHORT, st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), _SHORT, st.none()), max_size=4)
)
def test_pamqp_reads_the_tables_that_clients_write(table: dict[str, Any]) -> None:
    octets = Frame(wire.METHOD, 1, wire.method_payload("queue.declare", {"queue": "q", "arguments": table})).encode()
    found: Any = frame.unmarshal(octets)[2]
    assert found.arguments == table


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.sampled_from([None, "text/plain"]), st.sampled_from([None, 1, 2]), st.sampled_from([None, 1_700_000_000]), _TABLES)  # fmt: skip
def test_pamqp_reads_the_content_headers(
    size: int, content_type: str | None, mode: int | None, timestamp: int | None, headers: dict[str, Field]
) -> None:  # fmt: skip
    given_ = {"content_type": content_type, "delivery_mode": mode, "timestamp": timestamp, "headers": headers}
    payload = wire.header_payload(size, given_)
    ours = wire.read_header(payload)
    assert ours.properties == {k: v for k, v in given_.items() if v is not None}
    if any(f.tag in "TFALx" for f in headers.values()):
        return  # pamqp has other ideas of these
    theirs = header.ContentHeader()
    theirs.unmarshal(payload)
    assert theirs.body_size == size
    assert theirs.properties.content_type == content_type
    when = timestamp and datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC)
    assert theirs.properties.timestamp == when


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 65535), st.binary(max_size=40)), max_size=6),
    st.data(),
)
def test_frames_are_found_wherever_the_stream_is_cut(parts: list[tuple[int, int, bytes]], data: st.DataObject) -> None:
    sent = [Frame(*part) for part in parts]
    stream = b"".join(f.encode() for f in sent)
    frames, found, at = wire.Frames(), [], 0
    while at < len(stream):
        n = data.draw(st.integers(1, len(stream) - at))
        found += list(frames.feed(stream[at : at + n]))
        at += n
    assert found == sent


@given(st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_any_octets_are_frames_or_an_error_of_its_own(data: bytes) -> None:
    frames = wire.Frames(4096)
    try:
        for found in frames.feed(data):
            str(found)
    except WireError:
        with pytest.raises(WireError):
            list(frames.feed(b""))


@given(methods(), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_payloads_are_read_or_an_error_of_its_own(
    method: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    payload = bytearray(wire.method_payload(*method))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    for read in (wire.read_method, wire.read_header, wire.read_table):
        for octets in (bytes(payload), cut):
            with contextlib.suppress(WireError):
                read(octets)
            str(Frame(wire.METHOD, 1, octets))
            str(Frame(wire.HEADER, 1, octets))


def test_a_nesting_that_nobody_needs_is_an_error_and_no_overflow() -> None:
    table = wire.table({})
    for _ in range(5000):
        table = wire.table({"a": Field("F", Raw(table))})
    with pytest.raises(WireError, match="nested"):
        wire.read_table(table)
    array = b""
    for _ in range(5000):
        array = b"A" + wire.long_string(array)
    with pytest.raises(WireError, match="nested"):
        wire.read_table(wire.long_string(b"\x01a" + array))


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("queue.declare", {"queue": "x" * 256}, "255 octets"),
        ("queue.declare", {"nope": 1}, "no argument"),
        ("queue.nope", {}, "no method"),
        ("basic.qos", {"prefetch_count": 65536}, "does not fit"),
        ("queue.declare", {"arguments": {"a": object()}}, "no field type"),
        ("queue.declare", {"arguments": {"a": Field("Q", 1)}}, "no field type"),
    ],
)
def test_the_legal_side_refuses_what_cannot_be_said(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.method_payload(name, arguments)


def test_the_illegal_side_builds_what_must_not_be() -> None:
    assert Frame(99, 7, b"ab", end=0).encode() == b"\x63\x00\x07\x00\x00\x00\x02ab\x00"
    raw = wire.method_payload("queue.declare", {"queue": Raw(b"\xc8q")})
    assert raw == struct.pack(">HHH", 50, 10, 0) + b"\xc8q\x00\x00\x00\x00\x00"


def test_the_grammars_own_tags_are_kept() -> None:
    fields = {
        "s": Field("s", Raw(b"\x03abc")),
        "l": Field("l", Raw(struct.pack(">Q", 2**63))),
        "U": Field("U", Raw(b"\x80\x00")),
    }
    assert wire.read_table(wire.table(fields), grammar=True) == fields


def test_frames_refuse_what_is_too_long_of_unknown_type_or_badly_ended() -> None:
    for octets, says in (
        (Frame(1, 0, bytes(4089)).encode(), "4097 octets"), (Frame(4, 0).encode(), "type 4"), (Frame(1, 0, end=0).encode(), "ends with"),
    ):  # fmt: skip
        with pytest.raises(WireError, match=says):
            list(wire.Frames(4096).feed(octets))


def test_content_is_cut_where_it_is_told() -> None:
    frames = list(wire.content_frames(1, bytes(100), {"delivery_mode": 2}, frame_max=28, pieces=(7, 13)))
    assert [len(f.payload) for f in frames[1:]] == [7, 13, 20, 20, 20, 20]
    assert [f.type for f in wire.content_frames(1, b"", frame_max=28)] == [wire.HEADER]


def test_a_float_is_kept_to_its_width() -> None:
    assert math.isclose(wire.read_table(wire.table({"f": Field("f", 0.1)}))["f"].value, 0.1, rel_tol=1e-6)
