"""Section *faults*: what each fault costs the clients of each broker, measured. Run when asked for: ``--select faults``.

The treatment is the fault, under a steady load of three senders and a consumer, light enough for the consumer to keep up
with on two cores with three brokers on them; the control is a dry run of it (the same
looks and waits, nothing injected), which its evidence has to call ``no_effect``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from brokerproof.brokers.base import configurations
from brokerproof.claims import Decides, claim
from brokerproof.experiment import Cell, Experiment
from brokerproof.faults.base import make
from brokerproof.plan import Injection, Receiver, Sender, Workload

REAL = ("rabbitmq", "kafka", "rocketmq")
EVERY = (*REAL, "memory")
#: Seconds of load before the fault, and after it: a node that was killed is back in some 15 s.
_BEFORE_S, _AFTER_S = 4.0, 8.0
_DRY_S = 0.5
_RATE_PER_S = 12.0


def _measure(
    fault: str, sentence: str, *, target: str = "all", for_s: float = 5.0, after_s: float = _AFTER_S,
    options: Mapping[str, Any] | None = None, by: Mapping[str, Mapping[str, Any]] | None = None,
    brokers: Sequence[str] = EVERY, needs: Sequence[str] = (),
) -> Decides:  # fmt: skip
    """The measurement of one fault. by: what is different on a product (``target``, ``for_s``, ``after_s``, ``options``,
    ``settings`` of the destination)."""

    @claim(
        f"faults/{fault.replace('_', '-')}", revision=1, kind="measurement", sentence=sentence, source="(ours)",
        brokers=dict.fromkeys(brokers, ("",)), control="the injection itself: a dry run", on_request=True,
        needs=needs,
    )  # fmt: skip
    def decide(cell: Cell) -> Experiment:
        how: dict[str, Any] = {"target": target, "for_s": for_s, "after_s": after_s, "options": options or {}}
        how |= (by or {}).get(cell.broker, {})
        c = configurations(cell.broker)
        lanes = replace(
            c.destination, partitions=3 if c.destination.kind == "log" else 1,
            settings={**c.destination.settings, **how.get("settings", {})},
        )  # fmt: skip
        sender = Sender(settings=c.confirmed, rate_per_s=_RATE_PER_S / c.pace, keys=6, timeout_s=4.0 * c.pace)
        load = Workload(
            destinations=(lanes,), senders=(sender,) * 3, receivers=(Receiver(settings=c.ack_after, work_ms=1.0),),
            load_s=c.pace * (_BEFORE_S + how["for_s"] + how["after_s"]),
        )  # fmt: skip
        injection = Injection(
            fault=fault,
            target=how["target"],
            at_s=c.pace * _BEFORE_S,
            for_s=c.pace * how["for_s"],
            options=how["options"],
        )
        return Experiment(
            topology=c.topology, treatment=load, control=replace(load, load_s=c.pace * (_BEFORE_S + 2.0)), sham_s=0.0,
            schedule=(injection,), control_schedule=(replace(injection, at_s=c.pace, for_s=_DRY_S, dry=True),),
            equipment=make(fault, how["options"]).needs, link_groups=("producer", "consumer"),
        )  # fmt: skip

    decide.__name__ = f"test_{fault}"
    return decide


# -- client links ------------------------------------------------------------------------------------------------------

test_link_down = _measure("link_down", "Client links refuse connections and drop those they have, for 5 s.")
test_black_hole = _measure("black_hole", "Client links accept and pass nothing, for 5 s.")
test_half_open = _measure("half_open", "Packets on client links vanish for 5 s, and neither end is told.")
test_stall = _measure("stall", "Client links stand still for 5 s and lose nothing.")
test_reset = _measure("reset", "Client connections are reset, again and again, for 5 s.")
test_latency = _measure("latency", "Client links are slow, for 5 s.")
test_bandwidth = _measure("bandwidth", "Client links are narrow, for 5 s.")
test_slicer = _measure("slicer", "Client links pass one octet at a time, for 5 s.")
test_cut_mid_frame = _measure(
    "cut_mid_frame", "Client connections end in the middle of a request, again and again, for 5 s."
)
test_lost_ack = _measure("lost_ack", "Requests pass and replies are lost, for 5 s.")

# -- nodes -------------------------------------------------------------------------------------------------------------

test_kill = _measure(
    "kill", "The leader is killed, and started again after 5 s.", target="leader", after_s=20.0, brokers=REAL
)
test_stop = _measure(
    "stop", "The leader is stopped in order, and started again after 5 s.", target="leader", after_s=20.0, brokers=REAL
)
test_pause = _measure(
    "pause", "The leader stands still for 5 s and goes on.", target="leader", after_s=15.0, brokers=REAL
)
test_restart_rolling = _measure(
    "restart_rolling", "Each node in turn is stopped and started, the next when the cluster is whole again.", for_s=20.0,
    after_s=15.0, brokers=REAL,
)  # fmt: skip
test_crash_loop = _measure(
    "crash_loop", "The leader is killed three times, while it recovers.", target="leader", after_s=20.0, brokers=REAL
)

# -- links between nodes -----------------------------------------------------------------------------------------------

_PEERS: Any = {"target": "leader", "brokers": REAL, "needs": ("peers",)}
test_partition = _measure(
    "partition", "The leader is cut off from the other nodes, its clients stay attached.", for_s=10.0, after_s=20.0,
    by={"rabbitmq": {"for_s": 45.0}}, **_PEERS,
)  # fmt: skip
test_lossy_link = _measure(
    "lossy_link", "A fifth of the leader's packets to and from its peers is lost, for 10 s.", for_s=10.0, **_PEERS
)
test_slow_link = _measure("slow_link", "The leader's links to its peers are narrow, for 10 s.", for_s=10.0, **_PEERS)

# -- load processes ----------------------------------------------------------------------------------------------------

test_client_kill = _measure("client_kill", "The consumer is killed; another takes over.", target="consumer", for_s=0.5)
test_client_pause = _measure(
    "client_pause", "The consumer stands still for longer than its session or lease, and goes on.", target="consumer",
    for_s=12.0, brokers=REAL,
)  # fmt: skip

# -- disks -------------------------------------------------------------------------------------------------------------

_DISKS: Any = {"target": "leader", "brokers": REAL}
test_power_cut = _measure(
    "power_cut",
    "The leader loses its power and what it had not synced; it comes back on its disk.",
    after_s=20.0,
    **_DISKS,
)
test_disk_full = _measure("disk_full", "The leader's disk is full for 5 s.", after_s=15.0, **_DISKS)
test_disk_slow = _measure("disk_slow", "The leader's disk is slow for 5 s.", **_DISKS)
test_read_only = _measure("read_only", "The leader's file system is read-only for 5 s.", after_s=20.0, **_DISKS)
test_torn_write = _measure(
    "torn_write", "The end of what the leader wrote last is torn while it is down.", after_s=20.0,
    # Left to itself Kafka syncs so rarely that a cut leaves nothing that could be torn.
    by={"kafka": {"settings": {"flush.messages": "1"}}}, **_DISKS,
)  # fmt: skip
test_bit_flip = _measure(
    "bit_flip", "A bit of what the leader wrote last is wrong when it comes back.", after_s=20.0, **_DISKS
)

# -- clocks, memory, processor -----------------------------------------------------------------------------------------

_NODES: Any = {"target": "leader", "brokers": REAL}
test_clock_jump = _measure("clock_jump", "The leader's clock is five minutes ahead for 5 s.", **_NODES)
test_clock_skew = _measure(
    "clock_skew", "The leader's clock runs at one and a half times its speed, for 5 s.", **_NODES
)
test_memory_pressure = _measure("memory_pressure", "The leader is short of memory for 5 s.", after_s=15.0, **_NODES)
test_cpu_starve = _measure("cpu_starve", "The leader has a tenth of a core for 5 s.", after_s=15.0, **_NODES)
