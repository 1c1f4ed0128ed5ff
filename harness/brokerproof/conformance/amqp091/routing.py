"""Which bindings a message matches, pure: the oracle of the cases on routing, and what the reference peer routes by.

Source: AMQP 0-9-1 section 3.1.3 (direct, fanout, topic, headers); RabbitMQ's ``all-with-x`` and ``any-with-x``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

X_MATCHES = ("all", "any", "all-with-x", "any-with-x")
#: What the tags of field values say, where several say the same.
_TYPES: Mapping[str, str] = {
    "t": "boolean", **dict.fromkeys("bBsuIilL", "integer"), "f": "float", "d": "float", "S": "text", "x": "bytes",
    "F": "table", "A": "array", "V": "void",
}  # fmt: skip
_VOID = ("void", None)


def words(text: str) -> list[str]:
    """The words of a topic's key or pattern. The empty key has none; ``a..b`` has an empty one in the middle."""
    return text.split(".") if text else []


def topic_matches(pattern: str, key: str) -> bool:
    """``*`` is exactly one word, ``#`` zero or more, any other word itself."""
    return _matches(tuple(words(pattern)), tuple(words(key)))


@lru_cache(maxsize=16_384)
def _matches(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if not pattern:
        return not key
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_matches(rest, key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and head in ("*", key[0]) and _matches(rest, key[1:])


def kind(value: object) -> tuple[str, object]:
    """A field value with the name of its type: values of different types are never equal, so ``1`` is not ``"1"`` or true.

    All integers are one type here, an encoder chooses among their widths; what bears a tag of the wire
    (``wire.amqp091.Field``) has its type from that.
    """
    tag = getattr(value, "tag", None)
    if tag is not None:
        return _TYPES.get(tag, tag), kind(getattr(value, "value", None))[1]
    if value is None:
        return "void", None
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int):
        return "integer", int(value)
    if isinstance(value, float):
        return "float", float(value)
    if isinstance(value, str):
        return "text", value
    if isinstance(value, Mapping):
        return "table", {str(name): kind(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return "array", [kind(v) for v in value]
    return type(value).__name__, value


def headers_match(arguments: Mapping[str, object], headers: Mapping[str, object]) -> bool:
    """Whether a binding with these arguments matches a message with these headers; no x-match means ``all``.

    A void value asks for the header's presence only. Arguments that begin with ``x-`` are not compared, but by
    ``all-with-x`` and ``any-with-x`` those other than ``x-match`` are.
    """
    mode = str(kind(arguments.get("x-match", "all"))[1])
    with_x = mode.endswith("-with-x")
    asked = {n: v for n, v in arguments.items() if n != "x-match" and (with_x or not n.startswith("x-"))}
    found = [n in headers and kind(v) in (_VOID, kind(headers[n])) for n, v in asked.items()]
    return any(found) if mode.startswith("any") else all(found)


def allowed(pattern: str, name: str) -> bool:
    """Whether a permission's regular expression allows a name. The empty expression allows nothing but the empty name."""
    return bool(re.search(pattern, name)) if pattern else name == ""
