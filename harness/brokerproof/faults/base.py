"""What a fault is: a pure description and a context manager. Entering injects, leaving heals, always.

A fault is one module ``faults/<name>.py`` with one frozen dataclass decorated with ``@fault("<name>")``. It acts on a
cluster handle, never on a product, and brings a probe: an independent look from outside, through the same path, that
tells whether it bites right now. ``apply`` wraps injection and probes into the evidence that ``faults.json`` holds:

    probe (must not bite) -> inject -> probe (must bite) -> ... -> heal -> probe (must not bite)

    took_effect   all three as they must be          no_effect   it did not bite after the injection
    not_healed    it still bit after the heal        unproven    a probe could not say

Where another injection is on the same nodes or links, a look may show that one's doing. So an injection that had company
is looked at once more, shortly before its heal (``Applied.confirm``) and, if it could not be told from the others when
it was healed, when all are over (``Applied.settle``); looks without company count for more.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from brokerproof.brokers.base import (
    LINK_GROUPS,
    Clocked,
    Cluster,
    Direction,
    Disk,
    Greeted,
    Link,
    Node,
    PeerLinks,
    PeerTrouble,
    Segmented,
    TellsTime,
)
from brokerproof.errors import DeadlineError, HarnessError, PlanError, unknown
from brokerproof.overlap import Grip, Ledger
from brokerproof.waiting import wait_until

Evidence = Literal["took_effect", "no_effect", "not_healed", "unproven"]
#: What a fault breaks: client links, links between nodes, nodes, load processes, the nodes' file systems, their clocks,
#: their memory and processor; ``none``: nothing.
Plane = Literal["link", "peer", "node", "load", "disk", "clock", "resource", "none"]
_NODE_ROLES = ("leader", "replica", "follower", "one", "minority", "majority", "all", "NODE")
#: What faults of a plane can be aimed at, where that is not nodes.
_ROLES: Mapping[str, tuple[str, ...]] = {
    "link": ("all", "leader", "NODE"),
    "load": ("consumer", "producer"),
    "none": (),
}
#: Planes that nodes do not notice.
_OUTSIDE = frozenset({"link", "load", "none"})

#: How long a fault may take to bite after its injection, and to be gone after its heal.
BITE_S, HEAL_S = 5.0, 10.0
#: How long the first look may wait for what it sees to be sound.
CALM_S = 2.0
#: How long a destination may be without a leader before a role cannot be resolved.
LEADER_S = 20.0
#: How long before its moment an injection begins with its first look.
LOOK_AHEAD_S = 3.0
#: A clock is right when it is no further off than this, and the error of reading it.
CLOCK_RIGHT_S = 0.1


@dataclass(frozen=True, slots=True)
class Probe:
    """One look: whether the fault bites now (None: cannot tell), and what was seen, for the report."""

    bites: bool | None
    seen: str

    def to_json(self) -> dict[str, Any]:
        return {"bites": self.bites, "seen": self.seen}


#: Where in a consumer's work it is killed: after a message was received, after its effect and before its
#: acknowledgement, after the acknowledgement was answered; "": in the middle of the work.
Step = Literal["", "receive", "effect", "ack"]
#: Which client of a role: the one that is given messages.
ACTIVE = "active"


class Clients(Protocol):
    """The load processes of the trials that share an injection."""

    def kill(self, role: str, step: Step = "", which: str = "") -> Sequence[int]:
        """SIGKILLs the clients of that role (``producer`` or ``consumer``); returns their process ids.

        step: each kills itself right after its next such step; one that never comes to it is left alive.
        which: of each trial all, the one with that number among them, or the ``active`` one, whose history has the
        latest entry."""

    def replace(self, role: str) -> None:
        """Starts a new client, under a new process number, for every one of that role that was killed."""

    def killed(self, role: str) -> Sequence[str]:
        """What those are that were killed and not replaced."""

    def last_steps(self, role: str) -> Mapping[str, str]:
        """Of those, the last function (``receive``, ``effect``, ``settle`` …) that the history has of each."""

    def pause(self, role: str) -> Sequence[int]:
        """SIGSTOP to the clients of that role; returns their process ids."""

    def resume(self, role: str) -> None:
        """SIGCONT to every client of that role; safe to call twice."""

    def states(self, role: str) -> Mapping[str, str]:
        """Name and process id of each client of that role -> its state as the kernel says (``T``: stopped, ``S``,
        ``R``, ``D``; "" when it is gone)."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault acts: the cluster, the destinations of the trials that share the injection, the load processes.

    link_groups: the client groups whose links are broken.
    note: what a fault that acts over time says at each of its steps; ``apply`` keeps it in the record, with the time.
    ledger: what is injected at the moment.
    """

    cluster: Cluster
    destinations: tuple[str, ...] = ()
    link_groups: tuple[str, ...] = ("producer",)
    clients: Clients | None = None
    note: Callable[[str], None] = lambda _: None
    ledger: Ledger = field(default_factory=Ledger)


class Fault(Protocol):
    """name and plane are class attributes; settings are fields with their unit in the name."""

    name: str
    plane: Plane
    #: How long it may take to bite after its injection.
    bite_s: float
    #: Anomalies or observations one of which some trial under the injection has to show, or the fault did not do what
    #: it is for; empty where the probe says it all.
    witnessed_by: tuple[str, ...]
    #: Equipment that the nodes must have been started with, see ``Plan.equipment``.
    needs: tuple[str, ...]
    #: What it needs of the machine besides an engine, see ``runtime.abilities``.
    abilities: tuple[str, ...]
    #: The targets it takes; ``NODE`` stands for the name of any node.
    roles: tuple[str, ...]
    #: Capabilities that the product must have (``Broker.capabilities``); without one the cell is UNSUPPORTED.
    asks: tuple[str, ...]

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        """The names (nodes, links, processes) that the role means right now. Raises PlanError for a role it has not."""

    def prepare(self, scene: Scene, targets: Sequence[str]) -> None:
        """What has to be in force before the injection; called with the first look. Optional."""

    def inject(self, scene: Scene, targets: Sequence[str]) -> AbstractContextManager[None]:
        """Entering injects, leaving heals; healing must not raise because the injection was incomplete."""

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        """Looks from outside. Never raises; None where it cannot tell."""


@dataclass(slots=True)
class Applied:
    """The record of one injection: what ``faults.json`` holds. Times in seconds from the trial's start.

    planned_s: when it was to be issued; injected_s: when it was.  overlapped: another one was on the same nodes or links.
    """

    fault: str
    target: str
    options: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    evidence: Evidence = "unproven"
    injected_s: float = -1.0
    bit_s: float = -1.0
    healing_s: float = -1.0
    healed_s: float = -1.0
    probes: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)
    in_flight: int = -1
    error: str = ""
    planned_s: float = -1.0
    overlapped: bool = False
    #: Looks once more, from outside, while the fault is still on; set by ``apply``.
    confirm: Callable[[], None] = field(default=lambda: None, repr=False)
    #: Looks once more when everything is over, where company had kept the last look from saying anything.
    settle: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def late_ms(self) -> float | None:
        """How much later than planned it was issued; None where it was not, or had no plan."""
        if self.planned_s < 0 or self.injected_s < 0:
            return None
        return round((self.injected_s - self.planned_s) * 1000, 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "fault": self.fault, "target": self.target, "options": dict(self.options), "targets": list(self.targets),
            "evidence": self.evidence, "injected_s": self.injected_s, "bit_s": self.bit_s,
            "healing_s": self.healing_s, "healed_s": self.healed_s, "probes": self.probes,
            "observed": self.observed, "in_flight": self.in_flight, "error": self.error, "planned_s": self.planned_s,
            "late_ms": self.late_ms, "overlapped": self.overlapped,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen before an injection: whom the role means, whether it already bites, who leads whom."""

    targets: tuple[str, ...]
    probe: Probe
    observed: Any


