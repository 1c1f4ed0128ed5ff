"""Faults that overlap on one link, one node, one network: none heals another, and none passes for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from suites.selftest.test_faults import Clients, Peers

from brokerproof.brokers.base import broker
from brokerproof.errors import EnvironmentProblem
from brokerproof.faults import base
from brokerproof.faults.base import Applied, Probe, Scene, apply, judge, make
from brokerproof.overlap import Grip, Ledger
from brokerproof.plan import Destination


class Container:
    """A node that answers like the engine: an exited one cannot be paused or killed."""

    def __init__(self, name: str) -> None:
        self.name, self._state, self.disk = name, "running", None

    def _from(self, states: tuple[str, ...], to: str) -> None:
        if self._state not in states:
            raise EnvironmentProblem(f"{self.name} is {self._state}: the engine says no")
        self._state = to

    def kill(self) -> None:
        self._from(("running", "paused"), "exited")

    def stop(self) -> None:
        self._from(("running",), "exited")

    def start(self) -> None:
        self._from(("exited",), "running")

    def pause(self) -> None:
        self._from(("running",), "paused")

    def unpause(self) -> None:
        if self._state == "paused":
            self._state = "running"

    def state(self) -> str:
        return self._state

    def logs(self) -> str:
        return ""


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(base, "HEAL_S", 0.05)
    monkeypatch.setattr(base, "BITE_S", 0.05)
    for name in ("kill", "pause", "stop", "partition", "black_hole", "link_down", "stall", "reset", "latency"):
        monkeypatch.setattr(type(make(name)), "bite_s", 0.05)
    cluster = broker("memory").start(
        version="sound", topology="single", settings={}, name="test-overlap", run="r", progress=lambda _: None
    )
    cluster.create(Destination(name="q", kind="queue"), "q")
    yield Scene(cluster=cluster, destinations=("q",), clients=Clients())
    cluster.close()


@pytest.fixture
def three(scene: Scene) -> Scene:
    scene.cluster.nodes = {name: Container(name) for name in "abc"}
    scene.cluster.peers = Peers()
    scene.cluster.leader = lambda name, partition=0: "b"  # type: ignore[method-assign]
    return scene


class Stage:
    """Faults that are switched on and off by hand, in any order."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.on: dict[str, ExitStack] = {}

    def inject(self, name: str, target: str) -> Applied:
        self.on[name] = ExitStack()
        return self.on[name].enter_context(apply(make(name), self.scene, target, now_s=lambda: 0.0))

    def heal(self, name: str) -> None:
        self.on.pop(name).close()

    def link(self) -> str:
        return self.scene.cluster.links("producer")[0].passage()  # type: ignore[attr-defined]


def test_the_first_to_heal_leaves_the_other_on_the_same_link(scene: Scene) -> None:
    stage = Stage(scene)
    hole = stage.inject("black_hole", "all")
    stall = stage.inject("stall", "all")
    stage.heal("black_hole")
    assert stage.link() == "held"
    stall.confirm()
    stage.heal("stall")
    assert stage.link() == "passes"
    hole.settle()
    # What the stall looked like at first was the black hole's doing as well; alone, it was its own.
    assert (hole.evidence, stall.evidence) == ("took_effect", "took_effect")
    assert (hole.overlapped, stall.overlapped) == (True, True)


def test_a_fault_that_is_never_seen_alone_proves_nothing(scene: Scene) -> None:
    stage = Stage(scene)
    stage.inject("black_hole", "all")
    stall = stage.inject("stall", "all")
    stall.confirm()
    stage.heal("stall")
    assert stage.link() == "swallowed"
    stage.heal("black_hole")
    stall.settle()
    assert stall.evidence == "no_effect"


def test_a_link_is_up_when_the_last_who_held_it_down_is_healed(scene: Scene) -> None:
    link = scene.cluster.links("producer")[0]
    one, two = Grip(link, scene.ledger), Grip(link, scene.ledger)
    one.disable()
    two.disable()
    one.enable()
    one.enable()
    assert not link.greet(0.1).connected
    two.enable()
    assert link.greet(0.1).answered


def test_a_grip_takes_back_its_own_toxics_only(scene: Scene) -> None:
    link = scene.cluster.links("producer")[0]
    one, two = Grip(link, Ledger()), Grip(link, Ledger())
    one.add_toxic("latency", "upstream", latency=100, jitter=0)
    two.add_toxic("latency", "upstream", latency=50, jitter=0)
    one.clear_toxics()
    assert link.greet(0.1).rtt_ms == 50
    two.clear_toxics()
    assert link.greet(0.1).rtt_ms == 0


