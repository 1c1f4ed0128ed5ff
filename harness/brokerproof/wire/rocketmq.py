"""RocketMQ's remoting protocol without I/O: frames and both header codecs, stored messages, batches; and illegal frames.

    frame       int32 length of what follows | int32 codec << 24 | header length | header | body
    JSON (0)    {"code", "flag", "language", "opaque", "version", "remark", "extFields"}: all values of extFields strings
    compact (1) int16 code | int8 language | int16 version | int32 opaque | int32 flag | int32 n | remark | int32 n | extFields
                extFields: int16 n | name | int32 n | value, end to end
    flag        bit 0 response, bit 1 oneway

``Frame.encode`` makes what the protocol allows; ``illegal`` makes a frame whose lengths and codec are whatever is asked for.
Source: docs/en/design.md "Communication Mechanism", RemotingCommand.java, RocketMQSerializable.java, MessageDecoder.java of
apache/rocketmq.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

JSON, COMPACT = 0, 1
RESPONSE, ONEWAY = 1, 2
#: Source: NettySystemConfig "com.rocketmq.remoting.frameMaxLength".
FRAME_MAX: Final = 16 * 1024 * 1024
_LENGTHS = struct.Struct(">iI")
_COMPACT = struct.Struct(">hBhii")
#: Source: LanguageCode.java.
LANGUAGES: Final = (
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST", "NODE_JS",
)  # fmt: skip


class ProtocolError(Exception):
    """Octets that are not what this protocol calls a frame, or a stored message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One command, either way. fields: ``extFields``.  codec: of its header, ``JSON`` or ``COMPACT``."""

    code: int
    opaque: int
    flag: int = 0
    remark: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    codec: int = JSON
    language: str = "PYTHON"
    version: int = 0

    @property
    def is_response(self) -> bool:
        return bool(self.flag & RESPONSE)

    @property
    def is_oneway(self) -> bool:
        return bool(self.flag & ONEWAY)

    def encode(self) -> bytes:
        """Raises ValueError for a codec, or for numbers in a compact header, that there are not."""
        header = self._json() if self.codec == JSON else self._compact()
        return illegal(header, self.body, codec=self.codec)

    def _json(self) -> bytes:
        header: dict[str, Any] = {
            "code": self.code, "language": self.language, "version": self.version, "opaque": self.opaque,
            "flag": self.flag, "extFields": dict(self.fields), "serializeTypeCurrentRPC": "JSON",
        }  # fmt: skip
        if self.remark:
            header["remark"] = self.remark
        return json.dumps(header, separators=(",", ":")).encode()

    def _compact(self) -> bytes:
        if self.codec != COMPACT or self.language not in LANGUAGES:
            raise ValueError(f"codec {self.codec} with language {self.language!r}; there are {JSON} and {COMPACT}")
        try:
            head = _COMPACT.pack(self.code, LANGUAGES.index(self.language), self.version, self.opaque, self.flag)
            remark = self.remark.encode()
            words = b"".join(_pair(name.encode(), value.encode()) for name, value in self.fields.items())
        except struct.error as exc:
            raise ValueError(f"not for a compact header: code {self.code}, version {self.version}: {exc}") from exc
        return head + len(remark).to_bytes(4, "big") + remark + len(words).to_bytes(4, "big") + words

    def __str__(self) -> str:
        kind = "response" if self.is_response else "oneway request" if self.is_oneway else "request"
        shown = {name: value[:60] for name, value in self.fields.items()}
        words = f"{kind} {self.code} #{self.opaque} {shown}" + (f" {self.remark[:120]!r}" if self.remark else "")
        return words + (f" + {len(self.body)} octets" if self.body else "")


def _pair(name: bytes, value: bytes) -> bytes:
    return struct.pack(">h", len(name)) + name + struct.pack(">i", len(value)) + value


def request(
    code: int, opaque: int, fields: Mapping[str, Any], body: bytes = b"", *, oneway: bool = False, codec: int = JSON
) -> Frame:
    """A request; values become strings as the protocol wants them, None is left out."""
    words = {name: word(value) for name, value in fields.items() if value is not None}
    return Frame(code=code, opaque=opaque, flag=ONEWAY if oneway else 0, fields=words, body=body, codec=codec)


def answer(to: Frame, code: int, fields: Mapping[str, Any] | None = None, body: bytes = b"", remark: str = "") -> Frame:
    """The response to a request, in its codec and with its opaque."""
    words = {name: word(value) for name, value in (fields or {}).items() if value is not None}
    return Frame(
        code=code,
        opaque=to.opaque,
        flag=RESPONSE,
        fields=words,
        body=body,
        remark=remark,
        codec=to.codec,
        language="JAVA",
    )


def word(value: Any) -> str:
    """A value as the protocol writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def illegal(
    header: bytes, body: bytes = b"", *, codec: int = JSON, header_length: int | None = None, length: int | None = None
) -> bytes:
    """A frame of these octets whose lengths and codec say what is asked for, true or not; by default they are true.

    length: signed.  header_length: the low 24 bits of the second word."""
    said = len(header) if header_length is None else header_length
    whole = 4 + len(header) + len(body) if length is None else length
    return _LENGTHS.pack(whole, (codec & 0xFF) << 24 | said & 0xFFFFFF) + header + body