def look(fault_: Fault, scene: Scene, target: str, targets: Sequence[str] | None = None) -> Look:
    """The first look. targets: recorded names instead of resolving the role (``replay --targets recorded``)."""
    names = tuple(targets) if targets is not None else fault_.resolve(scene, target)
    fault_.prepare(scene, names)
    # A hiccup of the machine looks like a fault; one that is over in a moment is nobody's.
    before = _until(fault_, scene, names, bites=False, timeout_s=CALM_S)
    return Look(names, before, _observe(scene))


@contextmanager
def apply(
    fault_: Fault, scene: Scene, target: str, *, now_s: Callable[[], float], before: Look | None = None,
    options: Mapping[str, Any] | None = None, dry: bool = False, planned_s: float = -1.0,
) -> Iterator[Applied]:  # fmt: skip
    """Injects for as long as the block runs, and yields the record, whose evidence is complete after the block.

    before: the first look, where it was taken ahead so as not to delay the injection.
    dry: nothing is injected, all else is the same: what the evidence says then is worth nothing if it says anything else
        than ``no_effect``.
    """
    before = before or look(fault_, scene, target)
    record = Applied(fault_.name, target, dict(options or {}), targets=before.targets, planned_s=planned_s)
    record.observed["before"] = before.observed
    record.probes["before"] = before.probe.to_json()
    scene = replace(scene, note=partial(_note, record, now_s))
    during: Probe | None = None
    alone: Probe | None = None
    touched = touches(fault_, scene, record.targets)

    def company() -> bool:
        found = scene.ledger.others(touched, mine=True)
        record.overlapped = record.overlapped or found
        return found

    def confirm() -> None:
        nonlocal alone
        if not record.overlapped:
            return
        had = company()
        seen = fault_.probe(scene, record.targets)
        if not had and not company():
            alone = seen
            record.probes["alone"] = seen.to_json()

    def settle() -> None:
        if record.overlapped and record.probes["after"]["bites"] is not False:
            after = _until(fault_, scene, record.targets, bites=False, timeout_s=HEAL_S)
            record.probes["after"] = after.to_json()
            record.evidence = judge(before.probe, during, after, alone=alone, overlapped=True)

    record.confirm, record.settle = confirm, settle
    with scene.ledger.on(touched):
        try:
            company()
            record.injected_s = now_s()
            with nullcontext() if dry else fault_.inject(scene, record.targets):
                during = _until(fault_, scene, record.targets, bites=True, timeout_s=fault_.bite_s)
                record.bit_s = now_s()
                record.probes["during"] = during.to_json()
                record.observed["during"] = _observe(scene)
                if disks := _disks(scene, record.targets):
                    record.observed["disks"] = disks
                company()
                yield record
                company()
                record.healing_s = now_s()
        finally:
            # The context manager has healed on every way out; what is left is to see whether it did. Whoever is on the
            # same nodes or links may be what a look shows then: it is not waited for here.
            after = _until(
                fault_, scene, record.targets, bites=False, timeout_s=HEAL_S, wait=lambda: not company()
            )  # fmt: skip
            record.healed_s = now_s()
            record.probes["after"] = after.to_json()
            record.evidence = judge(before.probe, during, after, alone=alone, overlapped=record.overlapped)


