"""Section *order*: judged on effects, since each of several consumers may see a tidy sequence while the world does not."""

from __future__ import annotations

from dataclasses import replace

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Receiver, Sender, Workload

ONE = ("",)
#: Milliseconds of work of a quick consumer; of a slow one: ``Configurations.slow_ms``.
QUICK_MS = 1.0


def _arms(cell: Cell) -> tuple[Workload, Workload]:
    """(one consumer, several of unequal speed) on one queue with three keys, no fault."""
    c = configurations(cell.broker)
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    receiver = Receiver(settings=c.ack_after, work_ms=QUICK_MS * c.pace, prefetch=10)
    one = Workload(destinations=(c.ordered_destination,), senders=(sender,), receivers=(receiver,), load_s=3.0 * c.pace)
    over = dict(c.several)
    spread = over.pop("spread", sender.spread)
    partitions = over.pop("partitions", c.ordered_destination.partitions)
    several = replace(
        one,
        destinations=(replace(c.ordered_destination, partitions=partitions),),
        senders=(replace(sender, spread=spread),),
        receivers=tuple(
            replace(receiver, work_ms=ms * c.pace, settings={**receiver.settings, **over})
            for ms in (QUICK_MS, c.slow_ms)
        ),
    )
    return one, several


@claim(
    "order/one-queue-one-consumer", revision=1, kind="promise",
    sentence="One queue with one single-threaded consumer keeps the order of each key.",
    source="S1 S4",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="two consumers of unequal speed",
)  # fmt: skip
def test_one_queue_one_consumer(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=one, control=several)


@claim(
    "order/many-consumers-break", revision=1, kind="hazard",
    sentence="Several consumers on one queue break the order of a key.",
    source="S1",
    brokers={"rabbitmq": ONE, "kafka": ONE, "rocketmq": ONE, "memory": ONE},
    deciding=("effect_out_of_order",), control="one consumer: the safe arm",
)  # fmt: skip
def test_many_consumers_break(cell: Cell) -> Experiment:
    one, several = _arms(cell)
    return Experiment(topology=configurations(cell.broker).topology, treatment=several, control=one)


@claim(
    "order/same-lane", revision=1, kind="promise",
    sentence="Where the messages of one key go to the same queue, several queues with a consumer each keep its order.",
    source="S1", brokers={"memory": ONE},
    deciding=("effect_out_of_order",), control="the queues taken in turn",
)  # fmt: skip
def test_same_lane(cell: Cell) -> Experiment:
    c = configurations(cell.broker)
    # With three keys and two queues, taking the queues in turn sends each key to both.
    sender = Sender(settings=c.ordered_sender, rate_per_s=min(c.rate_per_s, 100.0 / c.pace), keys=3)
    keyed = Workload(
        destinations=(replace(c.ordered_destination, partitions=2),),
        senders=(sender,),
        receivers=tuple(
            Receiver(settings={**c.ack_after, "member": (n, 2)}, work_ms=ms * c.pace, prefetch=10)
            for n, ms in enumerate((QUICK_MS, c.slow_ms))
        ),
        load_s=3.0 * c.pace,
    )
    in_turn = replace(keyed, senders=(replace(sender, spread="round_robin"),))
    return Experiment(topology=c.topology, treatment=keyed, control=in_turn)