class Decoder:
    """Octets in, frames out. Raises ProtocolError for what cannot be a frame; it is of no use afterwards.

    A frame's second word is looked at as soon as it is there, so that an illegal one is not waited for."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Octets that make no whole frame yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < 8:
            return None
        length, second = _LENGTHS.unpack_from(self._buffer)
        codec, header_length = second >> 24, second & 0xFFFFFF
        if not 4 <= length <= FRAME_MAX or header_length > length - 4:
            raise ProtocolError(f"frame of length {length} with a header of {header_length}")
        if codec not in (JSON, COMPACT):
            raise ProtocolError(f"header codec {codec}; there are JSON ({JSON}) and compact ({COMPACT})")
        if len(self._buffer) < 4 + length:
            return None
        header = bytes(self._buffer[8 : 8 + header_length])
        body = bytes(self._buffer[8 + header_length : 4 + length])
        del self._buffer[: 4 + length]
        return _from_json(header, body) if codec == JSON else _from_compact(header, body)


def _from_json(text: bytes, body: bytes) -> Frame:
    try:
        header = json.loads(text)
        words = {str(name): word(value) for name, value in (header.get("extFields") or {}).items()}
        language = str(header.get("language") or "OTHER")
        return Frame(
            code=int(header["code"]), opaque=int(header["opaque"]), flag=int(header.get("flag", 0)),
            remark=str(header.get("remark") or ""), fields=words, body=body, language=language,
            version=int(header.get("version", 0)),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as exc:
        raise ProtocolError(f"header is not a remoting command: {text[:80]!r}") from exc


def _from_compact(data: bytes, body: bytes) -> Frame:
    try:
        code, language, version, opaque, flag = _COMPACT.unpack_from(data)
        remark, at = _text(data, _COMPACT.size, 4)
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if at + size != len(data):
            raise ProtocolError(f"fields of {size} octets in a header with {len(data) - at} left for them")
        words = {}
        while at < len(data):
            name, at = _text(data, at, 2)
            words[name], at = _text(data, at, 4)
    except (struct.error, UnicodeDecodeError) as exc:
        raise ProtocolError(f"compact header is none: {exc}") from exc
    spoken = LANGUAGES[language] if language < len(LANGUAGES) else "OTHER"
    return Frame(
        code=code, opaque=opaque, flag=flag, remark=remark, fields=words, body=body, codec=COMPACT, language=spoken,
        version=version,
    )  # fmt: skip


def _text(data: bytes, at: int, width: int) -> tuple[str, int]:
    """A text with a length of that many octets before it, and where it ends."""
    begin = at + width
    end = begin + int.from_bytes(data[at:begin], "big")
    if begin > len(data) or end > len(data):
        raise ProtocolError(f"a text up to octet {end} of a header of {len(data)}")
    return data[begin:end].decode(), end


# -- bodies ------------------------------------------------------------------------------------------------------------


def loads(body: bytes) -> Any:
    """JSON as fastjson writes it: object keys may be bare numbers (``{0:"host"}``) or objects, which become their text."""
    text = body.decode()
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(re.sub(r"([{,])(-?\d+):", r'\1"\2":', _named(text)))


def _named(text: str) -> str:
    """fastjson writes a map with objects as keys as ``{{"a":1}:2}``; with those keys as strings."""
    return re.sub(r"([{,])(\{[^{}]*\}):", lambda m: f"{m[1]}{json.dumps(m[2])}:", text)


def properties(body: bytes) -> dict[str, str]:
    """A Java properties text, as GET_BROKER_CONFIG answers it."""
    lines = (line.partition("=") for line in body.decode().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def message_properties(words: Mapping[str, str]) -> str:
    """As a send request carries them."""
    return "".join(f"{name}\x01{value}\x02" for name, value in words.items())


def read_message_properties(text: str) -> dict[str, str]:
    pairs = (pair.partition("\x01") for pair in text.split("\x02") if pair)
    return {name: value for name, _, value in pairs}


def batch(messages: Sequence[tuple[bytes, Mapping[str, str]]]) -> bytes:
    """The body of SEND_BATCH_MESSAGE: (body, properties) of each message, end to end. Source: MessageDecoder.encodeMessages."""
    out = b""
    for body, words in messages:
        text = message_properties(words).encode()
        record = struct.pack(">iiii", 0, 0, 0, len(body)) + body + struct.pack(">h", len(text)) + text
        out += struct.pack(">i", 4 + len(record)) + record
    return out


def read_batch(data: bytes) -> list[tuple[bytes, dict[str, str]]]:
    """Raises ProtocolError."""
    out, at = [], 0
    try:
        while at < len(data):
            size, _, _, _, length = struct.unpack_from(">iiiii", data, at)
            end = at + 20 + length
            (words,) = struct.unpack_from(">h", data, end)
            if length < 0 or words < 0 or end + 2 + words != at + size or at + size > len(data):
                raise ProtocolError(f"no message of a batch at {at}: size {size} of {len(data) - at}")
            out.append((data[at + 20 : end], read_message_properties(data[end + 2 : at + size].decode())))
            at += size
    except (struct.error, UnicodeDecodeError) as exc:
        raise ProtocolError(f"no message of a batch at {at}: {exc}") from exc
    return out


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in the log. position: its physical offset there.  stored_ms: when, by the broker's clock."""

    queue: int
    offset: int
    flag: int
    sys_flag: int
    reconsumed: int
    body: bytes
    topic: str
    properties: Mapping[str, str]
    position: int = 0
    stored_ms: int = 0