def _note(record: Applied, now_s: Callable[[], float], what: str) -> None:
    record.observed.setdefault("steps", []).append({"at_s": now_s(), "what": what})


def touches(fault_: Fault, scene: Scene, targets: Sequence[str]) -> tuple[str, ...]:
    """The nodes and links on which this injection and another one can be taken for each other: a link to a node that is
    down answers as little as one that is cut."""
    if fault_.plane == "link":
        return tuple(targets)
    if fault_.plane == "peer":
        return ("peers",)
    if fault_.plane == "load":
        return tuple(f"{role}s" for role in targets)
    if fault_.plane == "none":
        return ()
    links = [link.name for group in scene.link_groups for link in scene.cluster.links(group) if link.node in targets]
    return (*targets, *links)


def judge(
    before: Probe, during: Probe | None, after: Probe, *, alone: Probe | None = None, overlapped: bool = False
) -> Evidence:
    """The evidence that three looks make; and, where others were on the same nodes or links, a fourth without them."""
    if during is None or after.bites is None:
        return "unproven"
    if after.bites:
        return "not_healed"
    if alone is not None and alone.bites:
        # Nobody else was there, it bit, and it was gone with the heal: whatever was seen before was another's doing.
        return "took_effect"
    if during.bites is None or (before.bites is None and not overlapped):
        return "unproven"
    if not during.bites or before.bites:
        # What "bites" before it was injected is not this fault's doing.
        return "no_effect"
    return "took_effect"


