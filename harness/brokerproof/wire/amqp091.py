"""AMQP 0-9-1 on the wire, sans-IO: frames, methods, content headers and field tables, in octets and back.

The legal side (``method_payload``, ``header_payload``, ``table``) refuses what the grammar cannot say: a short string over
255 octets, a number that does not fit. The illegal one is ``Frame``, of any type and with any end octet, and ``Raw``,
octets that stand where a value should. Field values keep their type where it matters: ``Field(tag, value)``.

The methods and the types of their arguments come from pamqp, which is made of the specification. Its own encoder is not used, but the
self-tests compare with it: it drops empty properties, refuses names that the grammar allows, and forgets field types.
Field tags are those that brokers and clients in use understand, and not those of the grammar.
Source: AMQP 0-9-1 specification, sections 2.3.5, 4.2; https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pamqp import commands

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
#: Type, channel, length of the payload, and the end octet.
FRAME_OVERHEAD = 8
FRAME_MIN_SIZE = 4096
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: Soft errors close a channel, hard ones the connection. Source: specification, section 1.2 of the generated constants.
SOFT_ERRORS = frozenset({311, 312, 313, 403, 404, 405, 406})
HARD_ERRORS = frozenset({320, 402, 501, 502, 503, 504, 505, 506, 530, 540, 541})
#: A nesting that no honest peer sends; deeper tables are an error and not a stack overflow.
_DEPTH_MAX = 100


class WireError(Exception):
    """Octets that are no AMQP 0-9-1, or a value that AMQP 0-9-1 cannot say."""


class FrameTooLong(WireError):
    """A frame over the size that was agreed."""


class UnknownMethod(WireError):
    """A method that does not exist."""


# -- values ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets that go out as they are, where a value should be."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Field:
    """A field value with its type's tag. value: int for b B s u I i l L T, bool for t, float for f d, Decimal for D, str for S,
    bytes for x, Fields for A, name -> Field for F, None for V; ``Raw`` for any."""

    tag: str
    value: Any


_NUMBERS: Mapping[str, str] = {
    "b": ">b", "B": ">B", "s": ">h", "u": ">H", "I": ">i", "i": ">I", "l": ">q", "L": ">q", "T": ">Q", "f": ">f", "d": ">d",
}  # fmt: skip


def octets(text: str | bytes) -> bytes:
    """As UTF-8; octets that were none come back as they were."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def short_string(value: str | bytes) -> bytes:
    """Raises WireError when it is longer than 255 octets."""
    data = octets(value)
    if len(data) > 255:
        raise WireError(f"a short string has at most 255 octets, not {len(data)}")
    return bytes([len(data)]) + data


def long_string(value: str | bytes) -> bytes:
    data = octets(value)
    return struct.pack(">I", len(data)) + data


def table(value: Mapping[str, Any]) -> bytes:
    """A field table with its length."""
    return long_string(b"".join(short_string(name) + field_value(v) for name, v in value.items()))


def field_value(value: Any) -> bytes:
    """A value with its tag. A plain one gets the tag that a client would give it: bool t, int I or l, float d, str S,
    bytes x, list A, mapping F, None V."""
    if isinstance(value, Raw):
        return value.octets
    typed = value if isinstance(value, Field) else Field(_tag(value), value)
    return typed.tag.encode("ascii") + _field_octets(typed.tag, typed.value)


def _field_octets(tag: str, v: Any) -> bytes:
    if isinstance(v, Raw):
        return v.octets
    if tag in _NUMBERS:
        return _packed(_NUMBERS[tag], v)
    if tag == "t":
        return b"\x01" if v else b"\x00"
    if tag == "D":
        exponent = v.as_tuple().exponent
        return _packed(">Bi", max(0, -exponent), int(v.scaleb(max(0, -exponent))))
    if tag in ("S", "x"):
        return long_string(v)
    if tag == "A":
        return long_string(b"".join(field_value(one) for one in v))
    if tag == "F":
        return table(v)
    if tag == "V":
        return b""
    raise WireError(f"no field type has the tag {tag!r}")


def _tag(value: Any) -> str:
    if isinstance(value, bool):
        return "t"
    if isinstance(value, int):
        return "I" if -(2**31) <= value < 2**31 else "l"
    for kind, tag in ((float, "d"), (str, "S"), (bytes, "x"), (Decimal, "D"), (Mapping, "F"), (Sequence, "A")):
        if isinstance(value, kind):
            return tag
    if value is None:
        return "V"
    raise WireError(f"no field type for a {type(value).__name__}")


def _packed(form: str, *values: Any) -> bytes:
    try:
        return struct.pack(form, *values)
    except (struct.error, OverflowError) as exc:
        raise WireError(f"{values!r} does not fit: {exc}") from exc


