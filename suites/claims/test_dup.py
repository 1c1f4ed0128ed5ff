"""Section *dup*: doubles, and what brokers do about them."""

from __future__ import annotations

from collections.abc import Callable

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.killed_consumer import killed_consumer
from brokerproof.plan import Injection, Json, Sender, Workload


@claim(
    "dup/broker-inner-id", revision=1, kind="promise",
    sentence="The broker gives each produced message an internal id and drops a resend of it.",
    source="S4",
    brokers={"rabbitmq": ("",), "kafka": ("",), "rocketmq": ("",)},
    deciding=("duplicated",), control="deduplication off, where the broker has one",
)  # fmt: skip
def test_broker_inner_id(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(settings: object) -> Workload:
        # No faster than needed: each message is a request, and a sham that hits its own time-out, because five arms at once
        # keep a small machine busy, says nothing of the fault.
        rate = min(c.rate_per_s, 50.0)
        sender = Sender(settings=settings, resend=True, timeout_s=4.0, rate_per_s=rate)  # type: ignore[arg-type]
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=8.0)

    return Experiment(
        topology=c.topology, treatment=arm(c.dedup), control=arm(c.no_dedup),
        schedule=(Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),),
    )  # fmt: skip


@claim(
    "dup/broker-inner-id--client-retry", revision=1, kind="promise",
    sentence="The broker drops what an idempotent producer sends again by itself, within one producer instance.",
    source="Kafka documentation, enable.idempotence; KIP-98",
    brokers={"kafka": ("",)},
    deciding=("duplicated",), control="enable.idempotence=false, the same retries", sharpens="dup/broker-inner-id",
    needs=("dedup",),
)  # fmt: skip
def test_client_retry_is_dropped(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # The library, not the application, sends again: a short request time-out makes it do so during the fault.
    retries = {"request.timeout.ms": 2000, "socket.timeout.ms": 2000, "message.timeout.ms": 30000, "retries": 100}

    def arm(idempotence: bool) -> Workload:
        settings = {**c.confirmed, **retries, "enable.idempotence": idempotence}
        sender = Sender(settings=settings, timeout_s=15.0, rate_per_s=min(c.rate_per_s, 50.0))
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=8.0)

    return Experiment(
        topology=c.topology, treatment=arm(True), control=arm(False),
        schedule=(Injection(fault="lost_ack", target="all", at_s=1.0, for_s=5.0),),
    )  # fmt: skip


# -- effects in databases, under a consumer that dies after the effect and before it acknowledges ------------------------

_ALL = {"rabbitmq": ("",), "kafka": ("",), "rocketmq": ("",)}
_SLOWER = ("standard", "thorough")
_BY_SQL = {"rabbitmq": ("postgresql", "mariadb"), "kafka": ("postgresql",), "rocketmq": ("postgresql",)}
#: The trouble that a cell is decided under. In another one, raced by a second consumer, such a guard may do worse: see the
#: weaknesses that ``list effects`` tells, and the guards' own tests.
_REDIS = dict.fromkeys(_ALL, ("killed-after-effect",))
_ONCE = ("effect_duplicated", "effect_lost")


def _effect(guard: str, cell: Cell, **options: object) -> Json:
    return {"guard": guard, "options": options, "sql": "mariadb" if cell.own_variant == "mariadb" else "postgresql"}


@claim(
    "dup/at-least-once-redelivers", revision=1, kind="hazard",
    sentence="A consumer that dies after the effect and before the acknowledgement gets the message again: a second effect.",
    source="S4 S3", brokers=_ALL, deciding=("effect_duplicated",), control="acknowledged first, then worked",
    always=True, profiles=_SLOWER,
)  # fmt: skip
def test_at_least_once_redelivers(cell: Cell) -> Experiment:
    effect = _effect("increment", cell)
    return killed_consumer(cell, effect, effect, control_ack=configurations(cell.broker).ack_first)


@claim(
    "dup/increment-is-not", revision=1, kind="hazard",
    sentence="`count = count + 1` may not run twice: a redelivery counts again.",
    source="S2", brokers=_BY_SQL, deciding=("effect_duplicated",), control="the id under a unique index first",
    always=True, profiles=_SLOWER,
)  # fmt: skip
def test_increment_is_not(cell: Cell) -> Experiment:
    return killed_consumer(cell, _effect("increment", cell), _effect("dedup_table", cell))


def _promised(
    id_: str, guard: str, sentence: str, source: str, brokers: dict[str, tuple[str, ...]] = _BY_SQL, **options: object
) -> Callable[[Cell], Experiment]:  # fmt: skip
    """A guard, against no guard."""

    @claim(
        id_, revision=1, kind="promise", sentence=sentence, source=source, brokers=brokers, deciding=_ONCE,
        control="`count = count + 1` without a guard", profiles=_SLOWER,
    )  # fmt: skip
    def test(cell: Cell) -> Experiment:
        return killed_consumer(cell, _effect(guard, cell, **options), _effect("increment", cell))

    return test


test_business_id = _promised(
    "dup/business-id", "dedup_table",
    "A globally unique business id in the body, checked by the consumer, prevents double effects.", "S4 S1",
)  # fmt: skip
test_assignment_is_idempotent = _promised(
    "dup/assignment-is-idempotent", "assignment", "`count = 10` may run twice.", "S2",
)  # fmt: skip
test_mvcc_version = _promised(
    "dup/mvcc-version", "mvcc_version", "An update with the version that the producer read succeeds once.", "S2",
)  # fmt: skip
test_dedup_table = _promised(
    "dup/dedup-table", "dedup_table",
    "A unique index on the message id, in the transaction of the effect, makes processing once.", "S2 S1",
)  # fmt: skip
test_cached_result = _promised(
    "dup/cached-result", "cached_result", "A processed id returns the stored result, and nothing is done.", "S2",
)  # fmt: skip
test_redis_set = _promised("dup/redis-set", "redis_set", "A Redis SET is idempotent by nature.", "S1", _REDIS)
test_redis_seen_id = _promised(
    "dup/redis-seen-id", "redis_seen_id", "A global id is looked up in Redis before processing: one effect.", "S1", _REDIS,
)  # fmt: skip
test_redis_lock = _promised(
    "dup/redis-lock", "redis_lock", "A distributed lock on Redis makes the second request wait, so one effect.", "S1", _REDIS,
    after="look",
)  # fmt: skip