def _until(
    fault_: Fault, scene: Scene, targets: Sequence[str], *, bites: bool, timeout_s: float,
    wait: Callable[[], bool] = lambda: True,
) -> Probe:  # fmt: skip
    """The last look: the first that says ``bites``, or that after ``timeout_s``, or the first with ``wait()`` false."""
    last = Probe(None, "not looked yet")

    def look() -> bool:
        nonlocal last
        last = fault_.probe(scene, targets)
        return last.bites is bites or not wait()

    with suppress(DeadlineError):  # the last look is the evidence
        wait_until(look, timeout_s, f"fault {fault_.name} {'to bite' if bites else 'not to bite'}")
    return last


def _observe(scene: Scene) -> Any:
    try:
        return dict(scene.cluster.observe(scene.destinations))
    except HarnessError as exc:
        return {"unobserved": str(exc)}


def _disks(scene: Scene, targets: Sequence[str]) -> dict[str, Any]:
    """Of each target with a file system of its own: its mount options and space, and what a cut has taken."""
    found = {}
    for name in targets:
        node = scene.cluster.nodes.get(name)
        if node is not None and node.disk is not None:
            lost = node.disk.lost
            found[name] = {**node.disk.facts(), "lost": None if lost is None else lost.to_json()}
    return found


_REGISTRY: dict[str, type[Any]] = {}
C = TypeVar("C", bound=type)
T = TypeVar("T")


def fault(name: str) -> Callable[[C], C]:
    """Registers a fault class under its public name, which is its module's name too."""

    def register(cls: C) -> C:
        other = _REGISTRY.get(name)
        if other is not None and other.__module__ != cls.__module__:
            raise HarnessError(f"two faults are called {name!r}: {other.__module__} and {cls.__module__}")
        cls.name = name  # type: ignore[attr-defined]
        of = cls.plane  # type: ignore[attr-defined]
        defaults = {
            "bite_s": BITE_S, "witnessed_by": (), "needs": (), "roles": _ROLES.get(of, _NODE_ROLES),
            "abilities": ("packet filter",) if of == "peer" else (), "asks": (),
        }  # fmt: skip
        for attribute, default in defaults.items():
            if not hasattr(cls, attribute):
                setattr(cls, attribute, default)
        if not hasattr(cls, "prepare"):
            cls.prepare = lambda self, scene, targets: None  # type: ignore[attr-defined]
        _REGISTRY[name] = cls
        return cls

    return register


def faults() -> tuple[str, ...]:
    """The names there are: the modules of this package."""
    here = [str(Path(__file__).parent)]
    return tuple(sorted(m.name for m in pkgutil.iter_modules(here) if m.name != "base"))


def spares_nodes(name: str) -> bool:
    """Whether that fault acts on client links or load processes only, never on a node. Raises UsageError."""
    return _class_of(name).plane in _OUTSIDE


def plane(name: str) -> Plane:
    """What that fault breaks. Raises UsageError for an unknown name."""
    found: Plane = _class_of(name).plane
    return found


def missing(name: str) -> str:
    """What this machine lacks for that fault, with the next step; empty when it can be done here, as far as can be seen.
    Raises UsageError for an unknown name."""
    from brokerproof.runtime import abilities, equipment  # an engine is looked for only when this is asked

    cls = _class_of(name)
    lacks = [*map(abilities.missing, cls.abilities), *(equipment.kind(kind).missing() for kind in cls.needs)]
    return "; ".join(filter(None, lacks))


def _class_of(name: str) -> Any:
    if name not in faults():
        raise unknown("fault", name, faults())
    importlib.import_module(f"brokerproof.faults.{name}")
    return _REGISTRY[name]


def make(name: str, options: Mapping[str, Any] | None = None) -> Fault:
    """The fault of that name with these settings. Raises UsageError for an unknown name or setting."""
    cls = _class_of(name)
    try:
        made: Fault = cls(**dict(options or {}))
    except TypeError as exc:
        have = sorted(getattr(cls, "__dataclass_fields__", {}))
        bad = next((key for key in options or {} if key not in have), "")
        raise unknown(f"setting of fault {name}", bad, have) from exc
    return made


