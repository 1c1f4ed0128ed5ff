"""Schedules of faults: which comes when, on whom; data, made from a seed, and within what a system promises to survive.

    single, repeated, overlapping, rotated     put injections one after the other, or over one another
    randomised                                 draws them from a seed, within limits
    @schedule("leader-hunt")                   a named one: a function of its ground that returns injections

What comes out is a tuple of ``plan.Injection``: roles and offsets, so a plan that holds it needs no generator again.

``Limits`` says what the system promises to survive: at most a minority of nodes out at once, and so on. Within them it
has to come back by itself, and every lane has to be readable; beyond them only safety is asked for: nothing that was
promised may be lost, doubled or reordered, however long it takes. Source of the distinction: B. Alpern, F. B. Schneider,
Information Processing Letters 21 (1985) 181; TigerBeetle, src/testing/vortex: liveness only while faults are within limits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

from brokerproof.errors import PlanError, UsageError, unknown
from brokerproof.faults.base import faults, make, plane
from brokerproof.plan import Injection

Schedule = tuple[Injection, ...]

#: How many nodes of n a role means; any other word is a node's name. Client links and processes are no nodes.
_NODES: Mapping[str, Callable[[int], int]] = {
    "minority": lambda n: (n - 1) // 2, "majority": lambda n: n // 2 + 1, "all": lambda n: n,
}  # fmt: skip
#: Planes whose faults take nodes out, wholly or nearly; ``clock`` and ``resource`` leave them in.
_OUT = frozenset({"node", "peer", "disk"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the system promises to survive, and come back from by itself.

    nodes: how many there are.  out_max: how many may be down, frozen, cut off or without their disk at once; None: a
        minority, and the only one of a single node, which comes back as well.
    links_max: faults of client links at once: what two do to one link can seldom be told apart.
    overlap_max: injections at once.  quiet_s: between the heal of one node fault and the next one: a system that is
        still catching up has fewer nodes than it seems.
    """

    nodes: int = 3
    out_max: int | None = None
    links_max: int = 1
    overlap_max: int = 2
    quiet_s: float = 2.0

    @property
    def out(self) -> int:
        return max(1, (self.nodes - 1) // 2) if self.out_max is None else self.out_max

    def beyond(self, schedule: Sequence[Injection]) -> str:
        """Why liveness cannot be asked for, in a sentence; empty within the limits."""
        for injection in schedule:
            if injection.until_read:
                return f"{_at(injection)} stays on through the final read"
        for at_s in sorted({i.at_s for i in schedule}):
            now = [i for i in schedule if i.at_s <= at_s < i.at_s + i.for_s]
            out = sum(_out(i, self.nodes) for i in now)
            if out > self.out:
                return f"at {at_s:g} s {out} of {self.nodes} nodes are out, more than {self.out}"
            links = sum(_plane(i.fault) == "link" for i in now)
            if links > self.links_max:
                return f"at {at_s:g} s {links} faults are on client links at once, more than {self.links_max}"
            if len(now) > self.overlap_max:
                return f"at {at_s:g} s {len(now)} faults are on at once, more than {self.overlap_max}"
        ordered = sorted((i for i in schedule if _out(i, self.nodes)), key=lambda i: i.at_s)
        for before, after in pairwise(ordered):
            quiet_s = after.at_s - (before.at_s + before.for_s)
            # Those that overlap are one disturbance, counted above.
            if 0 <= quiet_s < self.quiet_s - 1e-9:
                return f"{_at(after)} follows {quiet_s:g} s after {before.fault}, earlier than {self.quiet_s:g} s"
        return ""


def _at(injection: Injection) -> str:
    return f"{injection.fault} at {injection.at_s:g} s"


def _out(injection: Injection, nodes: int) -> int:
    """How many nodes it takes out."""
    # What this version does not know counts as one that does.
    if _plane(injection.fault) not in {"", *_OUT}:
        return 0
    counts = _NODES.get(injection.target)
    return 1 if counts is None or _one_by_one(injection.fault) else counts(nodes)


@lru_cache(maxsize=256)
def _one_by_one(fault: str) -> bool:
    """Whether it takes its targets out one after the other, and never two at once."""
    return fault in faults() and getattr(make(fault), "one_by_one", False) is True


@lru_cache(maxsize=256)
def _plane(fault: str) -> str:
    """What it breaks; empty for what this version does not know. Names are looked up on disk: remembered."""
    return plane(fault) if fault in faults() else ""


# -- putting injections together ---------------------------------------------------------------------------------------


def single(fault: str, target: str = "leader", *, at_s: float = 1.0, for_s: float = 3.0) -> Schedule:
    """One fault, once."""
    return (Injection(fault=fault, target=target, at_s=at_s, for_s=for_s),)


def repeated(schedule: Schedule, *, times: int, every_s: float) -> Schedule:
    """The same again and again; a role is resolved anew each time."""
    return _ordered(replace(i, at_s=i.at_s + n * every_s) for n in range(times) for i in schedule)


def overlapping(*schedules: Schedule) -> Schedule:
    """All of them over one another, each at its own offsets."""
    return _ordered(i for one in schedules for i in one)


def rotated(*schedules: Schedule, quiet_s: float = 2.0) -> Schedule:
    """One after the other, and nothing for ``quiet_s`` seconds in between. The offset of the first counts, of each of
    the others only what lies between its own injections."""
    out: list[Injection] = []
    for one in schedules:
        if one:
            shift_s = end_s(out) + quiet_s - min(i.at_s for i in one) if out else 0.0
            out.extend(replace(i, at_s=i.at_s + shift_s) for i in one)
    return _ordered(out)


def randomised(
    seed: int, limits: Limits, choices: Sequence[tuple[str, str]], *, within_s: float, from_s: float = 1.0,
    shortest_s: float = 1.0, longest_s: float = 5.0,
) -> Schedule:  # fmt: skip
    """Injections drawn from ``choices`` (fault, role), between ``from_s`` and ``within_s``, overlapping where the limits
    allow it. The same seed gives the same schedule."""
    chance = random.Random(f"schedule/{seed}")
    out: Schedule = ()
    at_s = from_s
    while at_s < within_s - shortest_s and choices:
        fault, target = choices[chance.randrange(len(choices))]
        longest = min(longest_s, within_s - at_s)
        for_s = round(shortest_s + chance.random() * (longest - shortest_s), 2)
        found = fitted(out, Injection(fault=fault, target=target, at_s=round(at_s, 2), for_s=for_s), limits)
        if found is not None and found.at_s + found.for_s <= within_s:
            out = _ordered((*out, found))
        at_s += round(shortest_s * (1.0 + 3.0 * chance.random()), 2)
    return out


def fitted(schedule: Schedule, injection: Injection, limits: Limits) -> Injection | None:
    """The injection at the first offset, not before its own, at which the schedule with it stays within the limits; None
    where there is no such offset."""
    ends = [i.at_s + i.for_s for i in schedule]
    offsets = [injection.at_s, *ends, *(end + limits.quiet_s for end in ends)]
    for at_s in sorted(at for at in offsets if at >= injection.at_s):
        candidate = replace(injection, at_s=round(at_s, 3))
        if not limits.beyond((*schedule, candidate)):
            return candidate
    return None


def paced(schedule: Schedule, pace: float) -> Schedule:
    """Every duration times ``pace`` (``Configurations.pace``)."""
    return tuple(replace(i, at_s=round(i.at_s * pace, 4), for_s=round(i.for_s * pace, 4)) for i in schedule)


def end_s(schedule: Iterable[Injection]) -> float:
    """When the last injection is over; 0 for none."""
    return max((i.at_s + i.for_s for i in schedule), default=0.0)


def _ordered(schedule: Iterable[Injection]) -> Schedule:
    return tuple(sorted(schedule, key=lambda i: i.at_s))


# -- what a schedule is made for ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a named schedule may use. peers: whether the nodes have links between them that can be cut."""

    seed: int = 0
    peers: bool = True
    limits: Limits = field(default_factory=Limits)


Makes = Callable[[Ground], Schedule]
_NAMED: dict[str, Makes] = {}


def schedule(name: str) -> Callable[[Makes], Makes]:
    """Registers a function under the name that users type; its docstring is what they read."""

    def register(makes: Makes) -> Makes:
        if name in _NAMED:
            raise PlanError(f"two schedules are called {name!r}: {_NAMED[name].__name__} and {makes.__name__}")
        _NAMED[name] = makes
        return makes

    return register


def schedules() -> tuple[str, ...]:
    """The names there are."""
    return tuple(sorted(_NAMED))


def named(name: str, ground: Ground | None = None) -> Schedule:
    """The schedule of that name. Raises UsageError for a name that is none."""
    if name not in _NAMED:
        raise unknown("schedule", name, schedules())
    return _NAMED[name](ground or Ground())


def prose(name: str) -> str:
    """What it does, in its author's words."""
    return " ".join((_NAMED[name].__doc__ or "").split())


def missing_faults(schedule: Sequence[Injection]) -> tuple[str, ...]:
    """The faults of the schedule that this version of brokerproof does not have."""
    return tuple(sorted({i.fault for i in schedule} - set(faults())))


def equipment(schedule: Sequence[Injection]) -> tuple[str, ...]:
    """What the nodes have to be started with for it, see ``Plan.equipment``. Raises UsageError for an unknown fault."""
    return tuple(sorted({need for i in schedule for need in make(i.fault, i.options).needs}))


def lacking(name: str, schedule: Sequence[Injection], *, peers: bool, equipped: bool = True) -> str:
    """What keeps this schedule from being used, in a sentence; empty when nothing does.

    equipped: whether the product's nodes can be started with equipment at all (threads of this process cannot).
    """
    if missing := missing_faults(schedule):
        return f"schedule {name} needs the fault{'s' if len(missing) > 1 else ''} {', '.join(missing)}, not in this version"
    cuts = sorted({i.fault for i in schedule if plane(i.fault) == "peer"})
    if cuts and not peers:
        return f"schedule {name} needs links between nodes, for {', '.join(cuts)}"
    if (needs := equipment(schedule)) and not equipped:
        return f"schedule {name} needs nodes with {', '.join(needs)} of their own"
    if not schedule:
        raise UsageError(f"schedule {name} has no injection here")
    return ""


# -- the named ones ----------------------------------------------------------------------------------------------------


@schedule("smoke")
def smoke(ground: Ground) -> Schedule:
    """One of each kind, gently, with quiet in between: client links reset, client links that swallow, a node restarted.
    What does not survive this needs no other schedule. About 15 s."""
    return rotated(
        single("reset", "all", for_s=1.0), single("black_hole", "all", for_s=2.0), single("kill", "one", for_s=3.0),
        quiet_s=3.0,
    )  # fmt: skip


@schedule("leader-hunt")
def leader_hunt(ground: Ground) -> Schedule:
    """Whoever leads is hit, and then whoever leads next: cut off from the other nodes while its clients stay attached,
    then killed, then frozen. Ten seconds of quiet after each, for an election and the return. About 45 s."""
    return rotated(
        single("partition", for_s=8.0), single("kill", for_s=6.0), single("pause", for_s=8.0), quiet_s=10.0
    )  # fmt: skip


@schedule("rolling")
def rolling(ground: Ground) -> Schedule:
    """Every node is restarted in good order, one after the other, each when the one before is back, as an upgrade does it.
    About a minute, longer where nodes take longer to be back."""
    return single("restart_rolling", "all", for_s=60.0)


@schedule("storm")
def storm(ground: Ground) -> Schedule:
    """Forty seconds of link, node and peer faults in random order, up to two at once, at most a minority of nodes out.
    Drawn from the seed: another seed is another storm."""
    choices = [
        ("reset", "all"), ("black_hole", "leader"), ("stall", "all"), ("latency", "all"), ("lost_ack", "leader"),
        ("link_down", "leader"), ("kill", "leader"), ("kill", "follower"), ("pause", "leader"), ("stop", "leader"),
    ]  # fmt: skip
    choices += [("partition", "leader"), ("partition", "follower")] if ground.peers else []
    if ground.limits.nodes == 1:
        choices = [(fault, target) for fault, target in choices if target != "follower"]
    return randomised(ground.seed, ground.limits, choices, within_s=40.0, longest_s=6.0)


@schedule("disk")
def disk(ground: Ground) -> Schedule:
    """The leader's disk gets slow, then full; at the end the power of all nodes fails at once. That is beyond what a
    cluster promises to survive without a pause: only safety is asked for. About 30 s."""
    return rotated(
        single("disk_slow", for_s=6.0), single("disk_full", for_s=6.0), single("power_cut", "all", for_s=5.0),
        quiet_s=6.0,
    )  # fmt: skip
