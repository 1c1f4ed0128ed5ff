"""Where cases are run on a broker that somebody else runs: names under the prefix, each in the journal before it is used, all
removed; what a target does not give is declared before, and comes out as SKIP.

Connections go to the brokers' own addresses: no proxy is needed, and no container engine.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Thing, adopting
from brokerproof.brokers.tls import context
from brokerproof.conformance.case import CUT, Case
from brokerproof.conformance.scene import Skip
from brokerproof.conformance.way import Pace, Way
from brokerproof.runtime.journal import Journal

#: Cases -> what they ask of a broker that nobody asks of somebody else's.
_ASKS = {
    "A5.14": "a look at what exists that does not use it",
    "K1.06": "a broker that may be sent every request there is, those of administration too",
    "R5.01": "a look at the delayed messages of everybody, and leaves one there for two hours",
    "R6.06": "a broker whose timer may keep a message for a day",
}
#: Cases at a time: it is somebody's broker.
SIDE_BY_SIDE = 4


def lacking(adoption: Adoption, case: Case, variant: str, condition: str) -> str:
    """What of this case a target does not give, in a sentence; "" nothing that is known before."""
    target = adoption.target
    ours = f"`--broker {target.product}` runs it on one of our own"
    if case.alone:
        return f"others on the broker would feel it; {ours}"
    if settings := case.settings_of(variant, target.product, adoption.version):
        return f"it sets {', '.join(sorted(settings))} of the broker, which a running one is not given by us; {ours}"
    if case.topology != "single":
        return f"it wants nodes of its own in the topology {case.topology}; {ours}"
    if asks := _ASKS.get(case.id):
        return f"it needs {asks}; {ours}"
    if condition == CUT and target.tls is not None:
        return f"a frame inside TLS cannot be cut short by us: its record would not be read; {ours}"
    if condition not in ("", CUT):
        return f"its connection would have to go through a proxy; {ours}"
    return ""


class Belongings:
    """What the cases of one run make on a target. run: its mark in the journal."""

    def __init__(self, adoption: Adoption, run: str) -> None:
        self.target, self._run = adoption.target, run
        self._journal = Journal(adoption.target.key)
        self.pace = Pace(adoption.target.messages_per_s)
        self._tls = context(asdict(adoption.target.tls)) if adoption.target.tls is not None else None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def name(self) -> str:
        """What the names of one case begin with."""
        return f"{self.target.prefix}{secrets.token_hex(8)}-{next(self._numbers)}"

    def way(self, named: Callable[[str], object]) -> Way:
        server_name = self.target.tls.server_name if self.target.tls is not None else ""
        return Way(tls=self._tls, server_name=server_name, pace=self.pace, named=named)

    def ours(self, name: str) -> bool:
        return name.startswith(self.target.prefix)

    def named(self, things: list[Thing], name: str) -> None:
        """A case may make a topic of that name, or what is removed with one. things: what it may have made."""
        if not self.ours(name):
            raise Skip(f"it makes {name[:60]!r}, a name without the target's prefix")
        if (thing := Thing("topic", name)) not in things:
            self.making([thing])
            things.append(thing)

    def making(self, things: Sequence[Thing]) -> None:
        with self._lock:
            self._journal.making(self._run, things)

    def remove(self, things: Sequence[Thing]) -> None:
        # Not under the lock: others go on while a slow broker deletes.
        gone = adopting(self.target.product).remove(self.target, things, self.pace)
        with self._lock:
            self._journal.gone(gone)

    def close(self) -> None:
        """What cases could not remove, once more."""
        self.remove(self._journal.left(lambda run: run == self._run))


def not_given(what: str, product: str) -> Skip:
    return Skip(
        f"it needs {what}, which a running broker does not give; `--broker {product}` runs it on one of our own"
    )