# -- what faults of one plane have in common ---------------------------------------------------------------------------


#: Which way a fault of a link acts: from client to broker, from broker to client.
Stream = Literal["both", "upstream", "downstream"]


def streams(stream: Stream) -> tuple[str, ...]:
    """Raises UsageError for a word that is none."""
    if stream not in ("both", "upstream", "downstream"):
        raise unknown("stream of a link fault", stream, ("both", "upstream", "downstream"))
    return ("upstream", "downstream") if stream == "both" else (stream,)


class LinkFault:
    """A fault of client links: toxics or a switched-off proxy, and what a fresh connection then sees.

    Targets: ``all`` links of the scene's groups, ``leader`` (those to the destinations' leaders), or a node's name.
    """

    plane: Plane = "link"
    #: How long the probe's fresh connection waits for an answer.
    greet_s = 1.0

    def break_(self, link: Link) -> None:
        raise NotImplementedError

    def mend(self, link: Link) -> None:
        link.clear_toxics()

    def bites(self, seen: Greeted) -> bool:
        """Whether this is what a fresh connection sees while the fault is on."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        links = [link for group in scene.link_groups for link in scene.cluster.links(group)]
        nodes = {link.node for link in links}
        if target == "leader":
            leaders = set(_leaders(scene))
            # A gateway stands for every node behind it.
            chosen = leaders & nodes or nodes
        elif target == "all":
            chosen = nodes
        elif target in nodes:
            chosen = {target}
        else:
            raise unknown("target of a link fault", target, {"all", "leader", *nodes})
        return tuple(link.name for link in links if link.node in chosen)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        links = [Grip(link, scene.ledger) for link in _links(scene, targets)]
        try:
            for link in links:
                self.break_(link)
            yield
        finally:
            for link in links:
                self.mend(link)

    def ask(self, link: Link) -> Greeted:
        """How the probe's fresh connection looks."""
        return link.greet(self.greet_s)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        links = _links(scene, targets)
        with ThreadPoolExecutor(max(1, len(links))) as pool:
            seen = list(pool.map(self.ask, links))
        said = "; ".join(f"{link.name}: {_sentence(saw)}" for link, saw in zip(links, seen, strict=True))
        biting = [self.bites(saw) for saw in seen]
        if all(biting) and biting:
            return Probe(True, said)
        # Healed means that every link answers, not merely that this fault's own sign is gone.
        return Probe(False if all(saw.answered for saw in seen) and not any(biting) else None, said)


def again_if(bites: Callable[[Greeted], bool], ask: Callable[[], Greeted], times: int = 3) -> Greeted:
    """The first look that does not bite, or the last of so many: for what a busy machine looks like now and then."""
    for _ in range(times - 1):
        if not bites(seen := ask()):
            return seen
    return ask()


def _links(scene: Scene, names: Sequence[str]) -> list[Link]:
    return [link for group in LINK_GROUPS for link in scene.cluster.links(group) if link.name in names]


def _sentence(seen: Greeted) -> str:
    if not seen.connected:
        return "connection refused" if seen.ended else "no connection"
    if seen.answered and seen.whole_ms is not None and seen.whole_ms != seen.rtt_ms:
        return f"answered after {seen.rtt_ms:.1f} ms, {seen.octets} octets in {seen.pieces} pieces by {seen.whole_ms:.1f} ms"
    if seen.answered:
        return f"answered after {seen.rtt_ms:.1f} ms"
    end = {"rst": "connected, then reset", "fin": "connected, then closed"}.get(seen.ended, "connected, no answer")
    return f"{end}, after {seen.octets} octets of an answer" if seen.octets else end


