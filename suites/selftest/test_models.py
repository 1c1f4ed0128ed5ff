"""The model-based tests: a sound reference peer does as the model, wrong ones are seen, and so does each product itself.

The last are container tests; one of them alone: ``pytest suites/selftest/test_models.py -m container -k "product and groups"``.
"""

from __future__ import annotations

import contextlib
import uuid

import pytest
from hypothesis.errors import FlakyFailure, FlakyStrategyDefinition

from brokerproof.brokers.base import broker as product_of
from brokerproof.conformance import protocols
from brokerproof.conformance.amqp091.machine import Queues
from brokerproof.conformance.amqp091.machine_routing import Routing
from brokerproof.conformance.kafka.machine_groups import Groups
from brokerproof.conformance.kafka.machine_log import Log
from brokerproof.conformance.modelled import Machine, check
from brokerproof.conformance.rocketmq.machine_delay import Delay
from brokerproof.conformance.rocketmq.machine_fifo import Fifo
from brokerproof.conformance.scene import Ground

#: Machine -> (examples, steps) on the sound peer.
MACHINES: dict[type[Machine], tuple[int, int]] = {
    Queues: (15, 30), Routing: (15, 20), Log: (8, 15), Groups: (4, 12), Fifo: (3, 12), Delay: (3, 10),
}  # fmt: skip
WRONG: dict[type[Machine], tuple[str, ...]] = {
    Queues: (
        "drops-redelivered", "requeue-at-tail", "loses-unacked", "purge-all", "wrong-count",
    ),
    Routing: (
        "copy-per-binding", "fanout-by-key", "no-alternate", "no-bindings-between-exchanges", "headers-compares-x",
        "headers-any-is-all", "topic-hash-needs-a-word",
    ),
    Log: ("no-dedup", "retry-new-offset", "deletes-one-less"),
    Groups: ("any-generation", "commits-anyway", "no-rebalance-told"),
    Fifo: ("order_ignored", "never_again", "acks_nothing"),
    Delay: ("delivers_early", "loses_delayed"),
}  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__.lower())
def test_a_sound_peer_does_as_the_model(machine: type[Machine]) -> None:
    examples, steps = MACHINES[machine]
    check(machine, protocols.on_reference(machine.case.protocol), examples=examples, steps=steps, derandomize=True)


@pytest.mark.parametrize(
    ("machine", "mutant"), [(machine, mutant) for machine, mutants in WRONG.items() for mutant in mutants],
    ids=lambda it: it if isinstance(it, str) else it.__name__.lower(),
)  # fmt: skip
def test_a_wrong_peer_is_seen(machine: type[Machine], mutant: str) -> None:
    ground = protocols.on_reference(machine.case.protocol, mutant)
    # What one example shows, or what it showed once and, in a process with threads of its own, not the second time.
    with pytest.raises((AssertionError, FlakyFailure)):
        _checked(machine, ground)


def _checked(machine: type[Machine], ground: Ground) -> None:
    """A peer that was late once takes another way the second time; that alone shows nothing, and is asked again."""
    for _ in range(3):
        with contextlib.suppress(FlakyStrategyDefinition):
            check(machine, ground, examples=150, steps=MACHINES[machine][1], derandomize=True, shrink=False)
            return


def test_the_counter_example_is_a_script_that_shows_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="the low watermark"):
        check(Log, protocols.on_reference("kafka", "deletes-one-less"), examples=30, steps=15, derandomize=True)
    script = capsys.readouterr().out
    assert "state = Log()\n" in script and "state.delete(before=" in script
    with pytest.raises(AssertionError, match="the low watermark"):
        exec(script, {})


@pytest.mark.container
@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.__name__.lower())
def test_the_product_does_as_the_model(machine: type[Machine]) -> None:
    product = next(p for p, protocol in protocols.PROTOCOLS.items() if protocol == machine.case.protocol)
    broker = product_of(product)
    name = f"bpm-{uuid.uuid4().hex[:6]}"
    cluster = broker.start(
        version=broker.versions[0], topology="single", settings={}, name=name, run=name, progress=print
    )  # fmt: skip
    try:
        check(machine, protocols.on_cluster(cluster), examples=MACHINES[machine][0], steps=MACHINES[machine][1])
    finally:
        cluster.close()
