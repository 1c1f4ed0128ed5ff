"""The wire log of one case: every octet, frame, ending, timer and remark, with its time, as JSON-able entries.

    {"t": 0.0131, "dir": ">", "layer": "tcp", "conn": "a", "chan": null, "hex": "414d5150…", "octets": 8, "decoded": "", "note": ""}

``dir``: ``>`` from us, ``<`` from the peer, ``-`` neither.  ``layer``: tcp, frame, method, harness or fault.  ``hex`` is cut
after ``HEX_OCTETS``; ``octets`` is the whole length and ``sha256`` of the whole is there when it was cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

Layer = Literal["tcp", "frame", "method", "harness", "fault"]
HEX_OCTETS = 256
#: A flood must not fill the disk: what comes after so many entries is counted, and the last entry says so.
ENTRIES_MAX = 2_000


class WireLog:
    """Entries of one case, from several threads. Its clock is zero when it is made; ``began`` is that moment's UTC time."""

    def __init__(self) -> None:
        #: What must not stand in it, whoever says it.
        self.hides: tuple[str, ...] = ()
        self._zero = time.monotonic()
        self.began = time.time()
        self._lock = threading.Lock()
        self._entries: list[dict[str, Any]] = []
        self._dropped = 0
        self._silent: set[str] = set()

    @contextlib.contextmanager
    def unlogged(self, conn: str, what: str) -> Iterator[None]:
        """Of this connection only that it was so: from the messages of a SCRAM exchange a weak password can be guessed at leisure."""
        self.note(f"not logged: {what}", conn=conn)
        self._silent.add(conn)
        try:
            yield
        finally:
            self._silent.discard(conn)

    def add(
        self, direction: Literal[">", "<", "-"], layer: Layer, data: bytes = b"", *, conn: str = "", chan: int | None = None,
        decoded: str = "", note: str = "",
    ) -> None:  # fmt: skip
        """One entry. data: the octets it is about, if any."""
        if conn in self._silent:
            return
        for secret in self.hides:
            data = data.replace(secret.encode(), b"*" * len(secret.encode()))
            for form in (secret, repr(secret)[1:-1], repr(secret.encode())[2:-1]):
                decoded, note = decoded.replace(form, "***"), note.replace(form, "***")
        entry: dict[str, Any] = {
            "t": self.elapsed(), "dir": direction, "layer": layer, "conn": conn, "chan": chan,
            "hex": data[:HEX_OCTETS].hex(), "octets": len(data), "decoded": decoded, "note": note,
        }  # fmt: skip
        if len(data) > HEX_OCTETS:
            entry["sha256"] = hashlib.sha256(data).hexdigest()
        with self._lock:
            if len(self._entries) < ENTRIES_MAX:
                self._entries.append(entry)
            else:
                self._dropped += 1

    def elapsed(self) -> float:
        """Seconds since the log began."""
        return round(time.monotonic() - self._zero, 4)

    def note(self, text: str, *, conn: str = "", layer: Layer = "harness") -> None:
        self.add("-", layer, conn=conn, note=text)

    def entries(self) -> list[dict[str, Any]]:
        with self._lock:
            out = list(self._entries)
            if self._dropped:
                last = dict.fromkeys(out[-1], "") | {"t": out[-1]["t"], "dir": "-", "layer": "harness", "octets": 0}
                out.append({**last, "chan": None, "note": f"{self._dropped} more entries, not kept"})
            return out