class PeerFault:
    """A fault of the links between nodes. Targets as those of nodes."""

    plane: Plane = "peer"
    #: What is healed.
    trouble: ClassVar[PeerTrouble] = "cut"

    def directions(self, scene: Scene, targets: Sequence[str]) -> frozenset[Direction]:
        """Which ones it breaks."""
        raise NotImplementedError

    def break_(self, peers: PeerLinks, directions: frozenset[Direction], name: str) -> None:
        """name: of this injection's own, by which it is healed."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        if scene.cluster.peers is None:
            raise PlanError(
                f"{type(self).__name__} needs a cluster with peer links; topology {scene.cluster.topology!r} has none"
            )
        return resolve_nodes(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        peers, name = peers_of(scene), scene.ledger.name("peers")
        try:
            self.break_(peers, self.directions(scene, targets), name)
            yield
        finally:
            peers.heal(self.trouble, name)


def peers_of(scene: Scene) -> PeerLinks:
    assert scene.cluster.peers is not None  # ``resolve`` has seen to it
    return scene.cluster.peers


def arrows(directions: Iterable[Direction]) -> str:
    return ", ".join(sorted(f"{a}->{b}" for a, b in directions))


class NodeFault:
    """A fault of nodes. Targets: ``leader``, ``replica``, ``all``, ``one``, ``minority``, ``majority``, or a node's name."""

    plane: Plane = "node"
    #: The engine's word for a node that this fault has hit.
    hit = "exited"
    #: The states in which a node can be hit. One that another fault holds down already is left to that fault.
    hits: tuple[str, ...] = ("running",)

    def break_(self, node: Node) -> None:
        raise NotImplementedError

    def mend(self, node: Node) -> None:
        revive(node)

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return resolve_nodes(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [node for node in map(scene.cluster.nodes.__getitem__, targets) if node.state() in self.hits]
        try:
            # All at once, as near as the engine allows: one after the other is another fault (rolling).
            with ThreadPoolExecutor(max(1, len(nodes))) as pool:
                list(pool.map(self.break_, nodes))
            yield
        finally:
            for node in nodes:
                self.mend(node)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        states = {name: scene.cluster.nodes[name].state() for name in targets}
        said = "; ".join(f"{name}: {state}" for name, state in states.items())
        if all(state == self.hit for state in states.values()):
            return Probe(True, said)
        return Probe(False if all(state == "running" for state in states.values()) else None, said)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """How far a clock was seen ahead of the true time, give or take the error; at_s: when, by a monotonic clock. what: the
    node's ``date``, or what the broker on it calls its own."""

    node: str
    what: str
    ahead_s: float
    error_s: float
    at_s: float

    @property
    def right(self) -> bool:
        return abs(self.ahead_s) <= self.error_s + CLOCK_RIGHT_S

    def __str__(self) -> str:
        return f"{self.node}: {self.what} {self.ahead_s:+.3f} s (± {self.error_s:.3f})"


class ClockFault:
    """A fault of nodes' wall clocks. Targets: as for nodes, of those whose clock can be moved; when it is healed the clock
    is set right at once, which is a jump as well.

    Evidence: the date that a fresh process on the node sees, and the time the broker itself tells where it does, each
    compared with the true time.
    """

    plane: Plane = "clock"
    needs: tuple[str, ...] = ("clock",)
    bite_s = 15.0

    def move(self, node: Clocked) -> None:
        raise NotImplementedError

    def bites(self, readings: Sequence[ClockReading], again: Callable[[], Sequence[ClockReading]]) -> bool | None:
        """Whether clocks of which not all are right are wrong as this fault makes them; ``again`` reads them anew."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        nodes = need(Clocked, scene, resolve_nodes(scene, target), "a clock that can be moved")
        movable = tuple(name for name in nodes if _clocked(scene, name).clock_moves())
        if not movable:
            raise PlanError(f"no clock of {', '.join(nodes)} can be moved; start the nodes with the equipment clock")
        return movable

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [_clocked(scene, name) for name in targets]
        try:
            with ThreadPoolExecutor(max(1, len(nodes))) as pool:
                list(pool.map(self.move, nodes))
            yield
        finally:
            for node in nodes:
                node.move_clock(0.0)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        try:
            readings = _clocks(scene, targets)
            said = [", ".join(map(str, readings))]

            def again() -> Sequence[ClockReading]:
                later = _clocks(scene, targets)
                said.append(f"then {', '.join(map(str, later))}")
                return later

            bites = False if all(r.right for r in readings) else self.bites(readings, again)
        except HarnessError as exc:
            return Probe(None, str(exc))
        return Probe(bites, "; ".join(said))


def _clocked(scene: Scene, name: str) -> Clocked:
    node = scene.cluster.nodes[name]
    assert isinstance(node, Clocked)
    return node


def _clocks(scene: Scene, names: Sequence[str]) -> list[ClockReading]:
    """Each node's date, and its broker's own time where that is told."""
    found = []
    for name in names:
        ahead_s, error_s = _clocked(scene, name).clock_ahead()
        found.append(ClockReading(name, "date", ahead_s, error_s, time.monotonic()))
        if isinstance(scene.cluster, TellsTime) and (told := scene.cluster.own_clock(name)) is not None:
            ahead_s, error_s, what = told
            found.append(ClockReading(name, what, ahead_s, error_s, time.monotonic()))
    return found


class LastingNodeFault(NodeFault):
    """A fault of nodes that acts over time, in a thread, and notes its steps. Healing waits until it has done all of them
    (on the way out of an error: the one it is at), so it may end later than the schedule says. It stops early only where
    a node fails it, and its last step says so.

    Evidence: a look that finds a node down.
    """

    def act(self, scene: Scene, nodes: Sequence[Node], ending: Event) -> None:
        """All steps; returns early, as soon as it can, once ``ending`` is set."""
        raise NotImplementedError

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [scene.cluster.nodes[name] for name in targets]
        ending = Event()

        def act() -> None:
            try:
                self.act(scene, nodes, ending)
            except HarnessError as exc:
                scene.note(f"given up: {exc}")

        try:
            with ThreadPoolExecutor(1, thread_name_prefix="fault") as thread:
                acting = thread.submit(act)
                try:
                    yield
                    acting.result()
                finally:
                    ending.set()
        finally:
            for node in nodes:
                self.mend(node)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        states = {name: scene.cluster.nodes[name].state() for name in targets}
        said = "; ".join(f"{name}: {state}" for name, state in states.items())
        if self.hit in states.values():
            return Probe(True, said)
        return Probe(False if all(state == "running" for state in states.values()) else None, said)


_CLIENT_ROLES = ("consumer", "producer")


def resolve_clients(scene: Scene, target: str) -> tuple[str, ...]:
    """The role of load processes that is meant. Raises PlanError where there are none."""
    if target not in _CLIENT_ROLES:
        raise unknown("target of a client fault", target, _CLIENT_ROLES)
    if scene.clients is None:
        raise PlanError("a fault of clients needs load processes, and this trial has none")
    return (target,)


class DiskFault:
    """A fault of nodes' file systems. Targets as of ``NodeFault``, of the nodes that keep data; all hit at once.

    What a node notices of it is its own affair: one that has exited by the end is started again.
    """

    plane: Plane = "disk"
    needs = ("disk",)

    def break_(self, node: Node, disk: Disk) -> None:
        raise NotImplementedError

    def mend(self, node: Node, disk: Disk) -> None:
        """Must leave a node that runs on a file system that can be written to, whatever there was before."""
        raise NotImplementedError

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        """Whether it bites that node, and what was seen."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return resolve_nodes(scene, target, among=_with_disks(scene))

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        try:
            each_disk(scene, targets, self.break_)
            yield
        finally:
            each_disk(scene, targets, self.mend)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        try:
            seen = each_disk(scene, targets, self.bites)
        except (HarnessError, OSError) as exc:
            return Probe(None, str(exc))
        said = "; ".join(f"{name}: {what}" for name, (_, what) in zip(targets, seen, strict=True))
        biting = {bites for bites, _ in seen}
        return Probe(biting.pop() if len(biting) == 1 else None, said)


def each_disk(scene: Scene, targets: Sequence[str], do: Callable[[Node, Disk], T]) -> list[T]:
    """Does that to all targets at once; raises the first error when all are done."""

    def one(name: str) -> T:
        node = scene.cluster.nodes[name]
        if node.disk is None:
            raise PlanError(f"node {name!r} has no file system of its own; a disk fault needs equipment 'disk'")
        return do(node, node.disk)

    with ThreadPoolExecutor(max(1, len(targets))) as pool:
        futures = [pool.submit(one, name) for name in targets]
    return [future.result() for future in futures]


def start_again(node: Node) -> None:
    """Starts a node that is down, and thaws one that is frozen."""
    if node.state() == "paused":
        node.unpause()
    if node.state() == "exited":
        node.start()


def newest_segment(scene: Scene, node: Node, disk: Disk, least_bytes: int) -> Path:
    """The file in which that node wrote last what the scene's destinations were sent; one that was only just begun has a
    header and no message, and does not count (least_bytes)."""
    if not isinstance(scene.cluster, Segmented):
        raise PlanError(f"{scene.cluster.product} does not say in which files it keeps messages")
    found = []
    for name in scene.destinations:
        with suppress(HarnessError):  # not every node has every destination
            found.append(disk.newest(scene.cluster.segments(node.name, name), least_bytes))
    if not found:
        of = ", ".join(scene.destinations)
        raise PlanError(f"node {node.name!r} has no file with {least_bytes} bytes and more of messages of {of}")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def seen_damage(disk: Disk) -> tuple[bool, str]:
    """Whether what was done to a file of a node that is down is there, as read from outside."""
    done = disk.damaged
    if done is None:
        return False, "no file was damaged"
    with done.path.open("rb") as file:
        file.seek(done.at)
        there = file.read(len(done.before))
    said = f"{len(done.before)} bytes at {done.at} of {done.path.name}"
    if there == done.before:
        return False, f"{said} are what they were"
    return there == done.after, f"{said} {'are gone' if not there else 'have changed'}"


def _with_disks(scene: Scene) -> list[str]:
    found = [name for name, node in sorted(scene.cluster.nodes.items()) if node.disk is not None]
    if not found:
        raise PlanError("no node has a file system of its own; a disk fault needs nodes with equipment 'disk'")
    return found


def _leaders(scene: Scene) -> list[str]:
    """The leaders of the scene's destinations; one that is between two terms is waited for."""
    return sorted(
        {
            wait_until(partial(scene.cluster.leader, name), LEADER_S, f"a leader of {name!r}", retry_on=(HarnessError,))
            for name in scene.destinations
        }
    )


def revive(node: Node) -> None:
    """Starts a node that is down."""
    if node.state() == "exited":
        node.start()


def need(contract: type[Any], scene: Scene, names: Sequence[str], what: str) -> tuple[str, ...]:
    """The same names. Raises PlanError for a node that does not fulfil that contract of ``brokers.base``."""
    for name in names:
        if not isinstance(scene.cluster.nodes[name], contract):
            raise PlanError(f"node {name!r} of {scene.cluster.product} has not {what}; another broker's nodes may")
    return tuple(names)


def resolve_nodes(scene: Scene, target: str, among: Sequence[str] | None = None) -> tuple[str, ...]:
    """The nodes that a role means now. Nodes are asked in name order, so equal states resolve equally.

    follower: the first node that leads nothing, whether it has a copy or not.  replica: of each destination the first
    node that holds a copy and leads none of them.  Raises PlanError where no node is what the role means.
    among: the nodes that there are for that fault; all by default.
    """
    nodes = sorted(scene.cluster.nodes if among is None else among)
    leaders = _leaders(scene) if target not in ("all", *nodes) else []
    rest = [name for name in nodes if name not in leaders]
    roles = {
        "leader": leaders,
        "one": nodes[:1],
        "follower": rest[:1],
        "replica": _replicas(scene, leaders) if target == "replica" else [],
        "all": nodes,
        "minority": (leaders + rest)[: (len(nodes) - 1) // 2],
        "majority": (leaders + rest)[: len(nodes) // 2 + 1],
    }
    if target in nodes:
        return (target,)
    if target not in roles:
        raise unknown("target of a node fault", target, {*roles, *nodes})
    if not roles[target]:
        raise PlanError(f"no node is a {target} of {', '.join(scene.destinations)}: led by {', '.join(leaders)}")
    return tuple(roles[target])


def _replicas(scene: Scene, leaders: Sequence[str]) -> list[str]:
    """Asked again while a copy is not there yet, as a queue's is that was moved a moment ago."""

    def first(name: str) -> str:
        return next((node for node in scene.cluster.replicas(name) if node not in leaders), "")

    found = set()
    for name in scene.destinations:
        with suppress(DeadlineError):
            found.add(wait_until(partial(first, name), LEADER_S, f"a replica of {name!r}", retry_on=(HarnessError,)))
    return sorted(found)
