"""What is injected at the same time: so that overlapping faults neither heal each other nor pass for one another.

Ledger   which injections are on which nodes and links right now, and who holds a link down
Grip     a client link in the hands of one injection: it takes back what it did, and nothing else
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from brokerproof.brokers.base import Greeted, Link
from brokerproof.errors import HarnessError


class Ledger:
    """One per scene. Injections run in threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._touched: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._named = 0
        self._links = threading.RLock()

    @contextmanager
    def on(self, touched: Collection[str]) -> Iterator[None]:
        """An injection is on these nodes and links until the block ends."""
        with self._lock:
            self._touched.update(touched)
        try:
            yield
        finally:
            with self._lock:
                self._touched.subtract(touched)

    def others(self, touched: Collection[str], *, mine: bool) -> bool:
        """Whether another injection is on one of these right now. mine: whether the asker's own is on them too."""
        with self._lock:
            return any(self._touched[name] > (1 if mine else 0) for name in touched)

    def name(self, of: str) -> str:
        """One that no other injection has."""
        with self._lock:
            self._named += 1
            return f"{of}_{self._named}"

    def take(self, switch: str, on: Callable[[], None]) -> None:
        """Holds that switch of a link; several can."""
        with self._links:
            self._held[switch] += 1
            on()

    def let_go(self, switch: str, off: Callable[[], None]) -> None:
        """The last one who holds it switches it back."""
        with self._links:
            self._held[switch] -= 1
            if self._held[switch] <= 0:
                off()


class Grip:
    """``brokers.base.Link`` for one injection: ``clear_toxics`` and ``enable`` undo what came through this grip.

    Two faults on one link would otherwise heal each other: Toxiproxy knows toxics by name, and a link has one switch.
    """

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self._link, self._ledger = link, ledger
        self.name, self.group, self.node, self.address = link.name, link.group, link.node, link.address
        self._toxics: list[str] = []
        self._down = self._silent = False

    def disable(self) -> None:
        if not self._down:
            self._down = True
            self._ledger.take(f"{self.name} off", self._link.disable)

    def enable(self) -> None:
        if self._down:
            self._down = False
            self._ledger.let_go(f"{self.name} off", self._link.enable)

    def silence(self) -> None:
        if not self._silent:
            self._silent = True
            self._ledger.take(f"{self.name} silent", self._link.silence)

    def unsilence(self) -> None:
        if self._silent:
            self._silent = False
            self._ledger.let_go(f"{self.name} silent", self._link.unsilence)

    def add_toxic(self, kind: str, stream: str, **attributes: int) -> str:
        name = self._link.add_toxic(kind, stream, **attributes)
        self._toxics.append(name)
        return name

    def remove_toxic(self, name: str) -> None:
        self._link.remove_toxic(name)
        with suppress(ValueError):
            self._toxics.remove(name)

    def clear_toxics(self) -> None:
        failed: HarnessError | None = None
        while self._toxics:
            try:
                self._link.remove_toxic(self._toxics.pop())
            except HarnessError as exc:  # the others have to go all the same
                failed = exc
        if failed is not None:
            raise failed

    def greet(self, timeout_s: float) -> Greeted:
        return self._link.greet(timeout_s)

    def exchange(self, timeout_s: float) -> Greeted:
        return self._link.exchange(timeout_s)
