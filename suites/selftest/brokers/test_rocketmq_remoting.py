"""The remoting codec and the stored message format, without a broker."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerproof.brokers.rocketmq import remoting
from brokerproof.brokers.rocketmq.remoting import Decoder, Frame, ProtocolError, request

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def test_a_request_is_laid_out_as_the_design_says() -> None:
    data = request(310, 7, {"b": "topic", "k": False, "none": None, "e": 3}, b"body", oneway=True).encode()
    length, codec, high, low = struct.unpack_from(">iBBH", data)
    header = json.loads(data[8 : 8 + (high << 16 | low)])
    assert length == len(data) - 4 and codec == 0
    assert (header["code"], header["opaque"], header["flag"]) == (310, 7, 2)
    assert header["extFields"] == {"b": "topic", "k": "false", "e": "3"}, "all strings, none left out"
    assert data.endswith(b"body")


@given(st.lists(st.tuples(st.integers(0, 400), TEXT, st.binary(max_size=50)), max_size=5), st.integers(1, 30))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    commands: list[tuple[int, str, bytes]], step: int
) -> None:
    frames = [
        Frame(code=c, opaque=i, flag=1, remark=r, fields={"f": r}, body=b) for i, (c, r, b) in enumerate(commands)
    ]
    data = b"".join(frame.encode() for frame in frames)
    decoder = Decoder()
    got = [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]
    assert got == frames and all(frame.is_response for frame in got)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">ii", 2, 0),  # shorter than its own second word
        struct.pack(">ii", 1 << 30, 0),  # beyond the frame limit
        struct.pack(">ii", 10, 100),  # a header longer than the frame
        struct.pack(">ii", 10, 1 << 24 | 2) + b"{}" + b"xxxx",  # the binary codec
        struct.pack(">ii", 6, 2) + b"[]",
        struct.pack(">ii", 6, 2) + b"{]",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


def message(
    offset: int, body: bytes, *, v6: bool = False, wide: bool = False, words: dict[str, str] | None = None
) -> bytes:
    """A stored message as MessageDecoder.java reads it."""
    host = 20 if v6 else 8
    text = "".join(f"{k}\x01{v}\x02" for k, v in (words or {}).items()).encode()
    topic = b"a-topic"
    rest = struct.pack(">iqi", 2, 0, len(body)) + body
    rest += struct.pack(">H" if wide else ">B", len(topic)) + topic + struct.pack(">h", len(text)) + text
    hosts = bytes(host) + struct.pack(">q", 1) + bytes(host)
    magic = -626843477 if wide else -626843481
    flag = (1 << 4 | 1 << 5) if v6 else 0
    size = 48 + len(hosts) + len(rest)
    return struct.pack(">iiIiiqqiq", size, magic, 0, 3, 9, offset, 1000, flag, 1) + hosts + rest


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_stored_messages_are_taken_apart(v6: bool, wide: bool) -> None:
    data = message(5, b"one", v6=v6, wide=wide, words={"KEYS": "k", "MSG_REGION": "r"}) + message(
        6, b"", v6=v6, wide=wide
    )
    first, second = remoting.stored(data)
    assert (first.queue, first.offset, first.flag, first.reconsumed) == (3, 5, 9, 2)
    assert (first.body, first.topic, dict(first.properties)) == (b"one", "a-topic", {"KEYS": "k", "MSG_REGION": "r"})
    assert (second.offset, second.body, dict(second.properties)) == (6, b"", {})


@pytest.mark.parametrize("data", [message(5, b"one")[:-1], b"\0" * 100])
def test_a_torn_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(remoting.stored(data))


def test_json_with_numbers_for_keys_is_read() -> None:
    assert remoting.loads(b'{"brokerAddrs":{0:"a:1",1:"b:2"}}') == {"brokerAddrs": {"0": "a:1", "1": "b:2"}}
    assert remoting.properties(b"a=1\nb = x=y\n#c\n") == {"a": "1", "b": "x=y"}
