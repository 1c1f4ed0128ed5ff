"""Section *cluster*: RabbitMQ on three nodes."""

from __future__ import annotations

from brokerproof.brokers.base import configurations
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Sender, Workload


@claim(
    "cluster/quorum-survives", revision=1, kind="promise",
    sentence="A quorum queue loses nothing confirmed while a majority lives, whatever is cut.",
    source="(ours); rabbitmq.com/docs/quorum-queues, data safety",
    brokers={"rabbitmq": ("isolate-leader",)},
    deciding=("lost",), control="no confirm: what the isolated leader was sent counts as taken", needs=("peers", "leader"),
)  # fmt: skip
def test_quorum_survives(cell: Cell) -> Experiment:
    c = configurations(cell.broker)

    def arm(settings: object) -> Workload:
        sender = Sender(settings=settings, rate_per_s=c.rate_per_s, timeout_s=10.0)  # type: ignore[arg-type]
        return Workload(destinations=(c.destination,), senders=(sender,), load_s=47.0)

    return Experiment(
        topology=c.topology, treatment=arm(c.confirmed), control=arm(c.unconfirmed),
        # Longer than the isolated node needs to notice (net_ticktime 15 s, so up to 20 s) and to pause itself: healed
        # before, it would send on what its channels still hold, and nothing would tell the arms apart.
        schedule=(Injection(fault="partition", target="leader", at_s=1.0, for_s=45.0),),
    )  # fmt: skip
