"""``memory``: a broker in this process, sound or with one bug, that takes every fault the real ones take.

    --broker memory=sound              keeps its promises
    --broker memory=loses-acknowledged forgets some of what it acknowledged            ... see ``BUGS``

One node, ``m1``; queues and topic-partitions are lists. What is confirmed is durable; a kill loses what is not.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import (
    LINK_GROUPS,
    LONGER_OCTETS,
    Broker,
    Cluster,
    Disk,
    Greeted,
    Link,
    Node,
    PeerLinks,
    Router,
)  # fmt: skip
from brokerproof.errors import EnvironmentProblem, UsageError, unknown
from brokerproof.message import MARK_BYTES
from brokerproof.plan import Destination
from brokerproof.where import NOT_THERE, Where

SOUND = "sound"
#: Bug -> what a broker with it does. Every so many messages, so that a short trial shows it.
BUGS: Mapping[str, str] = {
    "loses-acknowledged": "drops every 29th message it acknowledged",
    "doubles": "stores every 31st message twice",
    "reorders": "lets the next four messages pass every 23rd",
    "acks-early": "acknowledges 100 ms before a message is durable",
    "forgets-on-restart": "comes back without half of what it had",
    "wrong-lane": "puts every 19th message into another lane",
    "corrupts": "changes a byte of every 37th message",
    "matches-too-little": "lets # in a topic binding stand for one or more words",
    "matches-nothing-with-hash": "lets # in a topic binding stand for nothing at all",
    "ignores-the-last-word": "compares the binding keys of a direct exchange without their last word",
    "forgets-the-last-binding": "sends nothing to the queue that was bound last",
}
_EARLY_S = 0.1


@dataclass(slots=True)
class Stored:
    """A message that lies in a lane. attempt: deliveries before this one."""

    body: bytes
    durable_at: float
    attempt: int = 0


@dataclass(slots=True)
class Lane:
    """A queue or topic-partition: what is ready, what consumers hold, and (for logs) where it starts.

    max_length: how many may be ready; the oldest makes room for the newest. None: as many as there are.
    """

    max_length: int | None = None
    ready: deque[Stored] = field(default_factory=deque)
    held: dict[int, tuple[int, Stored]] = field(default_factory=dict)  # tag -> (consumer, message)
    log: list[bytes] = field(default_factory=list)
    passed: Stored | None = None  # held back until four have passed it
    passed_by: int = 0


class MemoryNode:
    """The one node."""

    name = "m1"
    #: It has none: what it keeps is memory.
    disk: Disk | None = None

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._state = "running"

    def kill(self) -> None:
        self._state = "exited"
        self._cluster.crash()

    def stop(self) -> None:
        self._state = "exited"
        self._cluster.crash(orderly=True)

    def start(self) -> None:
        self._state = "running"

    def pause(self) -> None:
        self._state = "paused"

    def unpause(self) -> None:
        if self._state == "paused":
            self._state = "running"
            self._cluster.flush_links()

    def state(self) -> str:
        return self._state

    def logs(self) -> str:
        return ""


#: Octets of the greetings of probes, of their answer, and so many more of every request than its body.
_GREETING, _LONGER, _ANSWER, _FRAME = 8, LONGER_OCTETS, 100, 8
#: From this latency on nothing passes (``stall``).
_FOR_EVER_MS = 60_000


class MemoryLink:
    """A client link whose toxics are answered at once: what passes is decided by the state at that moment.

    What only takes time (latency, bandwidth, slices) does so for probes; requests are not delayed.
    """

    def __init__(self, cluster: MemoryCluster, group: str) -> None:
        self.group, self.node, self.name = group, "m1", f"{group}-m1"
        self.address = ("memory", 0)
        self._cluster = cluster
        self._enabled = True
        self._silent = False
        self._toxics: dict[str, tuple[str, str, Mapping[str, int]]] = {}
        self._numbers = itertools.count(1)
        self._stalled: list[Callable[[], None]] = []
        self._carried = 0  # octets upstream since the connection began, or since they are counted
        self.epoch = 0  # rises when connections through the link are closed

    def disable(self) -> None:
        self._enabled = False
        self.epoch += 1

    def enable(self) -> None:
        self._enabled = True

    def add_toxic(self, kind: str, stream: str, **attributes: int) -> str:
        if kind == "reset_peer":
            self.epoch += 1
        self._carried = 0
        name = f"{kind}_{stream}_{next(self._numbers)}"
        self._toxics = {**self._toxics, name: (kind, stream, attributes)}
        return name

    def remove_toxic(self, name: str) -> None:
        if name not in self._toxics:
            return
        if self._toxics[name][0] == "timeout":
            self.epoch += 1  # Toxiproxy closes what a timeout toxic held
        # A new dictionary: clients in other threads read the old one to its end.
        self._toxics = {other: toxic for other, toxic in self._toxics.items() if other != name}
        if self.passage() != "held":
            self.flush()

    def clear_toxics(self) -> None:
        for name in self._toxics:
            self.remove_toxic(name)

    def silence(self) -> None:
        self._silent = True

    def unsilence(self) -> None:
        self._silent = False
        self.flush()  # what nobody acknowledged was sent again all the time

    def flush(self) -> None:
        stalled, self._stalled = self._stalled, []
        for act in stalled:
            act()

    def passage(self, octets: int = 0) -> str:
        """What happens to a request of so many octets now: ``passes``, ``refused``, ``reset``, ``swallowed``,
        ``unanswered``, ``held``, or ``answered_late`` (it arrives, and its answer is held)."""
        state = self._cluster.nodes["m1"].state()
        toxics = self._toxics.values()
        kinds = {kind for kind, _, _ in toxics}
        swallowed = {stream for kind, stream, _ in toxics if kind == "timeout"}
        if self._silent:
            return "held"
        if not self._enabled or state == "exited":
            return "refused"
        if "reset_peer" in kinds:
            return "reset"
        if octets and (cut := self._cut(octets)):
            return cut
        if "upstream" in swallowed:
            return "swallowed"
        if "downstream" in swallowed:
            return "unanswered"
        stalled = {s for kind, s, a in toxics if kind == "latency" and a["latency"] >= _FOR_EVER_MS}
        if state == "paused" or "upstream" in stalled:
            return "held"
        return "answered_late" if stalled else "passes"

    def _cut(self, octets: int) -> str:
        """``reset`` where a limit of octets closes the connection in this request; "" where it does not."""
        limits = [(s, a["bytes"]) for kind, s, a in self._toxics.values() if kind == "limit_data"]
        self._carried += octets + _FRAME if limits else 0
        if any(self._carried > most for _, most in limits):
            self._carried = 0
            self.epoch += 1
            return "reset"
        return ""

    def hold(self, act: Callable[[], None]) -> None:
        """Keeps a request until the stall is over."""
        self._stalled.append(act)

    def greet(self, timeout_s: float) -> Greeted:
        return self._greeted(_GREETING)

    def exchange(self, timeout_s: float) -> Greeted:
        return self._greeted(_LONGER)

    def _greeted(self, sent: int) -> Greeted:
        passage = self.passage()
        if passage == "refused":
            return Greeted(False, False, "refused", None)
        if passage != "passes":
            return Greeted(True, False, "rst" if passage == "reset" else "", None, sent=sent)
        octets = {"upstream": sent, "downstream": _ANSWER}
        late_ms, pieces = 0.0, 1
        for kind, stream, a in self._toxics.values():
            if kind == "limit_data" and octets[stream] > a["bytes"]:
                got = a["bytes"] if stream == "downstream" else 0
                return Greeted(True, False, "fin", None, sent=sent, octets=got, pieces=int(got > 0))
            if kind == "latency":
                late_ms += a["latency"]
            elif kind == "bandwidth":
                late_ms += octets[stream] / a["rate"]
            elif kind == "slicer":
                slices = -(-octets[stream] // a["average_size"])
                late_ms += slices * a["delay"] / 1000
                pieces = slices if stream == "downstream" else pieces
        return Greeted(True, True, "", late_ms, sent=sent, octets=_ANSWER, pieces=pieces, whole_ms=late_ms)


class MemoryCluster:
    """``brokers.base.Cluster`` in this process."""

    product = "memory"
    topology = "single"
    in_process = True
    keeps_consumed = False
    peers: PeerLinks | None = None
    redelivery_s = 0.5

    def __init__(self, version: str, settings: Mapping[str, Any]) -> None:
        self.version = version
        self.bug = "" if version == SOUND else version
        self._settings = dict(settings)
        self.nodes: Mapping[str, Node] = {"m1": MemoryNode(self)}
        self._links = {group: MemoryLink(self, group) for group in LINK_GROUPS}
        self.lock = threading.RLock()
        self.lanes: dict[tuple[str, int], Lane] = {}
        self._stored = 0
        self._tag = 0

    # -- what clients do -----------------------------------------------------------------------------------------------

    def store(self, name: str, partition: int, body: bytes) -> int:
        """Takes a message; returns its position. The bugs of the storing side live here."""
        with self.lock:
            self._stored += 1
            n, bug = self._stored, self.bug
            if bug == "wrong-lane" and n % 19 == 0:
                partition = self._other(name, partition)
            if bug == "corrupts" and n % 37 == 0:
                body = body[:40] + bytes([body[40] ^ 1]) + body[41:]
            lane = self.lanes[name, partition]
            durable = time.monotonic() + (_EARLY_S if bug == "acks-early" else 0.0)
            if bug == "loses-acknowledged" and n % 29 == 0:
                return len(lane.log)
            for _ in range(2 if bug == "doubles" and n % 31 == 0 else 1):
                lane.ready.append(Stored(body, durable))
                lane.log.append(body)
            if lane.max_length is not None and len(lane.ready) > lane.max_length:
                lane.ready.popleft()
            if bug == "reorders" and n % 23 == 0:
                lane.passed, lane.passed_by = lane.ready.pop(), 0
            elif lane.passed is not None:
                lane.passed_by += 1
                if lane.passed_by == 4:
                    lane.ready.append(lane.passed)
                    lane.passed = None
            return len(lane.log) - 1

    def fetch(self, name: str, partition: int, consumer: int) -> tuple[int, Stored] | None:
        """Hands the next message to a consumer; it is held until ``settle`` or ``release``."""
        with self.lock:
            lane = self.lanes[name, partition]
            if not lane.ready and lane.passed is not None and time.monotonic() - lane.passed.durable_at > _EARLY_S:
                lane.ready.append(lane.passed)  # nothing came that could have passed it
                lane.passed = None
            if not lane.ready:
                return None
            message = lane.ready.popleft()
            self._tag += 1
            lane.held[self._tag] = (consumer, message)
            return self._tag, message

    def settle(self, name: str, partition: int, tag: int) -> bool:
        with self.lock:
            return self.lanes[name, partition].held.pop(tag, None) is not None

    def requeue(self, name: str, partition: int, tag: int) -> None:
        """The consumer does not want it now: it is the next again."""
        with self.lock:
            lane = self.lanes[name, partition]
            if (held := lane.held.pop(tag, None)) is not None:
                held[1].attempt += 1
                lane.ready.appendleft(held[1])

    def release(self, consumer: int) -> None:
        """The consumer is gone: what it held is ready again, in its old place."""
        with self.lock:
            for lane in self.lanes.values():
                mine = [tag for tag, (owner, _) in lane.held.items() if owner == consumer]
                for tag in sorted(mine, reverse=True):
                    _, message = lane.held.pop(tag)
                    message.attempt += 1
                    lane.ready.appendleft(message)

    def crash(self, *, orderly: bool = False) -> None:
        """The node dies: what is not durable is gone; what consumers held is ready again."""
        with self.lock:
            now = time.monotonic() + (_EARLY_S if orderly else 0.0)
            for lane in self.lanes.values():
                for tag in sorted(lane.held, reverse=True):
                    _, message = lane.held.pop(tag)
                    message.attempt += 1
                    lane.ready.appendleft(message)
                lane.ready = deque(m for m in lane.ready if m.durable_at <= now)
                if self.bug == "forgets-on-restart":
                    lane.ready = deque(list(lane.ready)[len(lane.ready) // 2 :])
                lane.log = [m.body for m in lane.ready]
            for link in self._links.values():
                link.epoch += 1

    def flush_links(self) -> None:
        for link in self._links.values():
            link.flush()

    def _other(self, name: str, partition: int) -> int:
        mine = sorted(p for n, p in self.lanes if n == name)
        return mine[(mine.index(partition) + 1) % len(mine)]

    def router(self, exchange_type: str) -> AbstractContextManager[Router]:
        return nullcontext(_MemoryRouter(self, exchange_type))

    def bound(self, exchange: str, binding: str, key: str, n: int, bindings: Sequence[str]) -> bool:
        """Whether the ``n``-th binding takes a message with that routing key. The bugs of routing live here."""
        if self.bug == "forgets-the-last-binding" and n == len(bindings) - 1:
            return False
        if exchange == "fanout":
            return True
        pattern, words = binding.split(".") if binding else [], key.split(".") if key else []
        if exchange == "direct":
            end = -1 if self.bug == "ignores-the-last-word" else None
            return pattern[:end] == words[:end]
        return self._matches(pattern, words)

    def _matches(self, pattern: Sequence[str], words: Sequence[str]) -> bool:
        if not pattern:
            return not words
        if pattern[0] != "#":
            return bool(words) and pattern[0] in ("*", words[0]) and self._matches(pattern[1:], words[1:])
        least = 1 if self.bug == "matches-too-little" else 0
        most = 0 if self.bug == "matches-nothing-with-hash" else len(words)
        return any(self._matches(pattern[1:], words[n:]) for n in range(least, most + 1))

    # -- brokers.base.Cluster ------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        return [self._links[group]]

    def link(self, group: str) -> MemoryLink:
        return self._links[group]

    def endpoint(self, group: str, name: str | None = None) -> Mapping[str, Any]:
        return {"cluster": self, "group": group}

    def create(self, destination: Destination, name: str) -> None:
        with self.lock:
            for partition in range(destination.partitions):
                self.lanes[name, partition] = Lane(max_length=destination.settings.get("max-length"))

    def delete(self, destination: Destination, name: str) -> None:
        with self.lock:
            for partition in range(destination.partitions):
                self.lanes.pop((name, partition), None)

    def leader(self, name: str, partition: int = 0) -> str:
        return "m1"

    def replicas(self, name: str) -> Sequence[str]:
        return ["m1"]

    def wait_healthy(self, timeout_s: float) -> None:
        if self.nodes["m1"].state() != "running":
            raise EnvironmentProblem(f"the memory broker is {self.nodes['m1'].state()}; start it before waiting for it")

    def sync(self) -> None:
        pass

    def observe(self, names: Sequence[str]) -> Mapping[str, Any]:
        return {"leaders": dict.fromkeys(names, "m1")}

    def locate(
        self, lanes: Mapping[str, Destination], marks: Mapping[bytes, tuple[str, int]], deadline: float
    ) -> Mapping[str, Mapping[bytes, Where]]:
        """See ``brokers.base.Locates``. A lane's log keeps what was consumed; its queue does not."""
        found: dict[bytes, list[Mapping[str, Any]]] = {m: [] for m in marks}
        with self.lock:
            for (name, partition), lane in self.lanes.items():
                if name not in lanes:
                    continue
                ready = {m.body[:MARK_BYTES] for m in lane.ready}
                for position, body in enumerate(lane.log):
                    if (m := body[:MARK_BYTES]) in found:
                        state = "in the queue" if m in ready else "consumed"
                        found[m].append({"partition": partition, "position": position, "state": state})
        return {"m1": {m: Where(tuple(places), "" if places else NOT_THERE) for m, places in found.items()}}

    def settings(self) -> Mapping[str, Any]:
        return {"bug": self.bug or "none", **self._settings}

    def save_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        self.lanes.clear()


