"""Section *broker*: where messages go that their exchange, or their queue, does not take; and what a restart leaves of it.

Decided over cases: exchanges and queues are made, messages published one by one, and every queue is looked into.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

from brokerproof.brokers.base import Json, Publish, Wiring
from brokerproof.cases import Case, Found, by_cases
from brokerproof.claims import claim
from brokerproof.errors import DeadlineError
from brokerproof.experiment import Cell, PropertyExperiment
from brokerproof.waiting import wait_until

_ONE = {"rabbitmq": ("",)}
#: Exchange type -> a routing key that no binding ``a`` takes. A fanout exchange with a queue takes every key.
_UNROUTABLE = {"direct": "b", "topic": "b.c"}


def _main(w: Wiring, type: str, *, exchange: Json, queue: Json) -> None:
    """Exchange ``main`` with the queue ``q`` bound by ``a``; a fanout exchange ``backup`` with a queue of its own."""
    w.exchange("backup", "fanout")
    w.queue("kept")
    w.bind("kept", "backup")
    w.exchange("main", type, arguments=exchange)
    w.queue("q", arguments=queue)
    w.bind("q", "main", "a")


_ON_QUEUE: Mapping[str, Json] = {"exchange": {}, "queue": {"x-dead-letter-exchange": "@backup"}}
_ON_EXCHANGE: Mapping[str, Json] = {"exchange": {"alternate-exchange": "@backup"}, "queue": {}}
_NOWHERE: Mapping[str, Json] = {"exchange": {}, "queue": {}}


def _unroutable(where: Mapping[str, Json]) -> Iterable[Case]:
    """Messages that match no binding: each has to be in the backup's queue, once, and nowhere else."""
    for type, key in _UNROUTABLE.items():
        for mandatory in (False, True):

            def case(w: Wiring, type: str = type, key: str = key, mandatory: bool = mandatory) -> Found:
                _main(w, type, **where)
                sent = w.send([Publish(exchange="main", key=key, body="m", mandatory=mandatory)])
                got = {"q": w.take("q"), "kept": w.take("kept")}
                if got == {"q": [], "kept": ["m"]}:
                    return None
                return {
                    "exchange": type, "binding": "a", "routing_key": key, "mandatory": mandatory, "answer": sent.answer,
                    "in the queue": got["q"], "in the backup": got["kept"],
                }  # fmt: skip

            yield case


@claim(
    "broker/alternate-exchange", revision=1, kind="property",
    sentence="Unroutable messages go to the alternate exchange that x-dead-letter-exchange on the queue names.",
    source="S2", brokers=_ONE, needs=("exchanges",), control="no alternate exchange anywhere",
)  # fmt: skip
def test_alternate_exchange(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _unroutable(_ON_QUEUE), lambda: _unroutable(_NOWHERE))


@claim(
    "broker/alternate-exchange--exchange-argument", revision=1, kind="property",
    sentence="Unroutable messages go to the exchange that the argument alternate-exchange of their own exchange names.",
    source="rabbitmq.com/docs/ae", brokers=_ONE, needs=("exchanges",), sharpens="broker/alternate-exchange",
    control="no alternate exchange anywhere",
)  # fmt: skip
def test_alternate_exchange_argument(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _unroutable(_ON_EXCHANGE), lambda: _unroutable(_NOWHERE))


def _routable(where: Mapping[str, Json], wanted: Mapping[str, list[str]]) -> Iterable[Case]:
    """Messages that a binding takes: what the main queue and the backup's hold of them."""
    for type, mandatory in ((type, mandatory) for type in ("direct", "topic", "fanout") for mandatory in (False, True)):

        def case(w: Wiring, type: str = type, mandatory: bool = mandatory) -> Found:
            _main(w, type, **where)
            sent = w.send([Publish(exchange="main", key="a", body="m", mandatory=mandatory)])
            got = {"q": w.take("q"), "kept": w.take("kept")}
            if got == wanted:
                return None
            return {
                "exchange": type, "binding": "a", "routing_key": "a", "mandatory": mandatory, "answer": sent.answer,
                "in the queue": got["q"], "in the backup": got["kept"],
            }  # fmt: skip

        yield case


