"""The experiment that claims about doubled effects share: a consumer dies within its work, and another gets the messages again."""

from __future__ import annotations

from collections.abc import Sequence

from brokerproof.brokers.base import configurations
from brokerproof.experiment import Cell, Experiment
from brokerproof.plan import Injection, Json, Receiver, Sender, Workload


def killed_consumer(
    cell: Cell, treatment: Json, control: Json, *, control_ack: Json | None = None, step: str = "effect", for_s: float = 0.5,
    then: Sequence[Injection] = (),
) -> Experiment:  # fmt: skip
    """Treatment and control differ in the effect, or where ``control_ack`` is given in the acknowledgement.

    step: where in its work it dies.  for_s: until another takes its place.  then: what happens after it died.
    """
    c = configurations(cell.broker)

    def arm(effect: Json, ack: Json) -> Workload:
        # Messages come faster than they are worked off, so that the kill finds one in hand and more behind it.
        return Workload(
            destinations=(c.destination,), senders=(Sender(settings=c.confirmed, rate_per_s=50.0, count=60),),
            receivers=(Receiver(settings=ack, work_ms=25.0, prefetch=20, effect=effect),), load_s=3.0,
        )  # fmt: skip

    kill = Injection(fault="client_kill", target="consumer", at_s=1.2, for_s=for_s, options={"step": step})
    return Experiment(
        # Three copies of a topic need three nodes.
        topology=c.topology if cell.broker == "kafka" else "single",
        treatment=arm(treatment, c.ack_after), control=arm(control, control_ack or c.ack_after),
        schedule=(kill, *then), link_groups=("consumer",), sham_s=2.0,
    )  # fmt: skip
