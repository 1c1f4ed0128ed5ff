"""Takes credentials out of the files of a run, before somebody else gets them.

Two passes over all files: ``learn`` collects the values that stand where credentials stand (``spotting``); ``redact``
replaces them there, and everywhere else where a value of at least ``REPEATED_MIN`` characters comes again: as it is, escaped,
percent-encoded, in hexadecimal or in Base64 (a wire log has octets).

Every file keeps its form. JSON, and each line of JSON in another text, is taken string by string, so that no rule sees where one
ends and the next begins; a key is left alone unless it holds a known value. In files that are no text (a history) a value that
comes again is written over, octet for octet, so that every offset stays. A word in small letters that names something in this
run as well (``"password": "producer"``) is redacted where it stands only: elsewhere it would take the name away.

What is left alone: a name's own word as password (``guest:guest`` protects nothing), and what is empty or redacted already.
A secret that stands in plain prose, in no form that is listed, is not found.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from brokerproof.history import COLUMNS, FUNCTIONS, OUTCOMES
from brokerproof.spotting import (
    HINTS,
    PRIVATE_KEY,
    REPEATED_MIN,
    RULES,
    forms,
    hexadecimal,
    is_secret,
    learnt,
    stands,
    windows,
)

__all__ = ["MARK", "REPEATED", "REPEATED_MIN", "Redactor", "is_text"]

MARK = b"[redacted]"
REPEATED = "known value again"
_SNIFF_BYTES = 8192
_HINT = re.compile(b"|".join(map(re.escape, HINTS)), re.IGNORECASE)
# A string; where it is a key, the colon and a number behind it too.
_STRING = re.compile(rb'(?P<s>"(?:[^"\\]|\\.)*")(?P<colon>\s*:\s*(?P<number>-?[0-9][0-9.eE+-]*)?)?', re.DOTALL)
_WORDLIKE = re.compile(rb"[a-z]+(?:[_.-][a-z]+)*")
#: Values of these keys are names that other files go by.
_NAMING = frozenset((
    b"arm", b"broker", b"case", b"cell", b"claim", b"expected", b"f", b"fault", b"kind", b"name", b"path", b"product", b"profile", b"run",
    b"section", b"slug", b"trial", b"trial_ids", b"variant", b"verdict", b"version", b"what",
))  # fmt: skip
_FORMAT = frozenset(name.encode() for name in (*(name for name, _ in COLUMNS), *FUNCTIONS, *OUTCOMES))


class _Piece(NamedTuple):
    """begin, end: in the file.  kind: text, or a string, key or number of JSON.  key: of the object that a value stands in."""

    kind: str
    begin: int
    end: int
    key: bytes = b""


@dataclass(slots=True)
class Redactor:
    """What has been learnt; ``learn`` every file first, then ``redact`` each."""

    _known: set[bytes] = field(default_factory=set)
    _names: set[bytes] = field(default_factory=lambda: set(_FORMAT))
    _repeated: tuple[re.Pattern[bytes], re.Pattern[bytes]] | None = None

    def learn(self, data: bytes) -> None:
        """Collects the credentials of one file, and the names in it."""
        self._repeated = None
        if not is_text(data):
            return
        for piece in _pieces(data):
            raw = data[piece.begin : piece.end]
            if piece.kind == "key":
                self._names.add(_decoded(raw))
            elif piece.kind == "string":
                value = _decoded(raw)
                if piece.key in _NAMING:
                    self._names |= {value, *re.split(rb"[^a-z]+", value)}
                if name := stands(piece.key, value):
                    self._known |= set(learnt(name, value))
                elif _HINT.search(value):
                    self._learn_text(value)
            elif piece.kind == "text":
                self._learn_text(raw)

    def _learn_text(self, data: bytes) -> None:
        for begin, end in windows(data):
            for name, rule in RULES:
                for match in rule.finditer(data[begin:end]):
                    if is_secret(match):
                        self._known |= set(learnt(name, match["v"]))

    def redact(self, data: bytes) -> tuple[bytes, Counter[str]]:
        """The file without them, and how many of each kind there were; the same octets where there were none."""
        counts: Counter[str] = Counter()
        again = self._again()
        if not is_text(data):
            if again is None:
                return data, counts
            return again[1].sub(lambda m: _counted(counts, REPEATED, b"*" * len(m[0])), data), counts
        parts, done = [], 0
        for piece in _pieces(data):
            parts += [data[done : piece.begin], self._redacted(piece, data[piece.begin : piece.end], counts)]
            done = piece.end
        return b"".join([*parts, data[done:]]), counts

    def _redacted(self, piece: _Piece, raw: bytes, counts: Counter[str]) -> bytes:
        if piece.kind == "text":
            return self._again_in(_by_rules(raw, counts), counts, _unbroken)
        if piece.kind == "number":
            return _counted(counts, "credential setting", b'"' + MARK + b'"') if stands(piece.key, raw) else raw
        value = _decoded(raw)
        if piece.kind == "string" and (name := stands(piece.key, value)):
            return _counted(counts, name, b'"' + MARK + b'"')
        new = _by_rules(value, counts) if piece.kind == "string" and _HINT.search(value) else value
        new = self._again_in(new, counts, lambda _: MARK)
        return raw if new == value else _encoded(new, ascii=raw.isascii())

    def _again_in(self, data: bytes, counts: Counter[str], instead: Callable[[re.Match[bytes]], bytes]) -> bytes:
        again = self._again()
        return data if again is None else again[0].sub(lambda m: _counted(counts, REPEATED, instead(m)), data)

    def _again(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]] | None:
        """What is hunted, in a text and in octets; None where nothing is."""
        if self._repeated is None:
            hunted = {value for value in self._known if value not in self._names or not _WORDLIKE.fullmatch(value)}
            if not hunted:
                return None
            # The longest first, or a value that begins with another would leave its end.
            words = sorted({form for value in hunted for form in forms(value)}, key=lambda form: (-len(form), form))
            plain = b"|".join(re.escape(word) for word in words)
            octets = b"|".join(hexadecimal(value) for value in sorted(hunted, key=lambda v: (-len(v), v)))
            self._repeated = (re.compile(plain + b"|" + octets), re.compile(plain))
        return self._repeated


def is_text(data: bytes) -> bool:
    """Whether it is read as text: no zero octet near its begin. A log with a few wrong octets is."""
    return b"\0" not in data[:_SNIFF_BYTES]


# -- what a file consists of -------------------------------------------------------------------------------------------


def _pieces(data: bytes) -> Iterator[_Piece]:
    """The parts of a file that may hold something, in order: strings and numbers of what is JSON, all of what is not."""
    if _is_json(data):
        yield from _of_json(data, 0)
        return
    text = at = 0
    for line in data.splitlines(keepends=True):
        if line.lstrip()[:1] in (b"{", b"[") and _is_json(line):
            if text < at:
                yield _Piece("text", text, at)
            yield from _of_json(line, at)
            text = at + len(line)
        at += len(line)
    if text < len(data):
        yield _Piece("text", text, len(data))


def _is_json(data: bytes) -> bool:
    """Whether it is a JSON object or list, whole."""
    if data.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _of_json(data: bytes, offset: int) -> Iterator[_Piece]:
    """The strings of a JSON value, and the numbers that are values of keys. offset: of ``data`` in its file."""
    key, done = b"", 0
    for match in _STRING.finditer(data):
        if data[done : match.start()].strip(b" \t\r\n[,"):
            key = b""  # the value of the last key has ended
        if match["colon"] is not None:
            key = _decoded(match["s"])
            yield _Piece("key", offset + match.start("s"), offset + match.end("s"))
            if match["number"] is not None:
                yield _Piece("number", offset + match.start("number"), offset + match.end("number"), key)
                key = b""
        else:
            yield _Piece("string", offset + match.start("s"), offset + match.end("s"), key)
        done = match.end()


def _decoded(token: bytes) -> bytes:
    """What a JSON string says, in UTF-8; half a surrogate pair stays half."""
    if b"\\" not in token:
        return token[1:-1]
    return str(json.loads(token)).encode("utf-8", "surrogatepass")


def _encoded(value: bytes, *, ascii: bool) -> bytes:
    try:
        text = value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a value in another encoding was taken out of the middle of a character
        text = value.decode("utf-8", "replace")
    half = any(0xD800 <= ord(c) < 0xE000 for c in text)
    return json.dumps(text, ensure_ascii=ascii or half).encode()


# -- replacing ---------------------------------------------------------------------------------------------------------


def _by_rules(data: bytes, counts: Counter[str]) -> bytes:
    if b"PRIVATE KEY-----" in data:
        data = PRIVATE_KEY.sub(lambda m: _replaced(m, "private key", counts), data)
    parts, done = [], 0
    for begin, end in windows(data):
        part = data[begin:end]
        for name, rule in RULES:
            part = rule.sub(lambda m, name=name: _replaced(m, name, counts), part)  # type: ignore[misc]  # a default binds it
        parts += [data[done:begin], part]
        done = end
    return b"".join([*parts, data[done:]])


def _replaced(match: re.Match[bytes], name: str, counts: Counter[str]) -> bytes:
    if not is_secret(match):
        return match[0]
    counts[name] += 1
    begin, end = match.start("v") - match.start(), match.end("v") - match.start()
    mark = b'"' + MARK + b'"' if match.groupdict().get("bare") else MARK
    return match[0][:begin] + mark + match[0][end:]


def _unbroken(match: re.Match[bytes]) -> bytes:
    """The mark, where what surrounds it may be escaped: a page holds JSON. The letter of an escape that a match begins with, and the
    backslash of one that it ends with, stay."""
    before = match.string[max(0, match.start() - 64) : match.start()]
    begins = (len(before) - len(before.rstrip(b"\\"))) % 2
    found = match[0]
    lead = re.match(rb"u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.", found, re.DOTALL) if begins else None
    ends = (len(found) - len(found.rstrip(b"\\"))) % 2
    return (lead[0] if lead else b"") + MARK + b"\\" * ends


def _counted(counts: Counter[str], name: str, instead: bytes) -> bytes:
    counts[name] += 1
    return instead