def plain(value: Any) -> Any:
    """A decoded value without its tags."""
    if isinstance(value, Field):
        value = value.value
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


class _Reader:
    """Takes values off octets. Raises WireError where they end too soon. grammar: as in ``read_table``."""

    def __init__(self, data: bytes, grammar: bool = False) -> None:
        self.data, self.at, self.grammar = data, 0, grammar

    def take(self, n: int) -> bytes:
        if n > len(self.data) - self.at:
            raise WireError(f"{n} octets wanted at {self.at}, {len(self.data) - self.at} there")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def short_string(self) -> str:
        return text(self.take(self.number(">B")))

    def long_string(self) -> bytes:
        return self.take(self.number(">I"))

    def table(self, depth: int = 0) -> dict[str, Field]:
        if depth > _DEPTH_MAX:
            raise WireError(f"nested deeper than {_DEPTH_MAX}")
        inner, found = _Reader(self.long_string(), self.grammar), {}
        while inner.at < len(inner.data):
            name = inner.short_string()
            found[name] = inner.field(depth)
        return found

    def field(self, depth: int) -> Field:
        tag = chr(self.number(">B"))
        if self.grammar and tag in ("s", "l", "U"):
            octets = self.take(
                8 if tag == "l" else 2 if tag == "U" else 1 + self.data[self.at] if self.at < len(self.data) else 1
            )
            return Field(tag, Raw(octets))
        if tag in _NUMBERS:
            return Field(tag, self.number(_NUMBERS[tag]))
        if tag == "t":
            return Field(tag, self.number(">B") != 0)
        if tag == "D":
            exponent, digits = self.number(">B"), self.number(">i")
            return Field(tag, Decimal(digits).scaleb(-exponent))
        if tag == "S":
            return Field(tag, text(self.long_string()))
        if tag == "x":
            return Field(tag, self.long_string())
        if tag == "A":
            if depth > _DEPTH_MAX:
                raise WireError(f"nested deeper than {_DEPTH_MAX}")
            inner, found = _Reader(self.long_string(), self.grammar), []
            while inner.at < len(inner.data):
                found.append(inner.field(depth + 1))
            return Field(tag, found)
        if tag == "F":
            return Field(tag, self.table(depth + 1))
        if tag == "V":
            return Field(tag, None)
        raise WireError(f"no field type has the tag {tag!r}")


def read_table(data: bytes, *, grammar: bool = False) -> dict[str, Field]:
    """A field table with its length, names -> typed values. Raises WireError.

    grammar: tags as in the grammar of the specification, where they differ: ``s`` is a short string, ``l`` unsigned, ``U`` 16 bits,
    each kept as ``Raw``."""
    return _Reader(data, grammar).table()


# -- methods -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """A method: its number, and its arguments with their types, in order."""

    class_id: int
    method_id: int
    arguments: tuple[tuple[str, str], ...]


def _words(name: str) -> str:
    """``Connection.StartOk`` as ``connection.start-ok``."""
    owner, _, method = name.partition(".")
    return owner.lower() + "." + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method).lower()


def _argument(name: str) -> str:
    return {"exchange_type": "type", "message_type": "type"}.get(name, name.rstrip("_"))


def _shapes() -> Iterator[tuple[str, Shape]]:
    command: Any  # pamqp declares them as plain types
    for index, command in commands.INDEX_MAPPING.items():
        arguments = tuple((_argument(slot), command.amqp_type(slot)) for slot in command.__slots__)
        yield _words(command.name), Shape(index >> 16, index & 0xFFFF, arguments)
    # Gone since 0-9; brokers still answer it.
    bits = tuple((bit, "bit") for bit in ("exclusive", "passive", "active", "write", "read"))
    yield "access.request", Shape(30, 10, (("realm", "shortstr"), *bits))
    yield "access.request-ok", Shape(30, 11, (("ticket", "short"),))


METHODS: Mapping[str, Shape] = dict(_shapes())
NAMES: Mapping[tuple[int, int], str] = {(s.class_id, s.method_id): name for name, s in METHODS.items()}
#: Methods that a content follows.
WITH_CONTENT = frozenset({"basic.publish", "basic.return", "basic.deliver", "basic.get-ok"})
_DEFAULTS: Mapping[str, Any] = {"shortstr": "", "longstr": "", "table": {}}
_INTEGERS: Mapping[str, str] = {"octet": ">B", "short": ">H", "long": ">I", "longlong": ">Q", "timestamp": ">Q"}
_STRINGS: Mapping[str, Callable[[Any], bytes]] = {"shortstr": short_string, "longstr": long_string, "table": table}


