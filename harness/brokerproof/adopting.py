"""What a target can be asked: which experiments fit a cluster that somebody else runs, and how gently they load it.

What does not fit is declared, never tried: the cell is UNSUPPORTED, and the reason says what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brokerproof.brokers.base import adopting
from brokerproof.experiment import ComparisonExperiment, Experiment
from brokerproof.faults.base import plane, spares_nodes
from brokerproof.plan import Plan, Workload
from brokerproof.target import Target

#: Faults of nodes -> what the target file has to give for every node: commands, or a container.
NODE_NEEDS = {
    "kill": ("kill", "start"),
    "crash_loop": ("kill", "start"),
    "stop": (),
    "restart_rolling": (),
    "pause": (),
}
#: Keys of a destination's settings that only a hand on a node can bring about.
_HANDS = ("node", "policy")
#: Settings of a topic that say how many brokers have, or must have, a message.
_COPIES = ("replication.factor", "min.insync.replicas")
_HAND_ON = {"disk": "disks", "clock": "clocks", "resource": "processor and memory", "peer": "network"}
_DESTRUCTIVE = "it breaks the broker itself: allow it with --allow-destructive"


@dataclass(frozen=True, slots=True)
class Adoption:
    """A target, its version as the broker says, and whether its nodes may be broken."""

    target: Target
    version: str
    destructive: bool = False

    @property
    def product(self) -> str:
        return self.target.product

    @property
    def command(self) -> str:
        """What a person types for it."""
        return f"--target {self.target.path}" + (" --allow-destructive" if self.destructive else "")

    def lacks(self, needs: Sequence[str]) -> str:
        """What of these capabilities is not to be had without a hand on the nodes, in a sentence; "" nothing."""
        missing = sorted(set(needs) - adopting(self.product).adopted_capabilities)
        return f"a {self.product} that we did not start has no {', '.join(missing)}" if missing else ""

    def lacking(self, experiment: Any) -> str:
        """Why the experiment does not fit the target, in a sentence; "" it does."""
        if isinstance(experiment, ComparisonExperiment):
            return (
                f"speeds are not compared on a target, whose load is capped at {self.target.messages_per_s:g} messages/s; "
                f"`--broker {self.product}` compares them on one of our own"
            )
        if not isinstance(experiment, Experiment):
            return f"its generated cases want a broker of their own: `--broker {self.product}`"
        settings = {**experiment.settings, **(experiment.control_settings or {})}
        if settings:
            return f"it sets {', '.join(sorted(settings))} of the broker, which a running one is not given by us"
        if experiment.all_equipment:
            return f"it wants nodes started with {', '.join(experiment.all_equipment)}"
        workloads = (experiment.treatment, experiment.control)
        for key in _HANDS:
            if any(key in d.settings for w in workloads for d in w.destinations):
                return f"it sets {key!r} of a queue, which takes a hand on the nodes"
        schedule = (*experiment.schedule, *(experiment.control_schedule or ()))
        reasons = [self.refused(i.fault, experiment.link_groups) for i in schedule]
        return next(filter(None, reasons), "") or self._too_few(experiment)

    def refused(self, fault: str, groups: Sequence[str]) -> str:
        """Why that fault, on links of these client groups where it is one of links, cannot be had; "" it can."""
        of, nodes = plane(fault), self.target.nodes.values()
        if of in ("load", "store", "none"):
            return ""
        if of == "link":
            if fault == "half_open" and self.target.toxiproxy == "local":
                return (
                    "half_open drops packets in the proxy's network, which here is this machine's own, since the proxy is a process "
                    "of it; a container has one of its own: [toxiproxy] as"
                )
            if fault == "half_open" and self.target.on_loopback:
                return (
                    "half_open drops packets in the proxy's network, which here is this machine's own, since a node's address "
                    "is on loopback; give an address that containers reach, too"
                )
            if outside := [g for g in groups if g not in link_groups(self.target)]:
                return (
                    f"{fault} breaks links of {', '.join(outside)}, which do not go through proxies of ours; `brokerproof target "
                    f"check {self.target.path}` says how they can"
                )
            return ""
        if fault not in NODE_NEEDS:
            return (
                f"{fault} takes a hand on the nodes' {_HAND_ON.get(of, 'machines')}, which only nodes of our own give"
            )
        if not self.destructive:
            return f"{fault}: {_DESTRUCTIVE}, and a kill and a start command (or a container) for each node"
        wanted = NODE_NEEDS[fault]
        bare = [n.name for n in nodes if not n.container and not (wanted and all(c in n.commands for c in wanted))]
        if bare:
            gives = " and ".join([*(f'{c} = "…"' for c in wanted)])
            gives = f'{gives}, or container = "…",' if gives else 'container = "…"'
            return f"{fault} of {', '.join(bare)}: the target file gives no way; write {gives} in [nodes.{bare[0]}]"
        return ""

    def within(self, experiment: Any) -> Any:
        """The experiment with no more copies of a message than the target has brokers, where its faults spare the brokers:
        what it decides is the target's own configuration, and the cell says so. Others as they are."""
        if not isinstance(experiment, Experiment) or not all(spares_nodes(i.fault) for i in experiment.schedule):
            return experiment
        return replace(
            experiment, treatment=self._copies(experiment.treatment), control=self._copies(experiment.control)
        )

    def _copies(self, workload: Workload) -> Workload:
        nodes = len(self.target.nodes)

        def fewer(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {k: str(min(int(v), nodes)) if k in _COPIES else v for k, v in settings.items()}

        return replace(
            workload, destinations=tuple(replace(d, settings=fewer(d.settings)) for d in workload.destinations)
        )

    def _too_few(self, experiment: Experiment) -> str:
        """Where faults take brokers away, fewer copies would be another claim."""
        workloads = (experiment.treatment, experiment.control)
        copies = max((int(d.settings.get(k, 0)) for w in workloads for d in w.destinations for k in _COPIES), default=0)
        if copies > len(self.target.nodes) and not all(spares_nodes(i.fault) for i in experiment.schedule):
            return f"it takes brokers away from {copies} copies, and the target file names {len(self.target.nodes)}"
        return ""

    def fitted(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans under the target's prefix and its cap: what all senders that run side by side send in a second."""
        senders = sum(len(p.workload.senders) for p in plans)
        share = self.target.messages_per_s / max(1, senders)
        return [replace(p, namespace=self.target.prefix, workload=slower(p.workload, share)) for p in plans]


def slower(workload: Workload, rate_per_s: float) -> Workload:
    """No sender is faster than that; those that send a number of messages are given the time."""
    senders = tuple(replace(s, rate_per_s=min(s.rate_per_s or rate_per_s, rate_per_s)) for s in workload.senders)
    counted = [s.count / s.rate_per_s for s in senders if s.count is not None and s.rate_per_s]
    load_s = max([workload.load_s, *(round(seconds * 1.1 + 1, 1) for seconds in counted)])
    return replace(workload, senders=senders, load_s=load_s if senders != workload.senders else workload.load_s)


def link_groups(target: Target) -> tuple[str, ...]:
    """Client groups whose connections go through proxies of ours. Kafka's clients go where the brokers tell them: only
    groups whose listener tells them our proxies; RocketMQ's where the gRPC proxy does."""
    if target.product == "rocketmq":
        return ("producer", "consumer", "sham") if target.port_from_request else ()
    if target.product != "kafka":
        return ("producer", "consumer", "sham", "admin")
    groups = [set(node.proxies) for node in target.nodes.values()]
    return tuple(sorted(set.intersection(*groups))) if groups else ()