def test_a_killed_node_that_was_frozen_comes_back_and_stays(three: Scene) -> None:
    stage, node = Stage(three), three.cluster.nodes["b"]
    pause = stage.inject("pause", "b")
    kill = stage.inject("kill", "b")
    assert node.state() == "exited"
    stage.heal("kill")
    assert node.state() == "running"
    stage.heal("pause")
    assert node.state() == "running"
    pause.settle()
    assert (pause.evidence, kill.evidence) == ("took_effect", "took_effect")


def test_a_frozen_node_that_was_killed_stays_down_until_the_kill_is_healed(three: Scene) -> None:
    stage, node = Stage(three), three.cluster.nodes["b"]
    pause = stage.inject("pause", "b")
    kill = stage.inject("kill", "b")
    stage.heal("pause")
    assert node.state() == "exited"
    stage.heal("kill")
    pause.settle()
    assert node.state() == "running"
    assert (pause.evidence, kill.evidence) == ("took_effect", "took_effect")


@pytest.mark.parametrize("second", ["kill", "stop", "pause"])
def test_a_node_that_is_down_is_left_to_who_took_it_down(second: str, three: Scene) -> None:
    stage, node = Stage(three), three.cluster.nodes["b"]
    first = stage.inject("kill", "b")
    stage.on["first"] = stage.on.pop("kill")
    late = stage.inject(second, "b")
    stage.heal(second)
    assert node.state() == "exited"
    stage.heal("first")
    late.settle()
    assert node.state() == "running"
    assert first.evidence == "took_effect"
    assert late.evidence in ("no_effect", "unproven")


def test_two_partitions_are_healed_one_by_one(three: Scene) -> None:
    stage, peers = Stage(three), three.cluster.peers
    assert peers is not None
    one = stage.inject("partition", "a")
    stage.on["first"] = stage.on.pop("partition")
    two = stage.inject("partition", "b")
    stage.heal("first")
    dead = {pair for pair, arrives in peers.reach().items() if not arrives}
    assert dead == {("b", "a"), ("a", "b"), ("b", "c"), ("c", "b")}
    stage.heal("partition")
    assert all(peers.reach().values())
    one.settle()
    assert (one.evidence, two.evidence) == ("took_effect", "took_effect")


def test_a_dead_node_does_not_make_its_link_a_witness(scene: Scene) -> None:
    stage = Stage(scene)
    kill = stage.inject("kill", "leader")
    down = stage.inject("link_down", "all")
    stage.heal("link_down")
    stage.heal("kill")
    down.settle()
    assert kill.evidence == "took_effect"
    assert (down.overlapped, down.evidence) == (True, "no_effect")


def test_without_company_nothing_is_looked_at_again(scene: Scene) -> None:
    stage = Stage(scene)
    record = stage.inject("reset", "all")
    record.confirm()
    stage.heal("reset")
    record.settle()
    assert "alone" not in record.probes
    assert (record.overlapped, record.evidence) == (False, "took_effect")


@pytest.mark.parametrize(
    ("before", "during", "alone", "after", "evidence"),
    [
        (True, True, None, False, "no_effect"), (True, True, True, False, "took_effect"),
        (None, True, None, False, "took_effect"), (None, None, True, False, "took_effect"),
        (False, False, True, False, "took_effect"), (True, True, True, True, "not_healed"),
        (True, True, True, None, "unproven"), (None, None, None, False, "unproven"),
    ],
)  # fmt: skip
def test_evidence_among_others(
    before: bool | None, during: bool | None, alone: bool | None, after: bool | None, evidence: str
) -> None:
    looks = [Probe(b, "") for b in (before, during, after)]
    assert judge(*looks, alone=None if alone is None else Probe(alone, ""), overlapped=True) == evidence


def test_lateness_is_counted_from_the_plan(scene: Scene) -> None:
    with apply(make("reset"), scene, "all", now_s=lambda: 2.07, planned_s=2.0) as record:
        pass
    assert record.late_ms == 70.0
    assert record.to_json()["late_ms"] == 70.0
    with apply(make("reset"), scene, "all", now_s=lambda: 2.07) as record:
        pass
    assert record.late_ms is None
