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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from brokerproof.brokers.base import Cluster
from brokerproof.errors import DeadlineError, HarnessError, unknown
from brokerproof.overlap import Ledger
from brokerproof.waiting import wait_until

Evidence = Literal["took_effect", "no_effect", "not_healed", "unproven"]
#: What a fault breaks: client links, links between nodes, nodes, load processes, the nodes' file systems, their clocks,
#: their memory and processor, the databases that effects are in; ``none``: nothing.
Plane = Literal["link", "peer", "node", "load", "disk", "clock", "resource", "store", "none"]
_NODE_ROLES = ("leader", "replica", "follower", "one", "minority", "majority", "all", "NODE")
#: What faults of a plane can be aimed at, where that is not nodes.
_ROLES: Mapping[str, tuple[str, ...]] = {
    "link": ("all", "leader", "NODE"),
    "load": ("consumer", "producer"),
    "store": ("redis", "postgresql", "mariadb"),
    "none": (),
}
#: Planes that nodes do not notice.
_OUTSIDE = frozenset({"link", "load", "none"})

#: How long a fault may take to bite after its injection, and to be gone after its heal.
BITE_S, HEAL_S = 5.0, 10.0
#: How long the first look may wait for what it sees to be sound.
CALM_S = 2.0
#: How long before its moment an injection begins with its first look.
LOOK_AHEAD_S = 3.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One look: whether the fault bites now (None: cannot tell), and what was seen, for the report."""

    bites: bool | None
    seen: str

    def to_json(self) -> dict[str, Any]:
        return {"bites": self.bites, "seen": self.seen}


#: Where in a consumer's work it is killed: after a message was received, after its effect and before its
#: acknowledgement, after the acknowledgement was answered; ``effect:`` and the name of a step of the effect's guard: in the
#: middle of the effect, right after that; "": in the middle of the work.
Step = str
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

    def in_hand(self, role: str) -> Mapping[str, int]:
        """Of those, how many messages each was handed whose effect the history does not have."""

    def pause(self, role: str) -> Sequence[int]:
        """SIGSTOP to the clients of that role; returns their process ids."""

    def resume(self, role: str) -> None:
        """SIGCONT to every client of that role; safe to call twice."""

    def states(self, role: str) -> Mapping[str, str]:
        """Name and process id of each client of that role -> its state as the kernel says (``T``: stopped, ``S``,
        ``R``, ``D``; "" when it is gone)."""


class Database(Protocol):
    """One that effects of the trials are in."""

    @property
    def product(self) -> str: ...

    def kill(self) -> None:
        """SIGKILL."""

    def start(self) -> None:
        """Starts it where it is down, and waits until it answers."""

    def answers(self) -> bool:
        """Whether a fresh connection is answered."""

    def holds(self) -> str:
        """What it has in it, in words."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault acts: the cluster, the destinations of the trials that share the injection, the load processes.

    link_groups: the client groups whose links are broken.
    note: what a fault that acts over time says at each of its steps; ``apply`` keeps it in the record, with the time.
    ledger: what is injected at the moment.
    stores: the databases that effects of the trials are in, by name.
    """

    cluster: Cluster
    destinations: tuple[str, ...] = ()
    link_groups: tuple[str, ...] = ("producer",)
    clients: Clients | None = None
    note: Callable[[str], None] = lambda _: None
    ledger: Ledger = field(default_factory=Ledger)
    stores: Mapping[str, Database] = field(default_factory=dict)


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
    dry: looks and waits only, nothing was injected.
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
    dry: bool = False
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
            "late_ms": self.late_ms, "overlapped": self.overlapped, "dry": self.dry,
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
    record = Applied(fault_.name, target, dict(options or {}), targets=before.targets, planned_s=planned_s, dry=dry)
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
        seen = _probe(fault_, scene, record.targets)
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
    if fault_.plane == "store":
        return tuple(targets)
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


def _probe(fault_: Fault, scene: Scene, targets: Sequence[str]) -> Probe:
    """A look that fails has seen nothing, and must not end what it looks at."""
    try:
        return fault_.probe(scene, targets)
    except HarnessError as exc:
        return Probe(None, str(exc))


def _until(
    fault_: Fault, scene: Scene, targets: Sequence[str], *, bites: bool, timeout_s: float,
    wait: Callable[[], bool] = lambda: True,
) -> Probe:  # fmt: skip
    """The last look: the first that says ``bites``, or that after ``timeout_s``, or the first with ``wait()`` false."""
    last = Probe(None, "not looked yet")

    def look() -> bool:
        nonlocal last
        last = _probe(fault_, scene, targets)
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
    return tuple(sorted(m.name for m in pkgutil.iter_modules(here) if not m.ispkg and m.name != "base"))


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
