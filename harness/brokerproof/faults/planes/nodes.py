"""Faults of nodes, and which nodes a role means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event
from typing import Any

from brokerproof.brokers.base import Node
from brokerproof.errors import DeadlineError, HarnessError, PlanError, unknown
from brokerproof.faults.base import Plane, Probe, Scene
from brokerproof.waiting import wait_until

#: How long a destination may be without a leader before a role cannot be resolved.
LEADER_S = 20.0


class NodeFault:
    """A fault of nodes. Targets: ``leader``, ``replica``, ``all``, ``one``, ``minority``, ``majority``, or a node's name."""

    plane: Plane = "node"
    #: The engine's word for a node that this fault has hit.
    hit = "exited"
    #: The states in which a node can be hit. One that another fault holds down already is left to that fault.
    hits: tuple[str, ...] = ("running",)

    def break_(self, node: Node) -> None:
        raise NotImplementedError

    def mend(self, node: Node) -> None:
        revive(node)

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return resolve_nodes(scene, target)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [node for node in map(scene.cluster.nodes.__getitem__, targets) if node.state() in self.hits]
        try:
            # All at once, as near as the engine allows: one after the other is another fault (rolling).
            with ThreadPoolExecutor(max(1, len(nodes))) as pool:
                list(pool.map(self.break_, nodes))
            yield
        finally:
            for node in nodes:
                self.mend(node)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        states = {name: scene.cluster.nodes[name].state() for name in targets}
        said = "; ".join(f"{name}: {state}" for name, state in states.items())
        if all(state == self.hit for state in states.values()):
            return Probe(True, said)
        return Probe(False if all(state == "running" for state in states.values()) else None, said)


class LastingNodeFault(NodeFault):
    """A fault of nodes that acts over time, in a thread, and notes its steps. Healing waits until it has done all of them
    (on the way out of an error: the one it is at), so it may end later than the schedule says. It stops early only where
    a node fails it, and its last step says so.

    Evidence: a look that finds a node down.
    """

    def act(self, scene: Scene, nodes: Sequence[Node], ending: Event) -> None:
        """All steps; returns early, as soon as it can, once ``ending`` is set."""
        raise NotImplementedError

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        nodes = [scene.cluster.nodes[name] for name in targets]
        ending = Event()

        def act() -> None:
            try:
                self.act(scene, nodes, ending)
            except HarnessError as exc:
                scene.note(f"given up: {exc}")

        try:
            with ThreadPoolExecutor(1, thread_name_prefix="fault") as thread:
                acting = thread.submit(act)
                try:
                    yield
                    acting.result()
                finally:
                    ending.set()
        finally:
            for node in nodes:
                self.mend(node)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        states = {name: scene.cluster.nodes[name].state() for name in targets}
        said = "; ".join(f"{name}: {state}" for name, state in states.items())
        if self.hit in states.values():
            return Probe(True, said)
        return Probe(False if all(state == "running" for state in states.values()) else None, said)


def revive(node: Node) -> None:
    """Starts a node that is down."""
    if node.state() == "exited":
        node.start()


def start_again(node: Node) -> None:
    """Starts a node that is down, and thaws one that is frozen."""
    if node.state() == "paused":
        node.unpause()
    if node.state() == "exited":
        node.start()


def need(contract: type[Any], scene: Scene, names: Sequence[str], what: str) -> tuple[str, ...]:
    """The same names. Raises PlanError for a node that does not fulfil that contract of ``brokers.base``."""
    for name in names:
        if not isinstance(scene.cluster.nodes[name], contract):
            raise PlanError(f"node {name!r} of {scene.cluster.product} has not {what}; another broker's nodes may")
    return tuple(names)


def resolve_nodes(scene: Scene, target: str, among: Sequence[str] | None = None) -> tuple[str, ...]:
    """The nodes that a role means now. Nodes are asked in name order, so equal states resolve equally.

    follower: the first node that leads nothing, whether it has a copy or not.  replica: of each destination the first
    node that holds a copy and leads none of them.  Raises PlanError where no node is what the role means.
    among: the nodes that there are for that fault; all by default.
    """
    nodes = sorted(scene.cluster.nodes if among is None else among)
    leaders = leaders_of(scene) if target not in ("all", *nodes) else []
    rest = [name for name in nodes if name not in leaders]
    roles = {
        "leader": leaders,
        "one": nodes[:1],
        "follower": rest[:1],
        "replica": _replicas(scene, leaders) if target == "replica" else [],
        "all": nodes,
        "minority": (leaders + rest)[: (len(nodes) - 1) // 2],
        "majority": (leaders + rest)[: len(nodes) // 2 + 1],
    }
    if target in nodes:
        return (target,)
    if target not in roles:
        raise unknown("target of a node fault", target, {*roles, *nodes})
    if not roles[target]:
        raise PlanError(f"no node is a {target} of {', '.join(scene.destinations)}: led by {', '.join(leaders)}")
    return tuple(roles[target])


def leaders_of(scene: Scene) -> list[str]:
    """The leaders of the scene's destinations; one that is between two terms is waited for."""
    return sorted(
        {
            wait_until(partial(scene.cluster.leader, name), LEADER_S, f"a leader of {name!r}", retry_on=(HarnessError,))
            for name in scene.destinations
        }
    )


def _replicas(scene: Scene, leaders: Sequence[str]) -> list[str]:
    """Asked again while a copy is not there yet, as a queue's is that was moved a moment ago."""

    def first(name: str) -> str:
        return next((node for node in scene.cluster.replicas(name) if node not in leaders), "")

    found = set()
    for name in scene.destinations:
        with suppress(DeadlineError):
            found.add(wait_until(partial(first, name), LEADER_S, f"a replica of {name!r}", retry_on=(HarnessError,)))
    return sorted(found)
