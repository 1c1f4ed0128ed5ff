"""How connections of cases get to a peer that somebody else runs: inside TLS, not faster than asked for, under names of ours.

To peers of our own nothing of this applies: ``OURS``.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from brokerproof.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Way:
    """tls, server_name: None: no TLS; "" the host that is dialled.  pace: called before anything is sent; returns when it may be.

    named: told of every name that a case may make something by, before it can. Raises Skip for one that is not to be made there.
    """

    tls: ssl.SSLContext | None = None
    server_name: str = ""
    pace: Callable[[], object] = lambda: None
    named: Callable[[str], object] = lambda name: None


OURS = Way()


class Pace:
    """Lets through so many calls in a second, of all threads together."""

    def __init__(self, rate_per_s: float) -> None:
        self._every_s = 1 / rate_per_s
        self._lock = threading.Lock()
        self._next = 0.0

    def __call__(self) -> None:
        with self._lock:
            mine = max(self._next, time.monotonic())
            self._next = mine + self._every_s
        wait_until(
            lambda: time.monotonic() >= mine, mine - time.monotonic() + 5, "the turn of what is sent to a target",
            interval_s=self._every_s,
        )  # fmt: skip
