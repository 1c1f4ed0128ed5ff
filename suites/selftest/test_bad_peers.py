"""A peer that answers garbage, never answers, closes at once or floods: every case ends in time and says why, and a script
that is not about connections never takes such a peer for a broker that passes or fails."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from brokerproof.conformance import link
from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.protocols import on_reference
from brokerproof.conformance.scene import Outcome, play
from brokerproof.suites import suites

#: Sections that are about the first octets of a connection, or whose first request is what is judged: there, such a peer
#: may well earn a verdict.
_OPENING = {"A1", "K1", "R1", "R2"}
#: Through gRPC, whose library dials by itself.
_NOT_DIALLED = {"R6"}
#: Of so many cases one is tried, always another section's first.
_EVERY = 4


def _garbage(one: socket.socket) -> None:
    one.recv(1)
    with contextlib.suppress(OSError):
        one.sendall(bytes(range(7, 251)) * 20)
        one.recv(2**16)


def _silent(one: socket.socket) -> None:
    while one.recv(2**16):
        pass


def _floods(one: socket.socket) -> None:
    while True:
        one.sendall(b"\x00" * 2**16)


_PEERS: dict[str, Callable[[socket.socket], None]] = {
    "garbage": _garbage, "silent": _silent, "closes": lambda one: None, "floods": _floods,
}  # fmt: skip


@contextlib.contextmanager
def _serving(does: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    threads: list[threading.Thread] = []

    def one(accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            does(accepted)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                threads.append(threading.Thread(target=one, args=(accepted,), daemon=True))
                threads[-1].start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()
    finally:
        # Wakes the thread that waits in accept.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _some(protocol: str) -> list[Case]:
    mine = [c for c in cases_of(suites() / "conformance" / protocol) if c.section not in _NOT_DIALLED]
    firsts = {c.section: c.id for c in reversed(mine)}
    return [c for i, c in enumerate(mine) if i % _EVERY == 0 or firsts[c.section] == c.id]


@pytest.mark.parametrize("peer", _PEERS)
@pytest.mark.parametrize("protocol", ["amqp091", "kafka", "rocketmq"])
def test_every_case_ends_in_time_and_says_why(protocol: str, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RECEIVED_MAX", 2**20)
    dial = socket.create_connection

    def elsewhere(address: Any, timeout: float | None = None, **more: Any) -> socket.socket:
        return dial(bad, timeout, **more)

    def played(case: Case) -> tuple[Case, Outcome, float]:
        began = time.monotonic()
        ground = on_reference(protocol)
        try:
            return case, play(ground, case, variant=next(iter(case.variants))), time.monotonic() - began
        finally:
            ground.close()

    with _serving(_PEERS[peer]) as bad, ThreadPoolExecutor(8) as several:
        monkeypatch.setattr(link.socket, "create_connection", elsewhere)
        found = list(several.map(played, _some(protocol)))
    late = [(c.id, round(took, 1)) for c, _, took in found if took > c.limit_s + 15]
    bugs = [(c.id, o.observed) for c, o, _ in found if re.match(r"\w*(Error|Exception|Warning): ", o.observed)]
    mute = [c.id for c, o, _ in found if not o.observed]
    judged = [
        (c.id, o.verdict, o.observed[:120]) for c, o, _ in found
        if c.section not in _OPENING and o.verdict not in ("INCONCLUSIVE", "HARNESS", "SKIP")
    ]  # fmt: skip
    assert (late, bugs, mute, judged) == ([], [], [], [])
