"""A plan: everything one trial is going to do, as data. Immutable, JSON, an input and never a result.

    seed + topology + destinations + workload (senders, receivers) + fault schedule

Fault targets are roles ("leader of lane 0"), times are offsets in seconds from the start of the load. Settings keep
the vendor's words (``acks``, ``x-queue-type``, ``flushDiskType``); a plan never translates them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from brokerproof.errors import PlanError

#: A fault on a younger lane may hit what the product does with new ones, which only claims about those want.
LANE_AGE_S = 10.0
LaneKind = Literal["log", "queue"]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A queue or a topic. ``partitions`` topic-partitions make as many lanes, numbered on from those before it.

    settings: of the product, e.g. ``{"x-queue-type": "quorum"}`` or ``{"min.insync.replicas": "2"}``.
    """

    name: str
    kind: LaneKind
    partitions: int = 1
    settings: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A load process that sends to one destination.

    count: messages in all, None until stopped.  rate_per_s: open-loop schedule, None as fast as it goes.
    keys: number of ordering keys used in turn, 0 none.  in_flight_max: cap on unanswered sends (recorded, see ``due``).
    spread: how a lane is chosen: ``key`` (equal keys, equal lane) or ``round_robin``.
    resend: whether the application sends again what came to ``info`` or ``fail``, under the same message number.
    again_of, again_ms: number of another sender whose very messages it sends, so much later each: a user who submits the
        same thing again, because no answer comes. Count, rate and keys are to be the same. -1: messages of its own.
    settings: of the client library, e.g. ``{"acks": "1"}``, ``{"confirm": False}``, ``{"send": "oneway"}``.
    link: client group whose proxy it connects through.
    """

    destination: int = 0
    count: int | None = None
    rate_per_s: float | None = None
    size_bytes: int = 64
    keys: int = 0
    in_flight_max: int = 1000
    spread: Literal["key", "round_robin"] = "key"
    resend: bool = False
    again_of: int = -1
    again_ms: float = 0.0
    timeout_s: float = 5.0
    settings: Json = field(default_factory=dict)
    link: str = "producer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A load process that consumes from one destination and changes the world by it.

    settings: of the client library; ``ack`` is ``after`` (work, then acknowledge), ``first`` (acknowledge, then work)
        or ``auto`` (the broker or the library does it).
    work_ms: how long the work on one message takes; None: no work, no effect.  prefetch: most unacknowledged at once.
    uneven: from nothing to twice that, by message number.
    fail_first, fail_times: the work on the first so many messages that it is handed fails so many times each, and has no
        effect; what the client does then is in ``settings``. A process that takes over from a killed one works.
    effect: what the work does to the world: ``{"guard": name of one (list effects), "options": {...}, "sql":
        "postgresql" or "mariadb", "keeps": whether Redis has each change on disk before it answers}``; empty: a line in a ledger, whenever the message comes.
    """

    destination: int = 0
    settings: Json = field(default_factory=dict)
    work_ms: float | None = None
    uneven: bool = False
    fail_first: int = 0
    fail_times: int = 1
    prefetch: int = 50
    effect: Json = field(default_factory=dict)
    group: str = "g"
    link: str = "consumer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One fault of the schedule: at ``at_s`` seconds of load, for ``for_s`` seconds, on the role ``target``.

    dry: everything but the injection itself: looks and waits are the same, and the evidence has to say ``no_effect``.
    until_read: the fault stays on through the final read, which then sees what survives elsewhere (a lost disk).
    """

    fault: str
    target: str = "leader"
    at_s: float = 1.0
    for_s: float = 3.0
    until_read: bool = False
    dry: bool = False
    options: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """load_s: how long senders run. drain_s: deadline of the drain, after which a lane is *undrained*.

    backlog: receivers start when the senders have ended, and find everything there.
    heard_s: a trial is evidence, for or against, only where a send succeeded after the last fault, at least so long before the senders
        ended; 0: all the same. For promises that hang on a producer which the broker can ask: one that ended before it was
        reached again was not there to answer.
    """

    destinations: tuple[Destination, ...]
    senders: tuple[Sender, ...]
    receivers: tuple[Receiver, ...] = ()
    load_s: float = 5.0
    drain_s: float = 60.0
    backlog: bool = False
    heard_s: float = 0.0

    @property
    def lanes(self) -> tuple[tuple[int, int], ...]:
        """(destination, partition) of each lane."""
        return tuple((d, p) for d, dest in enumerate(self.destinations) for p in range(dest.partitions))

    def first_lane(self, destination: int) -> int:
        return sum(d.partitions for d in self.destinations[:destination])

    @property
    def roles(self) -> tuple[str, ...]:
        """Role of each client slot: the senders, the receivers, then one final reader for each destination."""
        return (
            ("producer",) * len(self.senders)
            + ("consumer",) * len(self.receivers)
            + ("reader",) * len(self.destinations)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """topology: name of one of the product's topologies. settings: broker settings on top of the topology's.
    lane_age_s: how long its lanes have been there at the least when the load starts.
    namespace: what all names on the broker begin with; of a target, as its file says.

    equipment: what the nodes are started with so that faults can act on them later (``Fault.needs``): ``disk`` a file
        system of their own, ``clock`` a clock that can be moved, ``fsync_void`` syncs that do nothing.
    """

    product: str
    version: str
    topology: str
    workload: Workload
    schedule: tuple[Injection, ...] = ()
    settings: Json = field(default_factory=dict)
    equipment: tuple[str, ...] = ()
    lane_age_s: float = LANE_AGE_S
    seed: int = 0
    claim: str = ""
    variant: str = ""
    arm: str = "treatment"
    trial: str = "trial"
    namespace: str = "bp-"
    schema: int = 1

    @property
    def trial_number(self) -> int:
        """The 64-bit trial id that every message body carries."""
        digest = hashlib.sha256(f"{self.seed}/{self.trial}/{self.product}/{self.version}".encode()).digest()
        return int.from_bytes(digest[:8], "little")

    def destination_name(self, destination: int) -> str:
        """The name on the broker: unique to the trial, legal on every product."""
        return self.prefix + self.workload.destinations[destination].name

    @property
    def prefix(self) -> str:
        """What the names of its destinations begin with."""
        return f"{self.namespace}{self.trial_number:016x}-"

    def validate(self) -> None:
        """Raises PlanError for what cannot be run."""
        w = self.workload
        if not w.destinations:
            raise PlanError(f"plan {self.trial!r} has no destination; a trial needs a queue or a topic")
        uses = [("sender", i, s.destination) for i, s in enumerate(w.senders)]
        uses += [("receiver", i, r.destination) for i, r in enumerate(w.receivers)]
        for role, i, destination in uses:
            if not 0 <= destination < len(w.destinations):
                raise PlanError(
                    f"plan {self.trial!r}: {role} {i} uses destination {destination}, "
                    f"but there are only {len(w.destinations)}"
                )
        for i, s in enumerate(w.senders):
            if s.again_of >= 0:
                first = w.senders[s.again_of] if s.again_of < i else None
                same = ("destination", "count", "rate_per_s", "size_bytes", "keys")
                if first is None or any(getattr(s, name) != getattr(first, name) for name in same):
                    raise PlanError(
                        f"plan {self.trial!r}: sender {i} sends again what sender {s.again_of} sends; that one has to stand "
                        f"before it and to have the same {', '.join(same)}"
                    )
        for injection in self.schedule:
            if injection.at_s < 0 or injection.for_s < 0:
                raise PlanError(f"plan {self.trial!r}: {injection.fault} at {injection.at_s} s for {injection.for_s} s")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def dumps(self) -> str:
        return json.dumps(self.to_json(), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, data: Json) -> Plan:
        """Raises PlanError with the offending part."""
        try:
            raw = dict(data)
            if raw.get("schema", 1) != 1:
                raise PlanError(f"plan schema {raw['schema']!r} is not 1; replay it with a newer brokerproof")
            load = dict(raw.pop("workload"))
            workload = Workload(
                destinations=tuple(Destination(**d) for d in load.pop("destinations")),
                senders=tuple(Sender(**s) for s in load.pop("senders")),
                receivers=tuple(Receiver(**r) for r in load.pop("receivers", ())),
                **load,
            )
            schedule = tuple(Injection(**i) for i in raw.pop("schedule", ()))
            equipment = tuple(raw.pop("equipment", ()))
            plan = cls(workload=workload, schedule=schedule, equipment=equipment, **raw)
        except (KeyError, TypeError, AttributeError) as exc:
            raise PlanError(f"not a plan: {exc}; a plan is what a trial folder holds as plan.json") from exc
        plan.validate()
        return plan