@claim(
    "broker/alternate-first", revision=1, kind="property",
    sentence="A message is sent to the alternate exchange before its main queue: the backup has a copy of it.",
    source="S2", brokers=_ONE, needs=("exchanges",), control="no alternate exchange anywhere",
)  # fmt: skip
def test_alternate_first(cell: Cell) -> PropertyExperiment:
    both = {"q": ["m"], "kept": ["m"]}
    return by_cases(lambda: _routable(_ON_EXCHANGE, both), lambda: _routable(_NOWHERE, both))


@claim(
    "broker/alternate-first--only-unroutable", revision=1, kind="property",
    sentence="A message that its exchange routes is in its queue, once, and not in that of the alternate exchange.",
    source="rabbitmq.com/docs/ae", brokers=_ONE, needs=("exchanges",), sharpens="broker/alternate-first",
    control="the backup bound to the main exchange, so that it has a copy",
)  # fmt: skip
def test_alternate_only_unroutable(cell: Cell) -> PropertyExperiment:
    once = {"q": ["m"], "kept": []}

    def copied() -> Iterable[Case]:
        def case(w: Wiring) -> Found:
            _main(w, "direct", **_ON_EXCHANGE)
            w.bind("kept", "main", "a")
            w.send([Publish(exchange="main", key="a", body="m")])
            got = {"q": w.take("q"), "kept": w.take("kept")}
            return None if got == once else {"in the queue": got["q"], "in the backup": got["kept"]}

        yield case

    return by_cases(lambda: _routable(_ON_EXCHANGE, once), copied)


#: What keeps a queue from taking a message: name -> arguments of the queue, if any, and what is done to it before.
_FULL: Mapping[str, Json] = {
    "full, drop-head": {"x-max-length": 1, "x-overflow": "drop-head"},
    "full, reject-publish": {"x-max-length": 1, "x-overflow": "reject-publish"},
    "full, reject-publish-dlx": {"x-max-length": 1, "x-overflow": "reject-publish-dlx"},
}
_ABSENT = ("deleted", "not bound")


def _refused(
    kinds: Iterable[str], where: Mapping[str, Json], types: Iterable[str] = ("classic",)
) -> Iterable[Case]:  # fmt: skip
    """A queue that cannot take all of two messages: the one that it has not must be in the backup's queue."""
    for kind, type in ((kind, type) for kind in kinds for type in types):
        if type == "quorum" and kind == "full, reject-publish-dlx":
            continue  # a quorum queue has no such overflow

        def case(w: Wiring, kind: str = kind, type: str = type) -> Found:
            queue = {"x-queue-type": type, **where["queue"], **_FULL.get(kind, {})}
            if kind == "not bound":
                _main(w, "direct", exchange=where["exchange"], queue={})
                key = "b"
            else:
                _main(w, "direct", exchange=where["exchange"], queue=queue)
                key = "a"
            if kind == "deleted":
                w.delete_queue("q")
            answers = [w.send([Publish(exchange="main", key=key, body=body)]).answer for body in _TWO]
            got, kept = {"q": w.take("q")}, list[str]()
            missing = sorted({*_TWO} - {*(got["q"] or ())})
            # Dead letters are on their way when the confirm comes, for some milliseconds.
            with suppress(DeadlineError):
                wait_until(partial(_all_came, w, kept, missing), _ON_THEIR_WAY_S, "messages in the backup")
            if kept == missing and missing:
                return None
            return {
                "the queue is": kind, "queue type": type, "answers": answers, "in the queue": got["q"],
                "in the backup": kept,
            }  # fmt: skip

        yield case


def _all_came(w: Wiring, kept: list[str], missing: list[str]) -> bool:
    kept += w.take("kept") or ()
    return len(kept) >= len(missing)


_ON_THEIR_WAY_S = 1.0
#: The first fills the queue.
_TWO = ("1", "2")


