"""Section *producer*: what a publisher confirm says, and what the broker answers when it does not take a message.

Decided over cases, see ``brokerproof.cases``: the frames on the channel, and what is in the queues at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

from brokerproof.brokers.base import Publish, Sent, Wiring
from brokerproof.cases import Case, Found, by_cases
from brokerproof.claims import claim
from brokerproof.confirms import misnumbered
from brokerproof.experiment import Cell, PropertyExperiment

_ONE = {"rabbitmq": ("",)}


# -- numbers -----------------------------------------------------------------------------------------------------------


#: How many messages are sent before the first confirm is read.
_PIPELINED = (1, 2, 17, 500)


def _numbered(*, confirm: bool) -> Iterable[Case]:
    """Pipelines of each length, again and again over channels that are opened one after the other on one connection: to a
    classic and a quorum queue, transient and persistent, some of them unroutable."""
    for types in (("classic",), ("quorum",), ("classic", "quorum")):

        def case(w: Wiring, types: tuple[str, ...] = types) -> Found:
            w.exchange("x", "direct")
            for n, type in enumerate(types):
                w.queue(f"q{n}", arguments={"x-queue-type": type})
                w.bind(f"q{n}", "x", "a")
            for channel, length in enumerate((*_PIPELINED, *_PIPELINED)):
                messages = [
                    Publish(
                        exchange="x", key="nobody" if n % 7 == 3 else "a", body=str(n), persistent=n % 2 == 0, mandatory=n % 3 == 0,
                    )
                    for n in range(length)
                ]  # fmt: skip
                sent = w.send(messages, confirm=confirm)
                wrong = misnumbered(sent.confirms, length)
                if wrong:
                    return {
                        "queues": list(types), "channel": channel, "messages": length,
                        "answered so often": {str(n): times for n, times in list(wrong.items())[:5]},
                    }  # fmt: skip
            return None

        yield case


@claim(
    "producer/confirm-unique-number", revision=1, kind="property",
    sentence="Every message on a confirm channel has a number of its own, counted from 1, and gets exactly one confirm, "
    "its own or as one of multiple.",
    source="S0 S1 S4; rabbitmq.com/docs/confirms", brokers=_ONE, control="the channel is not in confirm mode",
    needs=("confirm",),
)  # fmt: skip
def test_confirm_unique_number(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _numbered(confirm=True), lambda: _numbered(confirm=False))


# -- where a confirmed message is --------------------------------------------------------------------------------------


def _in_queues(routed: Iterable[bool], *, key: str = "a") -> Iterable[Case]:
    """At the moment of its confirm a message is in every queue that is bound for it: in one at least, and asked from
    another connection."""
    for is_routed in routed:
        for mandatory in (False, True):
            for persistent in (True, False):
                for types in (("classic",), ("quorum",), ("classic", "quorum")):

                    def case(
                        w: Wiring, is_routed: bool = is_routed, mandatory: bool = mandatory,
                        persistent: bool = persistent, types: tuple[str, ...] = types,
                    ) -> Found:  # fmt: skip
                        w.exchange("x", "direct")
                        for n, type in enumerate(types):
                            w.queue(f"q{n}", arguments={"x-queue-type": type})
                            w.bind(f"q{n}", "x", "a")
                        message = Publish(
                            exchange="x", key=key if is_routed else "nobody", body="m", persistent=persistent, mandatory=mandatory,
                        )  # fmt: skip
                        sent = w.send([message])
                        got = {type: w.take(f"q{n}") for n, type in enumerate(types)}
                        if not _acked(sent) or all(bodies == ["m"] for bodies in got.values()):
                            return None
                        return {
                            "routable": is_routed, "mandatory": mandatory, "persistent": persistent, "answer": sent.answer,
                            "in the queues": got,
                        }  # fmt: skip

                    yield case


def _acked(sent: Sent) -> bool:
    return any(frame.word == "ack" for frame in sent.confirms)


@claim(
    "producer/confirm-means-in-queue", revision=1, kind="property",
    sentence="When the confirm comes, the message is in its target queues.",
    source="S2 S4", brokers=_ONE, control="a binding that does not match: in no queue", needs=("confirm",),
)  # fmt: skip
def test_confirm_means_in_queue(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _in_queues((True, False)), lambda: _in_queues((True,), key="other"))


@claim(
    "producer/confirm-means-in-queue--routable", revision=1, kind="property",
    sentence="When the confirm of a message comes that was not returned as unroutable (mandatory), it is in all queues that "
    "are bound for it.",
    source="rabbitmq.com/docs/confirms, when are published messages confirmed", brokers=_ONE,
    sharpens="producer/confirm-means-in-queue", control="a binding that does not match: in no queue", needs=("confirm",),
)  # fmt: skip
def test_confirm_means_in_queue_routable(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _in_queues((True,)), lambda: _in_queues((True,), key="other"))


# -- what a broker answers that does not take a message ----------------------------------------------------------------


#: What keeps a broker from taking a message -> arguments of the queue, where it is the queue's.
_FULL = {
    "full, reject-publish": {"x-max-length": 1, "x-overflow": "reject-publish"},
    "no room, drop-head": {"x-max-length-bytes": 1, "x-overflow": "drop-head"},
}
_NO_MAJORITY = "no majority"
_MESSAGES = tuple(str(n) for n in range(6))


def _untaken(w: Wiring, name: str, kind: str, type: str) -> dict[str, str]:
    """Body -> answer, of messages that are in no queue after it."""
    x, q = f"x-{name}", f"q-{name}"
    w.exchange(x, "direct")
    w.queue(q, arguments={"x-queue-type": type, **_FULL.get(kind, {})})
    w.bind(q, x, "a")
    exchange = f"{x}-missing" if kind == "no such exchange" else x
    key = "nobody" if kind.startswith("no queue") else "a"

    def answer(body: str) -> str:
        return w.send([Publish(exchange=exchange, key=key, body=body, mandatory=kind.endswith("mandatory"))]).answer

    trouble = {"memory alarm": w.memory_alarm, _NO_MAJORITY: w.minority}.get(kind, nullcontext)
    with trouble():
        answers = {body: answer(body) for body in (_MESSAGES if kind in _FULL else _MESSAGES[:1])}
        # Without a majority nobody could look into the queue, and nothing is in it.
        taken = () if kind == _NO_MAJORITY else w.take(q) or ()
    return {body: said for body, said in answers.items() if body not in taken}


def _nacked(kinds: Sequence[str]) -> Iterable[Case]:
    """A message that the broker does not take is answered by a nack."""

    def case(w: Wiring) -> Found:
        silent = {}
        for n, (kind, type) in enumerate((kind, type) for kind in kinds for type in ("classic", "quorum")):
            if kind == _NO_MAJORITY and type != "quorum":
                continue
            untaken = _untaken(w, str(n), kind, type)
            if not untaken:
                return {"nothing was refused by a queue that is": kind, "queue type": type}
            without = sorted({said for said in untaken.values() if said != "nack"})
            if without:
                silent[f"{kind}, {type}"] = without
        return {"not taken, and answered with": silent} if silent else None

    yield case


@claim(
    "producer/nack-is-reported", revision=1, kind="property",
    sentence="If the broker cannot take a message, the producer gets a nack.",
    source="S0 S1 S2 S4", brokers=_ONE, control="a message that no queue is bound for", needs=("confirm", "three_nodes"),
    profiles=("standard", "thorough"),
)  # fmt: skip
def test_nack_is_reported(cell: Cell) -> PropertyExperiment:
    kinds = (
        "full, reject-publish", "no queue", "no queue, mandatory", "no such exchange", "no room, drop-head", "memory alarm",
        _NO_MAJORITY,
    )  # fmt: skip
    return by_cases(lambda: _nacked(kinds), lambda: _nacked(("no queue",)))


@claim(
    "producer/nack-is-reported--reject-publish", revision=1, kind="property",
    sentence="If the only queue of a message is full and set to reject-publish, the producer gets a nack.",
    source="rabbitmq.com/docs/maxlength, overflow behaviour", brokers=_ONE, sharpens="producer/nack-is-reported",
    control="x-overflow=drop-head", needs=("confirm",),
)  # fmt: skip
def test_nack_reject_publish(cell: Cell) -> PropertyExperiment:
    return by_cases(lambda: _nacked(("full, reject-publish",)), lambda: _nacked(("no room, drop-head",)))