@dataclass(frozen=True, slots=True)
class Method:
    """A method that came. Its arguments by their names in the specification, ``-`` as ``_``; tables with typed values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, argument: str) -> Any:
        """Without field types."""
        return plain(self.arguments[argument])

    def __str__(self) -> str:
        shown = (f"{k}={plain(v)!r}" for k, v in self.arguments.items() if v and k != "ticket")
        return f"{self.name} {' '.join(shown)}".strip()


def method_payload(name: str, arguments: Mapping[str, Any]) -> bytes:
    """The payload of a method frame; what is not given is empty, zero or false. Raises WireError for an argument that the method
    has not, or a value that does not fit. A trailing ``_`` of a name (``global_``) does not count."""
    shape = METHODS.get(name)
    if shape is None:
        raise WireError(f"AMQP 0-9-1 has no method {name!r}")
    given = {key.rstrip("_"): value for key, value in arguments.items()}
    if extra := given.keys() - {argument for argument, _ in shape.arguments}:
        raise WireError(f"{name} has no argument {sorted(extra)}; it has {[a for a, _ in shape.arguments]}")
    out = [struct.pack(">HH", shape.class_id, shape.method_id)]
    bits: list[bool] = []
    for argument, kind in shape.arguments:
        value = given.get(argument, _DEFAULTS.get(kind, 0))
        if kind == "bit":
            bits.append(bool(value))
            continue
        out.extend(_bits(bits))
        out.append(value.octets if isinstance(value, Raw) else _argument_octets(kind, value))
    out.extend(_bits(bits))
    return b"".join(out)


def _argument_octets(kind: str, value: Any) -> bytes:
    return _packed(_INTEGERS[kind], value) if kind in _INTEGERS else _STRINGS[kind](value)


def _bits(bits: list[bool]) -> list[bytes]:
    """The bits gathered so far as octets, lowest bit first; empties the list."""
    packed = [bytes([sum(bit << i for i, bit in enumerate(bits[at : at + 8]))]) for at in range(0, len(bits), 8)]
    bits.clear()
    return packed


def read_method(payload: bytes) -> Method:
    """Raises WireError for a method that does not exist, and for arguments that end too soon or go on."""
    reader = _Reader(payload)
    number = (reader.number(">H"), reader.number(">H"))
    name = NAMES.get(number)
    if name is None:
        raise UnknownMethod(f"no method {number[1]} of class {number[0]}")
    found: dict[str, Any] = {}
    bit = 8
    for argument, kind in METHODS[name].arguments:
        if kind == "bit":
            if bit == 8:
                packed, bit = reader.number(">B"), 0
            found[argument] = bool(packed >> bit & 1)
            bit += 1
            continue
        bit = 8
        found[argument] = _read(reader, kind)
    if reader.at != len(payload):
        raise WireError(f"{name}: {len(payload) - reader.at} octets after the last argument")
    return Method(name, found)


def _read(reader: _Reader, kind: str) -> Any:
    if kind in _INTEGERS:
        return reader.number(_INTEGERS[kind])
    if kind == "shortstr":
        return reader.short_string()
    return text(reader.long_string()) if kind == "longstr" else reader.table()


# -- content -----------------------------------------------------------------------------------------------------------

#: Name -> (its flag, its type), in the order of the wire.
PROPERTIES: Mapping[str, tuple[int, str]] = {
    _argument(slot): (commands.Basic.Properties.flags[slot], commands.Basic.Properties.amqp_type(slot))
    for slot in commands.Basic.Properties.__slots__
}


@dataclass(frozen=True, slots=True)
class Header:
    """A content header. properties: those that are there; headers with typed values. raw: the property list as it came, flags first."""

    class_id: int
    weight: int
    body_size: int
    properties: Mapping[str, Any]
    raw: bytes = b""


def header_payload(
    body_size: int, properties: Mapping[str, Any] | None = None, *, class_id: int = 60, weight: int = 0
) -> bytes:
    """The payload of a content header frame. An empty property is one that is there. Raises WireError for an unknown one."""
    given = properties or {}
    if extra := given.keys() - PROPERTIES.keys():
        raise WireError(f"basic has no property {sorted(extra)}; it has {list(PROPERTIES)}")
    flags, out = 0, []
    for name, (flag, kind) in PROPERTIES.items():
        if given.get(name) is not None:
            flags |= flag
            value = given[name]
            out.append(value.octets if isinstance(value, Raw) else _argument_octets(kind, value))
    return _packed(">HHQH", class_id, weight, body_size, flags) + b"".join(out)


def read_header(payload: bytes, *, grammar: bool = False) -> Header:
    """Raises WireError. grammar: as in ``read_table``."""
    reader = _Reader(payload, grammar)
    class_id, weight, body_size = reader.number(">H"), reader.number(">H"), reader.number(">Q")
    raw = payload[reader.at :]
    flags = more = reader.number(">H")
    while more & 1:
        more = reader.number(">H")
    found = {name: _read(reader, kind) for name, (flag, kind) in PROPERTIES.items() if flags & flag}
    if reader.at != len(payload):
        raise WireError(f"content header: {len(payload) - reader.at} octets after the last property")
    return Header(class_id, weight, body_size, found, raw)


# -- frames ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame, legal or not."""

    type: int
    channel: int
    payload: bytes = b""
    end: int = FRAME_END

    def encode(self) -> bytes:
        return struct.pack(">BHI", self.type, self.channel, len(self.payload)) + self.payload + bytes([self.end])

    def __len__(self) -> int:
        """In octets, as a whole."""
        return len(self.payload) + FRAME_OVERHEAD

    def __str__(self) -> str:
        """For logs. Never raises."""
        try:
            if self.type == METHOD:
                return str(read_method(self.payload))
            if self.type == HEADER:
                header = read_header(self.payload)
                shown = {k: plain(v) for k, v in header.properties.items()}
                weight = f" weight={header.weight}" if header.weight else ""
                return (
                    f"content header class={header.class_id} body-size={header.body_size}{weight} {shown or ''}".strip()
                )
        except WireError as exc:
            return f"frame type {self.type}, {len(self.payload)} octets ({exc})"
        if self.type == BODY:
            return f"content body, {len(self.payload)} octets"
        named = "heartbeat" if self.type == HEARTBEAT else f"frame type {self.type}"
        return named + (f", {len(self.payload)} octets" if self.payload else "")


