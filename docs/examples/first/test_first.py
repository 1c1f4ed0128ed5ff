"""A first experiment, whole, on the broker in this process: a few seconds, and no container.

pytest docs/examples/first
"""

from __future__ import annotations

import contextlib

from brokerproof.own import experiment
from brokerproof.plan import Destination


class Shop:
    """Puts orders into a queue. confirm: an order is answered once the broker has it; else at once, whatever becomes of it."""

    def __init__(self, memory, *, confirm):
        # The memory broker has no address: its cluster is called.
        self._broker, self._queue, self._confirm = memory.cluster, memory.name("orders"), confirm
        self._broker.create(Destination(name="orders", kind="queue"), self._queue)

    def order(self, number):
        """Answers (returns) once the order is taken. Raises where it is not."""
        up = all(node.state() == "running" for node in self._broker.nodes.values())
        if up:
            self._broker.store(self._queue, 0, str(number).encode())
        elif self._confirm:
            raise ConnectionError("the broker is down")

    def orders(self):
        """What is in the queue."""
        return [int(body) for body in self._broker.lanes[self._queue, 0].log]


@experiment(
    "shop/answered-orders-are-queued", sentence="An order that was answered is in the queue, though the broker is killed.",
    control="the shop answers without waiting for the broker", never=("lost",),
)  # fmt: skip
def test_answered_orders_are_queued(arm, memory, history, faults):
    shop = Shop(memory, confirm=arm.of(treatment=True, control=False))
    with faults("kill", target="all"):
        for number in range(20):
            with contextlib.suppress(ConnectionError), history.sending(number, refused=(ConnectionError,)):
                shop.order(number)
    faults.over()
    for number in range(20, 40):
        with history.sending(number):
            shop.order(number)
    history.world(shop.orders())