@dataclass(frozen=True, slots=True)
class _MemoryRouter:
    cluster: MemoryCluster
    exchange: str

    def route(self, binding_keys: Sequence[str], routing_keys: Sequence[str]) -> list[set[int]]:
        return [
            {n for n, b in enumerate(binding_keys) if self.cluster.bound(self.exchange, b, key, n, binding_keys)}
            for key in routing_keys
        ]


class MemoryBroker:
    """The product."""

    product = "memory"
    versions = (SOUND, *BUGS)
    topologies: Mapping[str, str] = {"single": "one node in this process"}
    capabilities = frozenset({"confirm", "several_consumers_per_lane", "exchanges", "in_process"})
    capability_versions: Mapping[str, str] = {}
    live_settings: frozenset[str] = frozenset()

    def start(self, *, version: str, topology: str, settings: Mapping[str, Any], name: str, run: str,
              progress: Callable[[str], None], equipment: Sequence[str] = ()) -> Cluster:  # fmt: skip
        if equipment:
            raise UsageError(f"memory has no {', '.join(equipment)}: it is threads of this process")
        if version not in self.versions:
            raise unknown("version of memory", version, self.versions)
        _living[name] = MemoryCluster(version, settings)
        return _living[name]

    def attach(self, *, version: str, topology: str, settings: Mapping[str, Any], name: str, run: str) -> Cluster:
        try:
            return _living[name]
        except KeyError:
            raise EnvironmentProblem(f"no memory broker {name!r} in this process; it cannot be shared") from None


_living: dict[str, MemoryCluster] = {}
BROKER: Broker = MemoryBroker()
