"""Section *broker*, over a restart: what is durable, what is persistent, and what of both a message needs.

Everything is confirmed, and nothing consumed, before the only node goes down: what is missing afterwards lay in the broker
and was not on its way. Both ways down: ``stop``, which lets the node end in good order, and SIGKILL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Destination, Injection, Receiver, Sender, Workload

_PROFILES = ("standard", "thorough")
_CLASSIC = ("classic-stop", "classic-kill")
_BOTH = (*_CLASSIC, "quorum-stop", "quorum-kill")
_TRANSIENT, _PERSISTENT = 1, 2
_GONE = ("lost", "definition_lost")


def _arm(queue: Mapping[str, Any], delivery_mode: int) -> Workload:
    """800 confirmed messages in two seconds; the third is for a slow machine."""
    sender = Sender(settings={"confirm": True, "delivery_mode": delivery_mode}, rate_per_s=400.0, count=800)
    kind = "log" if queue.get("x-queue-type") == "stream" else "queue"
    return Workload(destinations=(Destination(name="q", kind=kind, settings=queue),), senders=(sender,), load_s=4.0)


def _queue(cell: Cell, **settings: Any) -> dict[str, Any]:
    """Of the variant's type."""
    return {"x-queue-type": cell.own_variant.split("-")[0], **settings}


def _restarted(cell: Cell, treatment: Workload, control: Workload, *, at_s: float = 3.0) -> Experiment:
    fault = cell.own_variant.split("-")[-1]
    return Experiment(
        topology="single", treatment=treatment, control=control, stored=True,
        schedule=(Injection(fault=fault, target="all", at_s=at_s, for_s=1.0),),
    )  # fmt: skip


@claim(
    "broker/durable-queue-alone", revision=1, kind="hazard",
    sentence="A durable queue keeps its definition over a restart, but not its transient messages.",
    source="S0 S2", always=True,
    brokers={"rabbitmq": _BOTH},
    # Of a lane that is gone nothing is *lost*, it is *definition_lost*: so this says that the queue is there, too.
    deciding=("lost",), control="persistent messages: the safe arm", profiles=_PROFILES,
)  # fmt: skip
def test_durable_queue_alone(cell: Cell) -> Experiment:
    return _restarted(cell, _arm(_queue(cell), _TRANSIENT), _arm(_queue(cell), _PERSISTENT))


@claim(
    "broker/durable-queue-alone--quorum", revision=1, kind="promise",
    sentence="A quorum queue keeps transient messages over a restart as it keeps persistent ones.",
    source="rabbitmq.com/docs/quorum-queues, feature matrix: non-persistent messages", sharpens="broker/durable-queue-alone",
    brokers={"rabbitmq": ("quorum-stop", "quorum-kill")},
    deciding=_GONE, control="transient messages in a durable classic queue", profiles=_PROFILES,
)  # fmt: skip
def test_durable_queue_alone_quorum(cell: Cell) -> Experiment:
    return _restarted(cell, _arm(_queue(cell), _TRANSIENT), _arm({"x-queue-type": "classic"}, _TRANSIENT))


@claim(
    "broker/delivery-mode-2-alone", revision=1, kind="hazard",
    sentence="A persistent message in a non-durable queue does not survive a restart.",
    source="S0 S4", always=True,
    brokers={"rabbitmq": _CLASSIC},
    deciding=_GONE, control="the same message in a durable queue: the safe arm", profiles=_PROFILES,
)  # fmt: skip
def test_delivery_mode_2_alone(cell: Cell) -> Experiment:
    return _restarted(cell, _arm(_queue(cell, durable=False), _PERSISTENT), _arm(_queue(cell), _PERSISTENT))


@claim(
    "broker/persistent-message-suffices", revision=1, kind="promise",
    sentence="A message with delivery mode 2 survives a restart; that its queue is durable is an option.",
    source="S2",
    brokers={"rabbitmq": _CLASSIC},
    deciding=_GONE, control="delivery mode 1 in the same non-durable queue", profiles=_PROFILES,
)  # fmt: skip
def test_persistent_message_suffices(cell: Cell) -> Experiment:
    queue = _queue(cell, durable=False)
    return _restarted(cell, _arm(queue, _PERSISTENT), _arm(queue, _TRANSIENT))


@claim(
    "broker/persistent-message-suffices--in-a-durable-queue", revision=1, kind="promise",
    sentence="A message with delivery mode 2 survives a restart in a durable queue.",
    source="rabbitmq.com/docs/queues, durability", sharpens="broker/persistent-message-suffices",
    brokers={"rabbitmq": _CLASSIC},
    deciding=_GONE, control="a non-durable queue", profiles=_PROFILES,
)  # fmt: skip
def test_persistent_message_in_a_durable_queue(cell: Cell) -> Experiment:
    return _restarted(cell, _arm(_queue(cell), _PERSISTENT), _arm(_queue(cell, durable=False), _PERSISTENT))


