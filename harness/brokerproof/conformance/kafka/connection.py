"""One connection to a Kafka node: requests out, answers in, everything logged decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from brokerproof.conformance.case import Ending, Seen
from brokerproof.conformance.link import Link
from brokerproof.conformance.scene import Inconclusive
from brokerproof.wire.kafka import frames, octets, schema
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.schema import Fields

#: Of a decoded message in the log.
_SHOWN = 600


@dataclass(frozen=True, slots=True)
class Answer:
    """What came to a request. fields: None where none came.  ended: how the connection did, if it did.

    leftover: octets behind the last field.  wrong: what cannot be read about it, in words.
    """

    api: str
    version: int
    fields: Fields | None = None
    ended: str = ""
    correlation: int = -1
    leftover: int = 0
    wrong: str = ""
    tags: Mapping[int, bytes] = field(default_factory=dict)
    payload: bytes = field(default=b"", repr=False)

    @property
    def code(self) -> int | None:
        """The first error code in it that is not zero; 0: none; None: no answer, or one without a place for errors."""
        return None if self.fields is None else code_of(self.fields)

    def need(self) -> Fields:
        """The fields. Raises Inconclusive where none came: without them nothing can be judged."""
        if self.fields is None:
            raise Inconclusive(f"no answer to {self.api} v{self.version}: {self.what()}")
        return self.fields

    def what(self) -> str:
        if self.fields is not None:
            return "answered"
        return self.wrong or {"eof": "closed", "reset": "reset"}.get(self.ended, "no answer")

    def seen(self, code: int | None = None, detail: str = "") -> Seen:
        """For a table: ``answered`` with the code (the first in it that is not zero), or ``closed`` …"""
        if self.fields is None:
            return Seen(self.what(), ending=ending(self.ended), detail=detail)
        return Seen("answered", code=self.code if code is None else code, detail=detail)


def ending(ended: str) -> Ending:
    return "eof" if ended == "eof" else "reset" if ended == "reset" else "open"


def codes(value: Any) -> list[int]:
    """Every error code in a message, outermost first."""
    if isinstance(value, list):
        return [c for v in value for c in codes(v)]
    if not isinstance(value, dict):
        return []
    own = [v for k, v in value.items() if isinstance(k, str) and k.endswith("error_code")]
    return own + [c for k, v in value.items() if k != schema.TAGS for c in codes(v)]


def code_of(value: Any) -> int | None:
    found = codes(value)
    return next((c for c in found if c), 0) if found else None


class Connection:
    """Answers come in the order of the requests. patience_s: how long one is waited for, in seconds of ours.

    cut: how much comes through of what is sent, which is then the last; None: everything does.
    """

    def __init__(
        self, link: Link, versions: Mapping[int, tuple[int, int]], patience_s: float,
        cut: Callable[[bytes], bytes] | None = None,
    ) -> None:  # fmt: skip
        self.link, self.patience_s = link, patience_s
        self._cut = cut
        self._versions = versions
        self._frames = frames.Frames()
        self._next = 1
        self._waiting: list[tuple[int, int, int]] = []  # (correlation, key, version) of what is unanswered
        self._overdue: set[int] = set()  # correlations of what was given up
        self._broken = ""
        self.closed = False

    @property
    def ended(self) -> str:
        return self.link.ended

    def best(self, api: str, most: int | None = None) -> int:
        """The highest version that both sides know, and not above ``most``. Raises Inconclusive where there is none."""
        key = schema.KEYS[api]
        low, high = schema.versions(key)
        theirs = self._versions.get(key, (0, -1))
        found = min(high, theirs[1], high if most is None else most)
        if found < max(low, theirs[0]):
            raise Inconclusive(f"no common version of {api}: ours {low} to {high}, theirs {theirs}")
        return found

    def send(
        self, api: str, version: int | None = None, *, header: dict[int, bytes] | None = None, answered: bool = True,
        **fields: Any,
    ) -> int:  # fmt: skip
        """Sends a request and returns its correlation id. Fields that the version does not have are left out.
        header: tagged fields of it. answered: whether an answer is due."""
        key = schema.KEYS[api]
        chosen = self.best(api) if version is None else version
        fitted = schema.fitting(schema.request(key, chosen), fields)
        correlation = self._take(key, chosen if answered else -1)
        data = frames.request(key, chosen, correlation, fitted, tags=header)
        self._send(data, f"{api} v{chosen} #{correlation} {_short(fitted)}")
        return correlation

    def by_hand(self, key: int, version: int, body: bytes, *, flexible: bool = False, answer_version: int | None = None) -> int:  # fmt: skip
        """A request of any key, version and body. answer_version: which schema the answer is read by."""
        correlation = self._take(key, version if answer_version is None else answer_version)
        data = frames.by_hand(key, version, correlation, body, flexible=flexible)
        self._send(data, f"{schema.NAMES.get(key, key)} v{version} #{correlation} by hand")
        return correlation

    def octets(self, data: bytes, what: str) -> None:
        """Any octets; no answer is expected."""
        self._send(data, what)

    def ask(self, api: str, version: int | None = None, *, within: float | None = None, **fields: Any) -> Answer:
        """Sends, and waits for its answer so many seconds of ours."""
        self.send(api, version, **fields)
        return self.receive(within)

    def receive(self, within: float | None = None) -> Answer:
        """The answer to the oldest request that has none; one without fields when it did not come."""
        if not self._waiting:
            raise AssertionError("no request is unanswered")
        correlation, key, version = self._waiting.pop(0)
        api = schema.NAMES.get(key, str(key))
        payload = self._next_payload(within)
        if payload is None:
            self._overdue.add(correlation)
            return Answer(api, version, ended=self.ended, correlation=correlation, wrong=self._broken)
        return self._read(api, key, version, correlation, payload)

    def soon(self, within: float) -> Answer | None:
        """``receive``, but None, with the request still unanswered, where nothing came in so many seconds of ours."""
        if not self._waiting:
            raise AssertionError("no request is unanswered")
        correlation, key, version = self._waiting[0]
        payload = self._next_payload(within)
        if payload is None and not self.ended:
            return None
        self._waiting.pop(0)
        api = schema.NAMES.get(key, str(key))
        if payload is None:
            return Answer(api, version, ended=self.ended, correlation=correlation, wrong=self._broken)
        return self._read(api, key, version, correlation, payload)

    def payload(self, within: float | None = None) -> bytes | None:
        """The next frame without its length; None: none came."""
        until = time.monotonic() + (self.patience_s if within is None else within)
        while not self._broken:
            try:
                found = self._frames.next()
            except WireError as exc:
                self._broken = str(exc)
                break
            if found is not None:
                return found
            data = self.link.receive(until)
            if not data:
                break
            self._frames.feed(data)
        return None

    def _next_payload(self, within: float | None) -> bytes | None:
        """The next frame that is not the answer to a request which was given up: that one came late, and is nobody's."""
        until = time.monotonic() + (self.patience_s if within is None else within)
        while (found := self.payload(max(0.0, until - time.monotonic()))) is not None:
            late = int.from_bytes(found[:4], "big", signed=True)
            if late not in self._overdue:
                return found
            self._overdue.discard(late)
            self.link.frame("<", f"#{late} came late")
        return None

    def quiet(self, within: float) -> Seen:
        """What comes by itself: ``silent`` or ``octets came``, and how the connection ended within so many seconds of ours."""
        until = time.monotonic() + within
        came = 0
        while (data := self.link.receive(until)) or (not self.ended and time.monotonic() < until):
            came += len(data)
            self._frames.feed(data)
        came += 0 if came else self._frames.pending
        return Seen("octets came" if came else "silent", ending=ending(self.ended))

    def abort(self) -> None:
        self.closed = True
        self.link.abort()

    def close(self) -> None:
        self.closed = True
        self.link.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes, decoded: str) -> None:
        if self._cut is None:
            self.link.send(data, decoded=decoded)
        else:
            self.link.cut(self._cut(data), decoded=decoded)

    def _take(self, key: int, version: int) -> int:
        correlation, self._next = self._next, self._next + 1
        if version >= 0:
            self._waiting.append((correlation, key, version))
        return correlation

    def _read(self, api: str, key: int, version: int, correlation: int, payload: bytes) -> Answer:
        try:
            found = frames.parse_response(key, version, payload)
        except WireError as exc:
            self.link.frame("<", f"{api} v{version}: cannot be read: {exc}")
            return Answer(api, version, ended=self.ended, wrong=f"not readable as v{version}", payload=payload)
        self.link.frame("<", f"{api} v{version} #{found.correlation} {_short(found.fields)}")
        wrong = "" if found.correlation == correlation else f"correlation {found.correlation}, not {correlation}"
        return Answer(
            api, version, None if wrong else found.fields, self.ended, found.correlation, found.leftover, wrong,
            found.tags, payload,
        )  # fmt: skip


def as_octets(*parts: tuple[str, int]) -> bytes:
    """``("int16", 18), …`` one behind the other."""
    return b"".join(octets.fixed(kind, value) for kind, value in parts)


def _short(fields: Fields) -> str:
    text = repr(fields)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
