"""Sections *broker*, *producer*, *consumer*: what is said of RocketMQ alone.

Between a client and the brokers stands the gRPC proxy, which is a client of theirs: it keeps the routes (looked up again every
20 s), and the harness breaks nodes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from brokerproof.brokers.base import configurations
from brokerproof.cases import over
from brokerproof.claims import claim
from brokerproof.experiment import Cell, Experiment, PropertyExperiment
from brokerproof.plan import Destination, Injection, Receiver, Sender, Workload

_PROFILES = ("standard", "thorough")
_ONE = ("",)
_C = configurations("rocketmq")
#: So few that what piles up in an outage is sent again in a few seconds.
_RATE_PER_S = 30.0
#: The proxy goes on with a route for 20 s after it has changed; some more for what has to be noticed before that.
_TAKE_OVER_S = 36.0


# -- master and slave --------------------------------------------------------------------------------------------------


def _master_dies(topology: str, settings: Mapping[str, Any]) -> Experiment:
    """The master dies and stays dead; what was not acknowledged is sent again until the load ends, and some time longer.

    The final read is of whoever is the master then, or else of the slave. A slave that only learns is no candidate."""
    sender = Sender(settings=_C.confirmed, rate_per_s=_RATE_PER_S, resend=True, timeout_s=14.0)
    arm = Workload(destinations=(_C.destination,), senders=(sender,), load_s=_TAKE_OVER_S)
    return Experiment(
        topology=topology, treatment=arm, control=arm, settings=settings,
        control_settings={**settings, "asyncLearner": True},
        schedule=(Injection(fault="kill", target="leader", at_s=2.0, for_s=_TAKE_OVER_S - 2.0, until_read=True),),
    )  # fmt: skip


@claim(
    "broker/rocketmq-slave-takes-over", revision=1, kind="promise",
    sentence="When the master dies, a slave takes over by itself: sends succeed again.",
    source="S2",
    brokers={"rocketmq": ("master-slave", "controller")},
    deciding=("given_up",), control="a slave that may not be elected: it only learns (asyncLearner)", needs=("slave",),
    profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_slave_takes_over(cell: Cell) -> Experiment:
    return _master_dies(cell.own_variant, {})


@claim(
    "broker/rocketmq-slave-takes-over--controller", revision=1, kind="promise",
    sentence="With a controller, and with every in-sync replica acknowledging, a slave takes over by itself when the master "
    "dies, and nothing acknowledged is lost.",
    source="(ours); apache/rocketmq, docs/en/controller/deploy.md: allAckInSyncStateSet",
    sharpens="broker/rocketmq-slave-takes-over", brokers={"rocketmq": ("controller",)},
    deciding=("given_up", "lost"), control="a slave that may not be elected: it only learns (asyncLearner)",
    needs=("slave",), profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_slave_takes_over_with_a_controller(cell: Cell) -> Experiment:
    return _master_dies("controller", {"allAckInSyncStateSet": True})


@claim(
    "broker/rocketmq-sync-replication--in-sync-set", revision=1, kind="promise",
    sentence="With a controller, and with every in-sync replica acknowledging, the loss of a master that was cut off from its "
    "slave loses nothing.",
    source="(ours); apache/rocketmq, docs/en/controller/deploy.md: allAckInSyncStateSet",
    sharpens="broker/rocketmq-sync-replication", brokers={"rocketmq": ("controller",)},
    deciding=("lost",), control="the master acknowledges alone, the default", needs=("peers", "slave"), profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_sync_replication_in_sync_set(cell: Cell) -> Experiment:
    sender = Sender(settings=_C.confirmed, rate_per_s=_RATE_PER_S, timeout_s=6.0)
    arm = Workload(destinations=(_C.destination,), senders=(sender,), load_s=30.0)
    return Experiment(
        topology="controller", treatment=arm, control=arm, settings={"allAckInSyncStateSet": True}, control_settings={},
        schedule=(
            Injection(fault="partition", target="leader", at_s=1.0, for_s=5.0),
            Injection(fault="kill", target="leader", at_s=5.5, for_s=24.5, until_read=True),
        ),
    )  # fmt: skip


# -- name servers ------------------------------------------------------------------------------------------------------


@claim(
    "broker/rocketmq-nameserver-loss", revision=1, kind="promise",
    sentence="With every name server gone, running clients go on.",
    source="(ours)",
    brokers={"rocketmq": ("running", "new-consumer")},
    deciding=("given_up", "effect_lost"), control="the broker is gone instead, for 15 s", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_nameserver_loss(cell: Cell) -> Experiment:
    # Two of the proxy's looks at the routes, and one or two of the brokers' heartbeats, come to nothing.
    load_s = 50.0
    arm = Workload(
        destinations=(_C.destination,),
        senders=(Sender(settings=_C.confirmed, rate_per_s=_RATE_PER_S, timeout_s=10.0),),
        receivers=(Receiver(settings=_C.ack_after, work_ms=0.0),),
        load_s=load_s,
    )
    gone = Injection(fault="kill", target="ns", at_s=2.0, for_s=load_s - 2.0, until_read=True)
    new = Injection(fault="client_kill", target="consumer", at_s=30.0, for_s=1.0)
    return Experiment(
        topology="single", treatment=arm, control=replace(arm, load_s=25.0),
        schedule=(gone, new) if cell.own_variant == "new-consumer" else (gone,),
        control_schedule=(Injection(fault="kill", target="leader", at_s=2.0, for_s=15.0),),
        link_groups=("producer", "consumer"),
    )  # fmt: skip


# -- means against loss ------------------------------------------------------------------------------------------------

_CUT = Injection(fault="power_cut", target="all", at_s=4.0, for_s=2.0)
#: Every 500 ms by default: one cut in thirty would come right after a flush, and lose nothing.
_RARELY = {"flushDiskType": "ASYNC_FLUSH", "flushIntervalCommitLog": 5000}
#: Variant -> the topic's type, and what the sender has to be told besides.
_TYPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "fifo": ("FIFO", {}),
    "delay": ("DELAY", {"delay_s": 2}),
    "transaction": ("TRANSACTION", {"send": "transaction"}),
}


#: A commit that the cut takes is made up for: the broker asks the producer what became of the half message. By default it does so 6 s
#: after it and every 30 s; the producer has to be there then. Source: BrokerConfig.java, transactionTimeOut, transactionCheckInterval.
_ASKS_SOON = {"transactionTimeOut": 3000, "transactionCheckInterval": 3000}


#: The time-out, the interval, and as much again for a look that has just been.
_ASKED_S = 10.0
#: Sends are refused for as long as the proxy keeps what it took in while no broker was there: TOPIC_NOT_FOUND, then
#: MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, more than 28 s together after a cut.
_TYPE_KNOWN_S = 60.0


def _typed(
    message_type: str, settings: Mapping[str, Any], *, received: bool, load_s: float = 9.0, heard_s: float = 0.0
) -> Workload:
    """received: somebody waits for the messages, so that none is looked for before it is due."""
    destination = Destination(name="t", kind="queue", settings={"message.type": message_type})
    sender = Sender(settings={**_C.confirmed, **settings}, rate_per_s=100.0, keys=50, timeout_s=6.0)
    receivers = (Receiver(settings=_C.ack_after, work_ms=0.0),) if received else ()
    return Workload(destinations=(destination,), senders=(sender,), receivers=receivers, load_s=load_s, heard_s=heard_s)


@claim(
    "broker/rocketmq-special-types-lose-none", revision=1, kind="promise",
    sentence="Ordered, delayed and transactional messages are means against loss: a power cut takes none of them.",
    source="S2",
    brokers={"rocketmq": tuple(_TYPES)},
    deciding=("lost",), control="normal messages", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_special_types(cell: Cell) -> Experiment:
    kind, settings = _TYPES[cell.own_variant]
    received = kind != "FIFO"
    return Experiment(
        topology="single", schedule=(_CUT,), equipment=("disk",),
        treatment=_typed(kind, settings, received=received), control=_typed("NORMAL", {}, received=received),
    )  # fmt: skip


@claim(
    "broker/rocketmq-special-types-lose-none--synchronous-flush", revision=4, kind="promise",
    sentence="Ordered, delayed and transactional messages are lost by a power cut as others are, and with synchronous flush "
    "they are not lost, as others are not.",
    source="(ours)", sharpens="broker/rocketmq-special-types-lose-none",
    brokers={"rocketmq": tuple(_TYPES)},
    deciding=("lost",), control="the same type with asynchronous flush, every 5 s", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_special_types_synchronous_flush(cell: Cell) -> Experiment:
    kind, settings = _TYPES[cell.own_variant]
    asked = kind == "TRANSACTION"
    arm = _typed(
        kind, settings, received=kind != "FIFO", load_s=9.0 + (_TYPE_KNOWN_S + _ASKED_S if asked else 0.0),
        heard_s=_ASKED_S if asked else 0.0,
    )  # fmt: skip
    besides = _ASKS_SOON if asked else {}
    return Experiment(
        topology="single", schedule=(_CUT,), equipment=("disk",), treatment=arm, control=arm,
        settings={"flushDiskType": "SYNC_FLUSH", **besides}, control_settings={**_RARELY, **besides}, sham_s=0.0,
    )  # fmt: skip


# -- memory and disk ---------------------------------------------------------------------------------------------------


def _crashed() -> Workload:
    sender = Sender(settings=_C.confirmed, rate_per_s=_C.rate_per_s, timeout_s=6.0)
    return Workload(destinations=(_C.destination,), senders=(sender,), load_s=9.0)


@claim(
    "broker/rocketmq-double-write", revision=1, kind="measurement",
    sentence="Each message is in memory and on disk, flushed asynchronously by default (every 500 ms), so that a crash loses as "
    "little as can be: how much that is.",
    source="S2",
    brokers={"rocketmq": ("kill", "power-cut")},
    control="the injection itself: a dry run", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_double_write(cell: Cell) -> Experiment:
    fault = cell.own_variant.replace("-", "_")
    crash = replace(_CUT, fault=fault)
    return Experiment(
        topology="single", treatment=_crashed(), control=_crashed(), sham_s=0.0, schedule=(crash,), equipment=("disk",),
        control_schedule=(replace(crash, for_s=0.5, dry=True),),
    )  # fmt: skip


@claim(
    "broker/rocketmq-double-write--process-death", revision=1, kind="promise",
    sentence="With asynchronous flush, the death of the broker's process alone loses nothing: what it acknowledged is in the "
    "page cache, which is the kernel's.",
    source="(ours); MappedFile.java: the commit log is a mapped file", sharpens="broker/rocketmq-double-write",
    brokers={"rocketmq": _ONE},
    deciding=("lost",), control="the power is cut instead", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_process_death(cell: Cell) -> Experiment:
    return Experiment(
        topology="single", treatment=_crashed(), control=_crashed(), settings=_RARELY, equipment=("disk",),
        schedule=(replace(_CUT, fault="kill"),), control_schedule=(_CUT,),
    )  # fmt: skip


# -- producer and consumer ---------------------------------------------------------------------------------------------

#: Three attempts of 3 s each are over in 9 s: what is cut for 4 s is rescued by the second or third, 14 s are too long. A
#: broker that is dead answers at once, through the proxy, and three attempts are over in no time.
_AWAY: Mapping[str, tuple[Injection, float]] = {
    "short-cut": (Injection(fault="black_hole", target="all", at_s=2.0, for_s=4.0), 12.0),
    "long-cut": (Injection(fault="black_hole", target="all", at_s=2.0, for_s=14.0), 20.0),
    "kill": (Injection(fault="kill", target="all", at_s=2.0, for_s=4.0), 25.0),
}


def _retried(cell: Cell, treatment: Sender) -> Experiment:
    fault, load_s = _AWAY[cell.own_variant]
    once = Sender(settings={**_C.confirmed, "attempts": 1})
    arms = [
        Workload(
            destinations=(_C.destination,), load_s=load_s,
            senders=(replace(sender, rate_per_s=_RATE_PER_S, timeout_s=15.0),),
        )
        for sender in (treatment, once)
    ]  # fmt: skip
    return Experiment(topology="single", schedule=(fault,), treatment=arms[0], control=arms[1])


@claim(
    "producer/rocketmq-ack-retry", revision=1, kind="promise",
    sentence="A send is retried until it is acknowledged, so none is lost: by the library, with its default of three attempts.",
    source="S2",
    brokers={"rocketmq": tuple(_AWAY)},
    deciding=("given_up", "lost"), control="one attempt", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_ack_retry(cell: Cell) -> Experiment:
    return _retried(cell, Sender(settings=_C.confirmed))


@claim(
    "producer/rocketmq-ack-retry--by-the-application", revision=1, kind="promise",
    sentence="A send that the application repeats until it is acknowledged is not lost, however long that takes.",
    source="(ours)", sharpens="producer/rocketmq-ack-retry",
    brokers={"rocketmq": ("long-cut", "kill")},
    deciding=("given_up", "lost"), control="one attempt", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_ack_retry_by_the_application(cell: Cell) -> Experiment:
    return _retried(cell, Sender(settings=_C.confirmed, resend=True))


@claim(
    "consumer/rocketmq-pull--unacknowledged", revision=1, kind="promise",
    sentence="What a consumer pulled and did not acknowledge is not lost when it dies: another one pulls it again.",
    source="S2 S3", sharpens="consumer/rocketmq-pull",
    brokers={"rocketmq": _ONE},
    deciding=("effect_lost", "settled_but_lost"), control="acknowledged before the work, and dead right after that",
    profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_pull_unacknowledged(cell: Cell) -> Experiment:
    def arm(settings: Mapping[str, Any]) -> Workload:
        return Workload(
            destinations=(_C.destination,),
            senders=(Sender(settings=_C.confirmed, rate_per_s=_RATE_PER_S, count=120, timeout_s=10.0),),
            receivers=(Receiver(settings=settings, work_ms=20.0),),
            load_s=12.0,
        )

    def death(step: str) -> tuple[Injection, ...]:
        options = {"step": step}
        return (Injection(fault="client_kill", target="consumer", at_s=2.0, for_s=2.0, options=options),)

    return Experiment(
        topology="single", treatment=arm(_C.ack_after), control=arm(_C.ack_first), schedule=death("receive"),
        control_schedule=death("ack"), link_groups=("consumer",),
    )  # fmt: skip


# -- routes, heartbeats, pulls: looked at, case by case ----------------------------------------------------------------
# What looks is imported where it is used: it brings the engine and the client library with it.


#: Name servers expect a sign of life within 120 s, and look every 5 s. Source: RouteInfoManager.java.
_EXPIRED_S = 140.0


def _beats_every(broker: str, period_s: float, for_s: float) -> Callable[[Any], Mapping[str, Any] | None]:
    """Three heartbeats or more with every name server, so far apart; a tenth is for a busy machine."""

    def case(cluster: Any) -> Mapping[str, Any] | None:
        from brokerproof.brokers.rocketmq import routes

        gaps = routes.gaps_over(cluster, broker, for_s)
        fits = all(
            len(those) >= 2 and all(abs(gap - period_s) <= period_s / 10 for gap in those) for those in gaps.values()
        )
        return None if fits else {"broker": broker, "seconds between registrations, by name server": gaps}

    return case


@claim(
    "broker/rocketmq-heartbeat-30s", revision=1, kind="property",
    sentence="A broker registers with every name server, and again every 30 s.",
    source="S3",
    brokers={"rocketmq": _ONE}, control="the other broker, which is told to register every 10 s", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_heartbeat(cell: Cell) -> PropertyExperiment:
    return PropertyExperiment(
        topology="two-masters", settings={"b2.registerNameServerPeriod": 10_000},
        check=over(lambda: [_beats_every("b1", 30.0, for_s=100.0)]),
        control=over(lambda: [_beats_every("b2", 30.0, for_s=45.0)]),
    )  # fmt: skip


def _gone(limit_s: float, **what: str) -> Callable[[Any], Mapping[str, Any] | None]:
    def case(cluster: Any) -> Mapping[str, Any] | None:
        from brokerproof.brokers.rocketmq import routes

        after = routes.gone_after(cluster, what, limit_s)
        late = {f"{broker}, {what[broker]}": "still there" for broker, at_s in after.items() if at_s is None}
        return {"routes lead to": late, "after seconds": limit_s} if late else None

    return case


@claim(
    "broker/rocketmq-heartbeat-30s--gone-from-routes", revision=1, kind="property",
    sentence="A dead broker disappears from the routes: at once when its process dies, and within 140 s when it is frozen, or cut "
    "off from the name servers.",
    source="(ours); RouteInfoManager.java: 120 s without a sign of life", sharpens="broker/rocketmq-heartbeat-30s",
    brokers={"rocketmq": _ONE}, control="a broker that lives", needs=("peers",), profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_gone_from_routes(cell: Cell) -> PropertyExperiment:
    return PropertyExperiment(
        topology="two-masters", check=over(lambda: [_gone(10.0, b1="kill"), _gone(_EXPIRED_S, b1="pause", b2="partition")]),
        control=over(lambda: [_gone(10.0, b1="nothing")]),
    )  # fmt: skip


@claim(
    "broker/rocketmq-nameserver-loss--new-clients", revision=1, kind="property",
    sentence="A client that starts while every name server is gone cannot go on: it has no routes. (The client is the gRPC "
    "proxy.)",
    source="(ours)", sharpens="broker/rocketmq-nameserver-loss",
    brokers={"rocketmq": _ONE}, control="the same start with the name server there", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_nameserver_loss_new_clients(cell: Cell) -> PropertyExperiment:
    def starts(*, down: bool) -> Callable[[Any], Mapping[str, Any] | None]:
        def case(cluster: Any) -> Mapping[str, Any] | None:
            from brokerproof.brokers.rocketmq import routes

            passed_s = routes.starts_without_routes(cluster, 40.0, name_servers_down=down)
            return None if passed_s is None else {"a message passed after s": passed_s}

        return case

    return PropertyExperiment(
        topology="single", check=over(lambda: [starts(down=True)]), control=over(lambda: [starts(down=False)])
    )  # fmt: skip


def _even(**given: Any) -> Callable[[Any], Mapping[str, Any] | None]:
    """No queue has less than half, or more than twice, its share."""

    def case(cluster: Any) -> Mapping[str, Any] | None:
        from brokerproof.brokers.rocketmq import routes

        counts = routes.spread(cluster, messages=_SPREAD, **given)
        share = _SPREAD / sum(len(queues) for queues in counts.values())
        fits = all(share / 2 <= n <= share * 2 for queues in counts.values() for n in queues)
        return None if fits else {**given, "messages by queue": counts}

    return case


def _connected(cluster: Any) -> Mapping[str, Any] | None:
    from brokerproof.brokers.rocketmq import routes

    found = {broker: routes.connections(cluster, broker) for broker in cluster.brokers}
    fits = all(n >= 1 for there in found.values() for n in there.values())
    return None if fits else {"connections to name servers": found}


_SPREAD = 160


@claim(
    "broker/rocketmq-route-balance", revision=1, kind="property",
    sentence="Brokers hold connections to all name servers; clients take the routes from them, and sends are balanced over "
    "brokers and queues, with a name server gone, and over those that are left with a broker gone.",
    source="S3",
    brokers={"rocketmq": _ONE}, control="one message group of an ordered topic", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_route_balance(cell: Cell) -> PropertyExperiment:
    return PropertyExperiment(
        topology="two-masters",
        check=over(
            lambda: [_connected, _even(), _even(down=("ns2",), patience_s=25.0), _even(down=("b2",), patience_s=45.0)]
        ),
        control=over(lambda: [_even(ordered=True)]),
    )  # fmt: skip


@claim(
    "consumer/rocketmq-pull", revision=1, kind="property",
    sentence="The consumer pulls: a message comes to it when it has asked, and does not come when it has not.",
    source="S2 S3",
    brokers={"rocketmq": _ONE}, control="a consumer whose request waits at the broker", profiles=_PROFILES,
)  # fmt: skip
def test_rocketmq_pull(cell: Cell) -> PropertyExperiment:
    def unasked(*, asked: bool) -> Callable[[Any], Mapping[str, Any] | None]:
        def case(cluster: Any) -> Mapping[str, Any] | None:
            from brokerproof.brokers.rocketmq import pulling

            came_s = pulling.comes(cluster, asked=asked, within_s=5.0)
            return None if came_s is None else {"the message was on the wire after s": came_s}

        return case

    return PropertyExperiment(
        topology="single", check=over(lambda: [unasked(asked=False)]), control=over(lambda: [unasked(asked=True)])
    )  # fmt: skip