# total size, magic, body CRC, queue, flag, queue offset, physical offset, system flag, born time
_HEAD = struct.Struct(">iiIiiqqiq")
# Source: MessageVersion.java: the second has a topic longer than 127 octets, with a 16-bit length.
_MAGIC_V1, _MAGIC_V2 = -626843481, -626843477
# Source: MessageSysFlag.java.
_BORN_V6, _STORE_V6 = 1 << 4, 1 << 5


def stored(data: bytes) -> Iterator[Stored]:
    """The messages of a PULL_MESSAGE body, end to end. Raises ProtocolError. Source: MessageDecoder.decode."""
    at = 0
    while at < len(data):
        try:
            message, size = _message(data, at)
        except (struct.error, UnicodeDecodeError) as exc:
            raise ProtocolError(f"no stored message at {at} of {len(data)}: {exc}") from exc
        yield message
        at += size


def _message(data: bytes, at: int) -> tuple[Stored, int]:
    size, magic, _, queue, flag, offset, position, sys_flag, _ = _HEAD.unpack_from(data, at)
    if magic not in (_MAGIC_V1, _MAGIC_V2) or not _HEAD.size < size <= len(data) - at:
        raise ProtocolError(f"no stored message at {at}: magic {magic}, size {size} of {len(data) - at}")
    i = at + _HEAD.size + (20 if sys_flag & _BORN_V6 else 8)
    (stored_ms,) = struct.unpack_from(">q", data, i)
    i += 8 + (20 if sys_flag & _STORE_V6 else 8)
    # reconsume times, offset of the prepared transaction, body length
    reconsumed, _, body_length = struct.unpack_from(">iqi", data, i)
    i += 16
    body = bytes(data[i : i + body_length])
    i += body_length
    wide = magic == _MAGIC_V2
    (topic_length,) = struct.unpack_from(">H" if wide else ">B", data, i)
    i += 2 if wide else 1
    topic = data[i : i + topic_length].decode()
    i += topic_length
    (properties_length,) = struct.unpack_from(">h", data, i)
    words = read_message_properties(data[i + 2 : i + 2 + properties_length].decode(errors="replace"))
    return Stored(queue, offset, flag, sys_flag, reconsumed, body, topic, words, position, stored_ms), size


def encode_stored(message: Stored) -> bytes:
    """As a broker with IPv4 addresses sends it to consumers; the addresses are 127.0.0.1."""
    host = b"\x7f\x00\x00\x01" + struct.pack(">i", 10911)
    topic, words = message.topic.encode(), message_properties(message.properties).encode()
    rest = host + struct.pack(">q", message.stored_ms) + host
    rest += struct.pack(">iqi", message.reconsumed, 0, len(message.body)) + message.body
    wide = len(topic) > 127
    rest += struct.pack(">H" if wide else ">B", len(topic)) + topic + struct.pack(">h", len(words)) + words
    head = _HEAD.pack(
        _HEAD.size + len(rest), _MAGIC_V2 if wide else _MAGIC_V1, 0, message.queue, message.flag, message.offset,
        message.position, message.sys_flag & ~(_BORN_V6 | _STORE_V6), message.stored_ms,
    )  # fmt: skip
    return head + rest


#: From a record's begin to its body: with IPv4 and IPv6 addresses of sender and store. Source: MessageDecoder.java.
_BODY_AT = (_HEAD.size + 8 + 8 + 8 + 16, _HEAD.size + 8 + 8 + 20 + 16, _HEAD.size + 20 + 8 + 20 + 16)


def record_around(data: bytes, body: int) -> tuple[int, Stored] | None:
    """(begin, message) of the record in a commit log whose body begins at ``body``; None where there is none."""
    for before in _BODY_AT:
        begin = body - before
        if begin < 0:
            continue
        size, magic = struct.unpack_from(">ii", data, begin)
        if magic in (_MAGIC_V1, _MAGIC_V2) and before < size <= len(data) - begin:
            try:
                (message,) = stored(data[begin : begin + size])
            except (ProtocolError, ValueError):
                continue
            if message.body == data[body : body + len(message.body)]:
                return begin, message
    return None
