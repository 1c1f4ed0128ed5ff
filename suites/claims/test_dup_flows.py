"""Section *dup*, whole flows: what guards cost, which of them is best, doubles from both sides at once, and payments."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.effects.cached_result import CachedResult
from brokerproof.experiment import Cell, ComparisonExperiment, Experiment
from brokerproof.killed_consumer import killed_consumer
from brokerproof.plan import Injection, Json, Receiver, Sender, Workload

_ALL = {"rabbitmq": ("",), "kafka": ("",), "rocketmq": ("",)}
_SLOWER = ("standard", "thorough")
_ONCE = ("effect_duplicated", "effect_lost")


#: The smallest cluster that the safest destination fits on.
_SMALL = {"rabbitmq": "single", "rocketmq": "single"}


def _topology(cell: Cell) -> str:
    return _SMALL.get(cell.broker, configurations(cell.broker).topology)


def _effect(guard: str, **options: object) -> Json:
    return {"guard": guard, "options": options, "sql": "postgresql"}


# -- what guards cost --------------------------------------------------------------------------------------------------

#: Guard that asks Redis, and the guard by a unique index in the effect's own database that it is compared with. ``set`` has
#: its effect in Redis itself; the others have it in PostgreSQL, and only their mark in Redis. ``own-transaction``: the key
#: of the database is written before the effect, in a transaction of its own, as a mark in Redis is.
_KEYS = {
    "lock": (_effect("redis_lock"), _effect("dedup_table")),
    "set": (_effect("redis_set"), _effect("dedup_table")),
    "seen-id": (_effect("redis_seen_id"), _effect("dedup_table")),
    "own-transaction": (_effect("redis_seen_id"), _effect("dedup_table", order="mark_first")),
}


def _cost(cell: Cell) -> ComparisonExperiment:
    c = configurations(cell.broker)
    redis, key = _KEYS[cell.own_variant]

    def arm(effect: Json) -> Workload:
        return Workload(
            destinations=(c.destination,), senders=(Sender(settings=c.confirmed, count=600, timeout_s=20.0),),
            receivers=(Receiver(settings=c.ack_after, work_ms=0.0, prefetch=50, effect=effect),), load_s=60.0,
        )  # fmt: skip

    return ComparisonExperiment(topology=_topology(cell), treatment=arm(redis), control=arm(key), by="effect")


@claim(
    "dup/primary-key-slow", revision=1, kind="comparison",
    sentence="A primary key of the database guards against doubles as well, but slower than Redis.",
    source="S1", brokers=dict.fromkeys(_ALL, ("lock", "set")),
    control="the id under a unique index, in the transaction of the effect", profiles=_SLOWER,
)  # fmt: skip
def test_primary_key_slow(cell: Cell) -> ComparisonExperiment:
    return _cost(cell)


# A difference that ten pairs do not tell on a machine that others use as well: RabbitMQ 4.0.5 with 10 pairs, seen-id 0.83
# (0.62 to 1.11), own-transaction 1.07 (0.88 to 1.30).
@claim(
    "dup/primary-key-slow--mark", revision=1, kind="comparison",
    sentence="A mark in Redis beside an effect in a database costs less than a row under a unique index of that database.",
    source="S1", brokers=dict.fromkeys(_ALL, ("seen-id", "own-transaction")),
    control="the id under a unique index, in the transaction of the effect or, own-transaction, in one before it",
    sharpens="dup/primary-key-slow", profiles=("thorough",),
)  # fmt: skip
def test_primary_key_slow_mark(cell: Cell) -> ComparisonExperiment:
    return _cost(cell)


# -- doubles from both sides -------------------------------------------------------------------------------------------


@claim(
    "dup/consumer-side-suffices", revision=1, kind="promise",
    sentence="If consumers are idempotent, duplicates from the producer do no harm either.",
    source="S3", brokers=_ALL, deciding=_ONCE, control="`count = count + 1` without a guard", profiles=_SLOWER,
)  # fmt: skip
def test_consumer_side_suffices(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(effect: Json) -> Workload:
        # The broker is kept from dropping what is sent again, where it could.
        sender = Sender(settings=c.no_dedup, resend=True, timeout_s=4.0, rate_per_s=20.0)
        receiver = Receiver(settings=c.ack_after, work_ms=10.0, prefetch=20, effect=effect)
        return Workload(destinations=(c.destination,), senders=(sender,), receivers=(receiver,), load_s=8.0)

    return Experiment(
        topology=_topology(cell), treatment=arm(_effect("dedup_table")), control=arm(_effect("increment")),
        schedule=(
            Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),
            Injection(fault="client_kill", target="consumer", at_s=2.0, for_s=1.0, options={"step": "effect"}),
        ),
    )  # fmt: skip


# -- databases that are restarted --------------------------------------------------------------------------------------


def _restarted(cell: Cell, treatment: Json, control: Json, *databases: str) -> Experiment:
    """A consumer dies after an effect and before the acknowledgement; before another one is given the message again, the
    databases are killed and started."""
    restarts = [Injection(fault="store_restart", target=name, at_s=3.0, for_s=1.0) for name in databases]
    return killed_consumer(cell, treatment, control, for_s=8.0, then=restarts)


_FORGETS, _KEEPS = _effect("redis_seen_id"), {**_effect("redis_seen_id"), "keeps": True}


@claim(
    "dup/redis-key-best", revision=1, kind="promise", sentence="A unique key in Redis is the best of the guards.",
    source="S1", brokers=_ALL, deciding=_ONCE, control="`count = count + 1` without a guard", profiles=_SLOWER,
)  # fmt: skip
def test_redis_key_best(cell: Cell) -> Experiment:
    return _restarted(cell, _FORGETS, _effect("increment"), "redis")


@claim(
    "dup/redis-key-best--on-disk", revision=1, kind="promise",
    sentence="A unique key in Redis guards over a restart of Redis where each change is on its disk before it answers.",
    source="redis.io, persistence, appendfsync always", brokers=_ALL, deciding=_ONCE,
    control="a Redis that keeps nothing on disk", sharpens="dup/redis-key-best", profiles=_SLOWER,
)  # fmt: skip
def test_redis_key_on_disk(cell: Cell) -> Experiment:
    return _restarted(cell, _KEEPS, _FORGETS, "redis")


@claim(
    "dup/redis-key-best--dedup-table", revision=1, kind="promise",
    sentence="A unique index in the transaction of the effect guards over a restart of its database.",
    source="postgresql.org, write-ahead log", brokers=_ALL, deciding=_ONCE,
    control="a unique key in a Redis that keeps nothing on disk, restarted as well", sharpens="dup/redis-key-best",
    profiles=_SLOWER,
)  # fmt: skip
def test_dedup_table_over_a_restart(cell: Cell) -> Experiment:
    return _restarted(cell, _effect("dedup_table"), _FORGETS, "redis", "postgresql")


# -- orders ------------------------------------------------------------------------------------------------------------

#: Time from one kill to the next: somebody else has to be given the messages of the one that was killed.
_TAKEN_OVER_S = {"rabbitmq": 4.0, "kafka": 12.0, "rocketmq": 8.0}


@claim(
    "dup/cached-result--order-flow", revision=1, kind="promise",
    sentence="An order flow (order, stock, coupon) whose parts keep their results has each part once, wherever it was cut "
    "off or asked again.",
    source="S2", brokers=dict.fromkeys(_ALL, ("killed", "asked-again")), deciding=_ONCE,
    control="the same flow, whose parts forget what they have answered", sharpens="dup/cached-result", profiles=_SLOWER,
)  # fmt: skip
def test_order_flow(cell: Cell) -> Experiment:
    """killed: the consumer that asks the parts dies after each of their steps. asked-again: each order is submitted three
    times, and taken up by two consumers."""
    c = configurations(cell.broker)
    steps = CachedResult().steps
    each_s = _TAKEN_OVER_S[cell.broker]
    again = cell.own_variant == "asked-again"

    def arm(results: str) -> Workload:
        work = Receiver(
            settings=c.ack_after, work_ms=10.0, prefetch=4, effect=_effect("cached_result", results=results)
        )
        user = Sender(settings=c.confirmed, rate_per_s=10.0, count=40 if again else None)
        if not again:
            load_s = each_s * (len(steps) + 1)
            return Workload(destinations=(c.destination,), senders=(user,), receivers=(work,), load_s=load_s)
        users = (user, *(replace(user, again_of=0, again_ms=later_ms) for later_ms in (5.0, 300.0)))
        work = replace(work, settings={**c.ack_after, **c.several})
        return Workload(destinations=(c.destination,), senders=users, receivers=(work, work), load_s=8.0)

    kills = tuple(
        Injection(
            fault="client_kill", target="consumer", at_s=1.0 + n * each_s, for_s=0.5, options={"step": f"effect:{s}"}
        )
        for n, s in enumerate(steps)
    )
    return Experiment(
        topology=_topology(cell), treatment=arm("kept"), control=arm("forgotten"), schedule=() if again else kills,
        link_groups=() if again else ("consumer",), sham_s=2.0, needs=("several_consumers_per_lane",) if again else (),
    )  # fmt: skip


# -- payments ----------------------------------------------------------------------------------------------------------


@claim(
    "dup/double-submit", revision=1, kind="promise",
    sentence="The same payment, sent several times while the core is slow, is booked once: Redis removes the others.",
    source="S0", brokers=_ALL, deciding=_ONCE, control="no look at Redis in front of the core", profiles=_SLOWER,
)  # fmt: skip
def test_double_submit(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    work = Receiver(settings={**c.ack_after, **c.several}, work_ms=0.0, prefetch=4)

    def arm(front: str) -> Workload:
        user = Sender(settings=c.confirmed, rate_per_s=5.0, count=20)
        # Submitted again before the core has answered, by a user who sees nothing happen.
        users = (user, *(replace(user, again_of=0, again_ms=later_ms) for later_ms in (60.0, 120.0)))
        core = replace(work, effect=_effect("payment", front=front, core_ms=150.0))
        return Workload(destinations=(c.destination,), senders=users, receivers=(core, core), load_s=8.0)

    return Experiment(
        topology=_topology(cell), treatment=arm("redis"), control=arm("none"), needs=("several_consumers_per_lane",)
    )


#: The core is slow for every tenth payment, when it is first asked; all payments are of one account.
_JAMS = {"front": "none", "core_ms": 5.0, "hiccup_ms": 1000.0, "hiccup_every": 10, "accounts": 1}


def _paid(cell: Cell, **options: object) -> Workload:
    """Payments of one account, taken up by three at once. One that fails is put back, and tried again."""
    c = configurations(cell.broker)
    core = Receiver(
        settings={**c.ack_after, "on_error": "requeue"}, work_ms=0.0, prefetch=1,
        effect=_effect("payment", **_JAMS, **options),
    )  # fmt: skip
    sender = Sender(settings=c.confirmed, count=60, timeout_s=20.0)
    return Workload(destinations=(c.destination,), senders=(sender,), receivers=(core, core, core), load_s=60.0)


@claim(
    "dup/response-deadline", revision=1, kind="comparison",
    sentence="A response deadline is set against lock jams: where the core is slow at times, payments of its account go on.",
    source="S0", brokers={"rabbitmq": ("",)}, control="no deadline", profiles=_SLOWER,
)  # fmt: skip
def test_response_deadline(cell: Cell) -> ComparisonExperiment:
    return ComparisonExperiment(
        topology=_topology(cell), treatment=_paid(cell, deadline_ms=200.0, late="called_off"), control=_paid(cell),
        by="effect", pairs={"quick": 0, "standard": 10, "thorough": 20},
    )  # fmt: skip


@claim(
    "dup/response-deadline--front-only", revision=1, kind="hazard",
    sentence="With a deadline that the core does not know of, a payment that was told to have failed may be booked: tried "
    "again, it is booked twice.",
    source="ours", brokers={"rabbitmq": ("",)}, deciding=("effect_duplicated",),
    control="the deadline goes with the request, and the core gives up, with nothing booked",
    sharpens="dup/response-deadline", always=True, profiles=_SLOWER,
)  # fmt: skip
def test_response_deadline_of_the_front_only(cell: Cell) -> Experiment:
    return Experiment(
        topology=_topology(cell), treatment=_paid(cell, deadline_ms=200.0, late="goes_on"),
        control=_paid(cell, deadline_ms=200.0, late="called_off"),
    )  # fmt: skip
