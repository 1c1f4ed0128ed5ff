"""What a destination is on RabbitMQ: the queues and the exchange it is made of, and their names.

A destination is one queue per lane. Its settings are in the vendor's words: ``x-...`` are queue arguments, ``durable``
is the queue's flag. Besides them:

    node        the node that leads the queue (declared there, with the default locator ``client-local``)
    exchange    publish through an exchange of that type ("direct", "topic", "fanout", "headers") called ``<name>.x``,
                instead of the default exchange; or {"type": ..., "durable": ..., "arguments": {...}}
    bindings    binding keys of every queue to that exchange (default: the queue's own name)
    policy      definition of a policy on the queues, e.g. {"ha-mode": "all"} (3.x)

A string value that begins with ``@`` stands for the queue of another destination of the same trial, ``@x:`` for its
exchange: ``{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "@dead"}``.
Source of the arguments: https://www.rabbitmq.com/docs/queues#optional-arguments
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from brokerproof.errors import PlanError

Json = Mapping[str, Any]

#: Bodies that begin so belong to the harness; readers and receivers pass them over.
PROBE = b"brokerproof-probe"
_OWN = frozenset({"durable", "node", "exchange", "bindings", "policy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    name: str
    type: str
    durable: bool = True
    arguments: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """arguments, durable: of every queue.  exchange: None is the default exchange."""

    arguments: Json
    durable: bool = True
    node: str = ""
    exchange: Exchange | None = None
    bindings: tuple[str, ...] = ()
    policy: Json = field(default_factory=dict)


def queue_name(name: str, partition: int) -> str:
    """The queue of a lane. The first has the destination's own name."""
    return name if partition == 0 else f"{name}.{partition}"


def exchange_name(name: str) -> str:
    return f"{name}.x"


def shape(settings: Json, *, name: str, prefix: str, defaults: Json) -> Shape:
    """prefix: what the names of all destinations of the trial begin with.  defaults: arguments of the topology."""
    unknown = sorted(k for k in settings if k not in _OWN and not k.startswith("x-"))
    if unknown:
        raise PlanError(
            f"queue {name!r}: unknown settings {', '.join(unknown)}; known: x-... arguments and {', '.join(sorted(_OWN))}"
        )
    arguments = {**defaults, **{k: v for k, v in settings.items() if k.startswith("x-")}}
    return Shape(
        arguments=_referred({k: v for k, v in arguments.items() if v is not None}, prefix),
        durable=bool(settings.get("durable", True)),
        node=str(settings.get("node", "")),
        exchange=_exchange(settings.get("exchange"), name, prefix),
        bindings=tuple(settings.get("bindings", ())),
        policy=_referred(settings.get("policy", {}), prefix),
    )


def consumer_arguments(settings: Json) -> dict[str, Any]:
    """What a consumer has to say to be given everything that is there: of a stream, which keeps what was consumed, where it
    begins. Source: https://www.rabbitmq.com/docs/streams#consuming"""
    return {"x-stream-offset": "first"} if settings.get("x-queue-type") == "stream" else {}


def publishes_to(settings: Json, name: str) -> str:
    """The exchange that senders use: "" is the default one."""
    return exchange_name(name) if settings.get("exchange") else ""


def rejects_when_full(settings: Json) -> bool:
    """Whether a nack says that the message is definitely not in the queue: it had one queue to go to, which refused."""
    return not settings.get("exchange") and str(settings.get("x-overflow", "")).startswith("reject-publish")


def _exchange(given: Any, name: str, prefix: str) -> Exchange | None:
    if not given:
        return None
    if isinstance(given, str):
        return Exchange(name=exchange_name(name), type=given)
    return Exchange(
        name=exchange_name(name), type=str(given.get("type", "direct")), durable=bool(given.get("durable", True)),
        arguments=_referred(given.get("arguments", {}), prefix),
    )  # fmt: skip


def _referred(values: Json, prefix: str) -> dict[str, Any]:
    def one(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        return exchange_name(prefix + value[3:]) if value.startswith("@x:") else prefix + value[1:]

    return {key: one(value) for key, value in values.items()}
