"""Section *dup*, the named weaknesses of guards that ask Redis: each against the guard that has not got it."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment, Mode
from brokerproof.killed_consumer import killed_consumer
from brokerproof.plan import Json, Receiver, Sender, Workload

_ALL = {"rabbitmq": ("",), "kafka": ("",), "rocketmq": ("",)}
_SLOWER = ("standard", "thorough")


def _topology(cell: Cell) -> str:
    # Three copies of a topic need three nodes.
    return configurations(cell.broker).topology if cell.broker == "kafka" else "single"


def _effect(guard: str, **options: object) -> Json:
    return {"guard": guard, "options": options, "sql": "postgresql"}


def _submitted_twice(
    cell: Cell, treatment: Json, control: Json, *, later_ms: float, mode: Mode = "deterministic"
) -> Experiment:
    """Each message is submitted twice, so much later, and taken up by whichever of two consumers is free."""
    c = configurations(cell.broker)
    work = Receiver(settings={**c.ack_after, **c.several}, work_ms=0.0, prefetch=1)
    user = Sender(settings=c.confirmed, rate_per_s=5.0, count=30)
    users = (user, replace(user, again_of=0, again_ms=later_ms))

    def arm(effect: Json) -> Workload:
        consumer = replace(work, effect=effect)
        return Workload(destinations=(c.destination,), senders=users, receivers=(consumer, consumer), load_s=8.0)

    return Experiment(
        topology=_topology(cell),
        treatment=arm(treatment),
        control=arm(control),
        mode=mode,
        needs=("several_consumers_per_lane",),
    )


@claim(
    "dup/redis-seen-id--mark-first", revision=1, kind="hazard",
    sentence="A mark in Redis that is set before the effect: a consumer that dies between the two never has the effect.",
    source="ours", brokers=_ALL, deciding=("effect_lost",),
    control="the mark is a row under a unique index, in the transaction of the effect", sharpens="dup/redis-seen-id",
    always=True, profiles=_SLOWER,
)  # fmt: skip
def test_mark_first(cell: Cell) -> Experiment:
    marked, together = _effect("redis_seen_id", order="setnx"), _effect("dedup_table", order="together")
    return killed_consumer(cell, marked, together, step="effect:marked")


# Both look before either marks: which of them does is a matter of when they are handed the two.
@claim(
    "dup/redis-seen-id--look-first", revision=1, kind="hazard",
    sentence="An id that is looked up in Redis before the effect and marked after it: two consumers at once both find "
    "nothing, and both have the effect.",
    source="ours", brokers=_ALL, deciding=("effect_duplicated",), control="looked up and marked in one command (SET NX)",
    sharpens="dup/redis-seen-id", profiles=_SLOWER,
)  # fmt: skip
def test_look_first(cell: Cell) -> Experiment:
    looks, marks = (_effect("redis_seen_id", order=order) for order in ("effect_first", "setnx"))
    return _submitted_twice(cell, looks, marks, later_ms=0.0, mode="race")


@claim(
    "dup/redis-lock--no-look", revision=1, kind="hazard",
    sentence="A lock on Redis makes the second request wait; it then goes on, and has the effect again.",
    source="ours", brokers=_ALL, deciding=("effect_duplicated",),
    control="who gets the lock looks whether the effect is there", sharpens="dup/redis-lock", always=True, profiles=_SLOWER,
)  # fmt: skip
def test_lock_without_a_look(cell: Cell) -> Experiment:
    return _submitted_twice(
        cell, _effect("redis_lock", after="nothing"), _effect("redis_lock", after="look"), later_ms=5.0
    )


@claim(
    "dup/redis-lock--outlived", revision=1, kind="hazard",
    sentence="A holder that takes longer than its lock lives: the next one gets the lock, finds nothing, and both have the "
    "effect.",
    source="ours", brokers=_ALL, deciding=("effect_duplicated",),
    control="the database refuses a token older than one it was shown (fencing)", sharpens="dup/redis-lock", always=True,
    profiles=_SLOWER,
)  # fmt: skip
def test_lock_that_is_outlived(cell: Cell) -> Experiment:
    late: Json = {"life_ms": 50, "holds_ms": 150.0}
    return _submitted_twice(
        cell, _effect("redis_lock", after="look", **late), _effect("redis_lock", after="fence", **late), later_ms=5.0
    )
