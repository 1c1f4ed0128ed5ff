"""The protocol's messages: which fields, in which version, in which form. Taken from kio's dataclasses, which are generated
from the vendor's schemas; read and written here, so that values are plain, unknown tagged fields are seen and can be sent.

A message is a ``dict`` by kio's field names: numbers (times are milliseconds, error codes are numbers), ``str``, ``bytes``,
``uuid.UUID``, lists and dicts. What is not given has the schema's default, or zero. ``TAGS`` is the key of tagged fields
that the schema does not know: ``{9999: b"…"}``.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin

from kio.index import load_payload_module
from kio.schema.index import api_key_map, schema_name_map
from kio.static.constants import EntityType

from brokerproof.wire.kafka import octets
from brokerproof.wire.kafka.errors import WireError

Fields = dict[str, Any]
TAGS: Final = "_tags"
NO_ID: Final = uuid.UUID(int=0)

#: API name, as in the vendor's schemas but in lower case with ``_``, to its key.
KEYS: Final[Mapping[str, int]] = {name: key for key, name in api_key_map.items()}
NAMES: Final[Mapping[int, str]] = dict(api_key_map)
#: kio's words for what is a plain number on the wire.
_PLAIN: Final = {
    "error_code": "int16", "timedelta_i32": "int32", "timedelta_i64": "int64", "datetime_i64": "int64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """kind: of ``octets.FIXED``, or string, bytes, uuid, struct.  default: what it is when it is not given."""

    name: str
    kind: str
    array: bool
    nullable: bool
    tag: int | None
    struct: Struct | None
    default: Any


@dataclass(frozen=True, slots=True)
class Struct:
    """header: version of the request or response header that goes with it."""

    name: str
    flexible: bool
    header: int
    fields: tuple[Field, ...]


def versions(key: int) -> tuple[int, int]:
    """The lowest and the highest version that there is a schema for. Raises WireError for an unknown key."""
    if key not in NAMES:
        raise WireError(f"no schema for API key {key}")
    known = sorted(schema_name_map[NAMES[key]])
    return known[0], known[-1]


@functools.cache
def request(key: int, version: int) -> Struct:
    return _payload(key, version, EntityType.request)


@functools.cache
def response(key: int, version: int) -> Struct:
    return _payload(key, version, EntityType.response)


def encode(schema: Struct, fields: Fields) -> bytes:
    """Raises WireError for a field that the schema does not have, and for a value that does not fit."""
    known = {f.name for f in schema.fields}
    strange = fields.keys() - known - {TAGS}
    if strange:
        raise WireError(f"{schema.name} has no field {sorted(strange)}; it has {sorted(known)}")
    out = bytearray()
    tagged: dict[int, bytes] = {}
    for field in schema.fields:
        if field.tag is None:
            out += _encoded(field, fields.get(field.name, field.default), schema.flexible)
        elif field.name in fields:
            tagged[field.tag] = _encoded(field, fields[field.name], schema.flexible)
    if schema.flexible:
        out += octets.tags(tagged | fields.get(TAGS, {}))
    return bytes(out)


def fitting(schema: Struct, fields: Fields) -> Fields:
    """Fields of several versions: without those that this version does not have."""
    out: Fields = {TAGS: fields[TAGS]} if TAGS in fields else {}
    for field in schema.fields:
        if field.name not in fields:
            continue
        value = fields[field.name]
        if field.struct is not None and value is not None:
            inner = field.struct
            value = [fitting(inner, v) for v in value] if field.array else fitting(inner, value)
        out[field.name] = value
    return out


def decode(schema: Struct, reader: octets.Reader) -> Fields:
    """Leaves the reader behind the message. Raises WireError."""
    out: Fields = {f.name: _decoded(f, reader, schema.flexible) if f.tag is None else f.default for f in schema.fields}
    if schema.flexible:
        by_tag = {f.tag: f for f in schema.fields if f.tag is not None}
        unknown = {}
        for tag, data in reader.tags().items():
            if tag in by_tag:
                out[by_tag[tag].name] = _decoded(by_tag[tag], octets.Reader(data), flexible=True)
            else:
                unknown[tag] = data
        if unknown:
            out[TAGS] = unknown
    return out


# -- inside ------------------------------------------------------------------------------------------------------------


def _encoded(field: Field, value: Any, flexible: bool) -> bytes:
    if not field.array:
        return _one(field, value, flexible)
    if value is None:
        return octets.length(-1, flexible, wide=True)
    return octets.length(len(value), flexible, wide=True) + b"".join(_one(field, v, flexible) for v in value)


def _one(field: Field, value: Any, flexible: bool) -> bytes:
    if field.struct is not None:
        if field.nullable and not field.array and field.tag is None:
            return b"\xff" if value is None else b"\x01" + encode(field.struct, value)
        return encode(field.struct, value)
    if field.kind == "string":
        return octets.string(value, flexible)
    if field.kind == "bytes":
        return octets.octets(value, flexible)
    if field.kind == "uuid":
        return uuid.UUID(str(value)).bytes
    return octets.fixed(field.kind, value)


def _decoded(field: Field, reader: octets.Reader, flexible: bool) -> Any:
    if field.array:
        return reader.array(flexible, lambda: _read(field, reader, flexible))
    return _read(field, reader, flexible)


def _read(field: Field, reader: octets.Reader, flexible: bool) -> Any:
    if field.struct is not None:
        # KIP-893: a struct that may be missing has an octet before it.
        if field.nullable and not field.array and field.tag is None and reader.fixed("int8") < 0:
            return None
        return decode(field.struct, reader)
    if field.kind == "string":
        return reader.string(flexible)
    if field.kind == "bytes":
        return reader.octets(flexible)
    if field.kind == "uuid":
        return octets.uuid_of(reader.take(16))
    return reader.fixed(field.kind)


def _payload(key: int, version: int, kind: Any) -> Struct:
    low, high = versions(key)
    if not low <= version <= high:
        raise WireError(f"{NAMES[key]} has schemas for versions {low} to {high}, not {version}")
    module = load_payload_module(key, version, kind)
    entity = next(
        e for e in vars(module).values() if dataclasses.is_dataclass(e) and getattr(e, "__type__", None) is kind
    )
    return _struct(entity)


def _struct(entity: Any) -> Struct:
    header = int(entity.__header_schema__.__version__)
    return Struct(entity.__name__, entity.__flexible__, header, tuple(_field(f) for f in dataclasses.fields(entity)))


def _field(found: dataclasses.Field[Any]) -> Field:
    inner, nullable = _without_none(found.type)
    array = get_origin(inner) is tuple
    if array:
        inner, _ = _without_none(get_args(inner)[0])
    struct = _struct(inner) if dataclasses.is_dataclass(inner) else None
    kind = str(found.metadata.get("kafka_type", "struct"))
    kind = "bytes" if kind == "records" else _PLAIN.get(kind, kind)
    missing = found.default is dataclasses.MISSING
    if array:
        default: Any = None if found.default is None else []
    elif struct is not None:
        default = None if nullable else {}
    elif missing:
        default = _zero(kind, nullable)
    else:
        default = _raw(kind, found.default)
    return Field(found.name, kind, array, nullable, found.metadata.get("tag"), struct, default)


def _without_none(type_: Any) -> tuple[Any, bool]:
    if get_origin(type_) is UnionType:
        return next(t for t in get_args(type_) if t is not NoneType), True
    return type_, False


def _zero(kind: str, nullable: bool) -> Any:
    if kind == "uuid":
        return NO_ID
    if nullable and kind in ("string", "bytes"):
        return None
    return {"string": "", "bytes": b"", "bool": False}.get(kind, 0)


def _raw(kind: str, value: Any) -> Any:
    """A default of kio's as the number that it is on the wire."""
    if value is None:
        return {"uuid": NO_ID, "int64": -1}.get(kind)
    if isinstance(value, datetime.timedelta):
        return round(value.total_seconds() * 1000)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if kind in octets.FIXED and kind not in ("bool", "float64"):
        return int(getattr(value, "value", value))
    return str(value) if kind == "string" else value
