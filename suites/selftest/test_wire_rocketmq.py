"""The remoting codec: round trips, and octets that are no frames."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerproof.wire import rocketmq as wire

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_WORDS = st.dictionaries(_TEXT, _TEXT, max_size=5)
_PROPERTIES = st.dictionaries(
    st.text("abcdefgXYZ_", min_size=1, max_size=10), st.text("abc 0189äß", max_size=20), max_size=4
)
_FRAMES = st.builds(
    wire.Frame,
    code=st.integers(0, 32767),
    opaque=st.integers(-(2**31), 2**31 - 1),
    flag=st.integers(0, 3),
    remark=_TEXT,
    fields=_WORDS,
    body=st.binary(max_size=200),
    codec=st.sampled_from([wire.JSON, wire.COMPACT]),
    language=st.sampled_from(wire.LANGUAGES),
    version=st.integers(0, 500),
)
_STORED = st.builds(
    wire.Stored,
    queue=st.integers(0, 7),
    offset=st.integers(0, 2**40),
    flag=st.integers(0, 9),
    sys_flag=st.sampled_from([0, 4, 8, 12]),
    reconsumed=st.integers(0, 16),
    body=st.binary(max_size=100),
    topic=st.text("abcXYZ%_-", min_size=1, max_size=200),
    properties=_PROPERTIES,
    position=st.integers(0, 2**40),
    stored_ms=st.integers(0, 2**42),
)


@given(st.lists(_FRAMES, max_size=4), st.data())
def test_frames_come_back_however_they_are_cut(frames: list[wire.Frame], data: st.DataObject) -> None:
    octets = b"".join(frame.encode() for frame in frames)
    decoder, came = wire.Decoder(), []
    while octets:
        n = data.draw(st.integers(1, len(octets)))
        came += decoder.feed(octets[:n])
        octets = octets[n:]
    assert came == frames
    assert decoder.pending == 0


@given(st.binary(max_size=300))
def test_any_octets_are_frames_or_refused(octets: bytes) -> None:
    with contextlib.suppress(wire.ProtocolError):
        wire.Decoder().feed(octets)


@given(st.binary(max_size=80), st.sampled_from([wire.JSON, wire.COMPACT]))
def test_any_header_is_read_or_refused(header: bytes, codec: int) -> None:
    with contextlib.suppress(wire.ProtocolError):
        wire.Decoder().feed(wire.illegal(header, b"body", codec=codec))


@pytest.mark.parametrize(
    "octets",
    [
        wire.illegal(b"{}", codec=7),
        wire.illegal(b"{}", header_length=1000),
        wire.illegal(b"{}", length=-1),
        wire.illegal(b"{}", length=wire.FRAME_MAX + 1),
        wire.illegal(b"{not json"),
        wire.illegal(b"[1]"),
        wire.illegal(b"\x00\x01", codec=wire.COMPACT),
    ],
)
def test_illegal_frames_are_refused(octets: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        wire.Decoder().feed(octets)


@given(_FRAMES, st.integers(0, 100), st.binary(min_size=1, max_size=1))
def test_a_changed_octet_is_read_or_refused(frame: wire.Frame, at: int, octet: bytes) -> None:
    octets = bytearray(frame.encode())
    octets[at % len(octets)] = octet[0]
    with contextlib.suppress(wire.ProtocolError):
        wire.Decoder().feed(bytes(octets))


@given(st.lists(_STORED, max_size=3))
def test_stored_messages_come_back(messages: list[wire.Stored]) -> None:
    assert list(wire.stored(b"".join(wire.encode_stored(m) for m in messages))) == messages


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_octets_are_messages_or_refused(octets: bytes, tail: bytes) -> None:
    begun = wire.encode_stored(wire.Stored(0, 0, 0, 0, 0, b"x", "t", {}))[:60]
    for data in (octets, begun + tail):
        for read in (lambda d: list(wire.stored(d)), wire.read_batch):
            with contextlib.suppress(wire.ProtocolError):
                read(data)


@given(st.lists(st.tuples(st.binary(max_size=50), _PROPERTIES), max_size=4))
def test_batches_come_back(messages: list[tuple[bytes, dict[str, str]]]) -> None:
    assert wire.read_batch(wire.batch(messages)) == messages


def test_json_of_the_vendor_is_read() -> None:
    assert wire.loads(b'{"a":{0:"h:1"}}') == {"a": {"0": "h:1"}}
    assert wire.loads(b'{"t":{{"queueId":0,"topic":"x"}:5}}') == {"t": {'{"queueId":0,"topic":"x"}': 5}}