@dataclass(frozen=True, slots=True)
class ProtocolHeader:
    """What a peer writes that wants another version."""

    octets: bytes


class Frames:
    """Cuts a stream of octets into frames. frame_max: longer ones are an error; 0: no limit.

    After a WireError the stream is lost: every further call raises it again.
    """

    def __init__(self, frame_max: int = 0) -> None:
        self.frame_max = frame_max
        self._waiting = bytearray()
        self._error: WireError | None = None

    def feed(self, data: bytes) -> Iterator[Frame | ProtocolHeader]:
        """What is complete with these octets. Raises WireError where the stream is no AMQP; what came before is given first."""
        self._waiting += data
        while self._error is None:
            found = self._next()
            if found is not None:
                yield found
            elif self._error is None:
                return
        raise self._error

    @property
    def waiting(self) -> bytes:
        """What came of the next frame so far."""
        return bytes(self._waiting)

    def _next(self) -> Frame | ProtocolHeader | None:
        have = self._waiting
        if have[:1] == b"A" and b"AMQP".startswith(have[:4]):
            if len(have) < 8:
                return None
            found = ProtocolHeader(bytes(have[:8]))
            del have[:8]
            return found
        if len(have) < 7:
            return None
        kind, channel, size = struct.unpack_from(">BHI", have)
        if self.frame_max and size + FRAME_OVERHEAD > self.frame_max:
            self._error = FrameTooLong(f"frame of {size + FRAME_OVERHEAD} octets, at most {self.frame_max} agreed")
            return None
        if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
            self._error = WireError(f"no frame has the type {kind}")
            return None
        if len(have) < size + FRAME_OVERHEAD:
            return None
        frame = Frame(kind, channel, bytes(have[7 : 7 + size]), have[7 + size])
        if frame.end != FRAME_END:
            self._error = WireError(f"frame ends with {frame.end:#04x}, not {FRAME_END:#04x}")
            return None
        del have[: size + FRAME_OVERHEAD]
        return frame


def method_frame(channel: int, name: str, /, **arguments: Any) -> Frame:
    return Frame(METHOD, channel, method_payload(name, arguments))


def content_frames(
    channel: int,
    body: bytes,
    properties: Mapping[str, Any] | None = None,
    *,
    frame_max: int,
    pieces: Sequence[int] = (),
) -> Iterator[Frame]:
    """Content header and body frames. pieces: sizes of the body frames' payloads, as far as they go; the rest is cut at frame_max
    (0: not at all)."""
    yield Frame(HEADER, channel, header_payload(len(body), properties))
    at = 0
    for size in pieces:
        yield Frame(BODY, channel, body[at : at + size])
        at += size
    step = frame_max - FRAME_OVERHEAD if frame_max else len(body)
    for start in range(at, len(body), max(1, step)):
        yield Frame(BODY, channel, body[start : start + step])