@claim(
    "broker/both-survive", revision=1, kind="promise",
    sentence="A persistent message in a durable queue survives the death of its node, once it is confirmed.",
    source="S0 S1 S2 S4",
    brokers={"rabbitmq": (*_BOTH, "stream-stop", "stream-kill")},
    # A quorum queue cannot be had without durability, and keeps transient messages all the same.
    deciding=_GONE, control="a transient message in a durable classic queue", profiles=_PROFILES,
)  # fmt: skip
def test_both_survive(cell: Cell) -> Experiment:
    return _restarted(cell, _arm(_queue(cell), _PERSISTENT), _arm({"x-queue-type": "classic"}, _TRANSIENT))


@claim(
    "broker/durable-exchange-needed", revision=1, kind="hazard",
    sentence="Without a durable exchange, a persistent message in a durable queue does not survive a restart.",
    source="S4: the answer after the log write is promised for a durable exchange", always=True,
    brokers={"rabbitmq": _BOTH},
    deciding=_GONE, control="the same through a durable exchange: the safe arm", profiles=_PROFILES,
)  # fmt: skip
def test_durable_exchange_needed(cell: Cell) -> Experiment:
    transient, durable = ({"type": "direct", "durable": durable} for durable in (False, True))
    return _restarted(
        cell, _arm(_queue(cell, exchange=transient), _PERSISTENT), _arm(_queue(cell, exchange=durable), _PERSISTENT)
    )


@claim(
    "broker/durable-exchange-needed--queue-decides", revision=1, kind="promise",
    sentence="A persistent message survives a restart in a durable queue, whether or not the exchange that it came "
    "through was durable.",
    source="rabbitmq.com/docs/exchanges, durability", sharpens="broker/durable-exchange-needed",
    brokers={"rabbitmq": _CLASSIC},
    deciding=_GONE, control="the queue is not durable either", profiles=_PROFILES,
)  # fmt: skip
def test_durable_exchange_queue_decides(cell: Cell) -> Experiment:
    exchange = {"type": "direct", "durable": False}
    return _restarted(
        cell, _arm(_queue(cell, exchange=exchange), _PERSISTENT),
        _arm(_queue(cell, exchange=exchange, durable=False), _PERSISTENT),
    )  # fmt: skip


def _consumed(cell: Cell, *, count: int, load_s: float, at_s: float) -> Experiment:
    """All of it is worked off and acknowledged before the node goes down at ``at_s``: no acknowledgement is on its way."""
    queue = Destination(name="q", kind="queue", settings=_queue(cell))
    sender = Sender(settings={"confirm": True}, rate_per_s=100.0, count=count)

    def arm(ack: str) -> Workload:
        receiver = Receiver(settings={"ack": ack}, work_ms=1.0, prefetch=200)
        return Workload(destinations=(queue,), senders=(sender,), receivers=(receiver,), load_s=load_s)

    return _restarted(cell, arm("after"), arm("never"), at_s=at_s)


@claim(
    "broker/consumed-is-garbage", revision=1, kind="promise",
    sentence="A message that was consumed and acknowledged is not delivered again after a restart.",
    source="S4: it is marked for collection in the log",
    brokers={"rabbitmq": _BOTH},
    deciding=("duplicated", "effect_duplicated"), control="consumed, and not acknowledged", profiles=_PROFILES,
)  # fmt: skip
def test_consumed_is_garbage(cell: Cell) -> Experiment:
    return _consumed(cell, count=150, load_s=4.0, at_s=3.0)


@claim(
    "broker/consumed-is-garbage--seconds-ago", revision=1, kind="promise",
    sentence="A message that was consumed and acknowledged some seconds ago is not delivered again after a restart.",
    source="(ours), from S4", sharpens="broker/consumed-is-garbage",
    brokers={"rabbitmq": _BOTH},
    deciding=("duplicated", "effect_duplicated"), control="consumed, and not acknowledged", profiles=_PROFILES,
)  # fmt: skip
def test_consumed_is_garbage_seconds_ago(cell: Cell) -> Experiment:
    return _consumed(cell, count=100, load_s=9.0, at_s=8.0)


@claim(
    "broker/consumed-is-garbage--just-acknowledged", revision=1, kind="hazard",
    sentence="A message that was acknowledged right before its node died is delivered again: a classic queue writes "
    "acknowledgements later than it takes them.",
    source="(ours)", sharpens="broker/consumed-is-garbage",
    brokers={"rabbitmq": ("classic",)},
    deciding=("duplicated",), control="the node ends in good order: the safe arm", profiles=_PROFILES,
)  # fmt: skip
def test_just_acknowledged(cell: Cell) -> Experiment:
    # Consumed as it comes until the node goes down: some acknowledgements are fresh then.
    arm = Workload(
        destinations=(Destination(name="q", kind="queue", settings={"x-queue-type": "classic"}),),
        senders=(Sender(settings={"confirm": True}, rate_per_s=400.0, timeout_s=10.0),),
        receivers=(Receiver(settings={"ack": "after"}, prefetch=200),), load_s=6.0,
    )  # fmt: skip
    kill = Injection(fault="kill", target="all", at_s=3.0, for_s=1.0)
    return Experiment(
        topology="single", treatment=arm, control=arm, stored=True,
        schedule=(kill,), control_schedule=(replace(kill, fault="stop"),),
    )  # fmt: skip