@claim(
    "broker/alternate-when-queue-refuses", revision=1, kind="property",
    sentence="The alternate exchange takes what the main queue cannot receive.",
    source="S2", brokers=_ONE, needs=("exchanges",), control="no alternate exchange anywhere",
)  # fmt: skip
def test_alternate_when_queue_refuses(cell: Cell) -> PropertyExperiment:
    kinds = (*_ABSENT, *_FULL)
    return by_cases(lambda: _refused(kinds, _ON_EXCHANGE), lambda: _refused(kinds, _NOWHERE))


@claim(
    "broker/alternate-when-queue-refuses--no-queue", revision=1, kind="property",
    sentence="The alternate exchange takes what no queue is bound for: the queue was deleted, or is not bound.",
    source="rabbitmq.com/docs/ae", brokers=_ONE, needs=("exchanges",), sharpens="broker/alternate-when-queue-refuses",
    control="no alternate exchange anywhere",
)  # fmt: skip
def test_alternate_no_queue(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _refused(_ABSENT, _ON_EXCHANGE), lambda: _refused(_ABSENT, _NOWHERE))


@claim(
    "broker/alternate-when-queue-refuses--full-dead-letters", revision=1, kind="property",
    sentence="What a full queue drops (drop-head) or refuses (reject-publish-dlx) goes to its dead-letter exchange.",
    source="rabbitmq.com/docs/maxlength, overflow behaviour; rabbitmq.com/docs/dlx", brokers=_ONE, needs=("exchanges",),
    sharpens="broker/alternate-when-queue-refuses", control="x-overflow=reject-publish",
)  # fmt: skip
def test_full_dead_letters(cell: Cell) -> PropertyExperiment:
    kinds = ("full, drop-head", "full, reject-publish-dlx")
    return by_cases(
        lambda: _refused(kinds, _ON_QUEUE, ("classic", "quorum")),
        lambda: _refused(("full, reject-publish",), _ON_QUEUE),
    )


# -- what a restart leaves ---------------------------------------------------------------------------------------------


def _recovered(how: str, *, durable: bool) -> Iterable[Case]:
    """Exchanges of each type, queues, bindings and an alternate exchange: routes before and after a restart are the same."""

    def case(w: Wiring) -> Found:
        w.exchange("fan", "fanout", durable=durable)
        for type, key in (("direct", "a"), ("topic", "a.#"), ("headers", "")):
            w.exchange(type, type, durable=durable, arguments={"alternate-exchange": "@fan"})
            w.queue(f"q-{type}", arguments={"x-queue-type": "classic"})
            w.bind(f"q-{type}", type, key)
        w.queue("q-fan", arguments={"x-queue-type": "quorum"})
        w.bind("q-fan", "fan")
        before = _routes(w)
        w.restart(how)
        exchanges = {name: w.there(name) for name in ("fan", "direct", "topic", "headers")}
        after = _routes(w) if all(exchanges.values()) else {}
        if before == after:
            return None
        return {"exchanges after": exchanges, "routes before": before, "routes after": after}

    yield case


def _routes(w: Wiring) -> dict[str, list[str] | None]:
    """queue -> which of these messages are in it; None: there is no such queue."""
    tries = [
        (e, k) for e, keys in (("direct", "ab"), ("topic", ("a", "a.b", "b")), ("headers", ("x",)), ("fan", ("",))) for k in keys
    ]  # fmt: skip
    for exchange, key in tries:
        w.send([Publish(exchange=exchange, key=key, body=f"{exchange} {key}")])
    return {queue: w.take(queue) for queue in ("q-direct", "q-topic", "q-headers", "q-fan")}


@claim(
    "broker/exchange-binding-recovered", revision=1, kind="property",
    sentence="After a restart durable exchanges, queues and bindings are back, and messages go where they went before.",
    source="S2 S4", brokers={"rabbitmq": ("stop", "kill")}, needs=("exchanges",), control="the exchanges are not durable",
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_exchange_binding_recovered(cell: Cell) -> PropertyExperiment:
    how = cell.own_variant
    return by_cases(lambda: _recovered(how, durable=True), lambda: _recovered(how, durable=False), topology="single")
