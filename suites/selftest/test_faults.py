"""Each fault on the memory broker: it is injected, seen from outside, healed; a no-op is caught by its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from brokerproof.brokers.base import broker
from brokerproof.errors import PlanError, UsageError
from brokerproof.faults import base
from brokerproof.faults.base import Probe, Scene, apply, faults, judge, make
from brokerproof.plan import Destination


@dataclass
class Clients:
    """Load processes that only remember."""

    gone: list[str] = field(default_factory=list)

    def kill(self, role: str) -> Sequence[int]:
        self.gone.append(role)
        return [1]

    def replace(self, role: str) -> None:
        self.gone.remove(role)

    def killed(self, role: str) -> Sequence[str]:
        return [r for r in self.gone if r == role]


class Peers:
    """Three nodes whose links are a set."""

    def __init__(self) -> None:
        self.dropped: set[tuple[str, str]] = set()

    def cut(self, left: Sequence[str], right: Sequence[str], *, one_way: bool = False) -> None:
        self.dropped |= {(a, b) for a in left for b in right}
        if not one_way:
            self.dropped |= {(b, a) for a in left for b in right}

    def heal(self) -> None:
        self.dropped.clear()

    def reach(self) -> Mapping[tuple[str, str], bool]:
        return {(a, b): (a, b) not in self.dropped for a in "abc" for b in "abc" if a != b}


@pytest.fixture
def scene() -> Iterator[Scene]:
    cluster = broker("memory").start(
        version="sound", topology="single", settings={}, name="test-faults", run="r", progress=lambda _: None
    )
    cluster.create(Destination(name="q", kind="queue"), "q")
    yield Scene(cluster=cluster, destinations=("q",), clients=Clients())
    cluster.close()


def three_nodes(scene: Scene) -> Scene:
    cluster = scene.cluster
    cluster.peers = Peers()
    cluster.nodes = dict.fromkeys("abc", cluster.nodes["m1"])
    cluster.leader = lambda name, partition=0: "b"  # type: ignore[method-assign]
    return scene


TARGETS = {"client_kill": "consumer", "link_down": "all", "black_hole": "all", "stall": "all", "reset": "all",
           "latency": "all", "lost_ack": "all", "noop": "all"}  # fmt: skip


def impatient(monkeypatch: pytest.MonkeyPatch, name: str = "noop") -> None:
    monkeypatch.setattr(type(make(name)), "bite_s", 0.05)
    monkeypatch.setattr(base, "HEAL_S", 0.05)


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_every_fault_bites_and_heals(name: str, scene: Scene) -> None:
    if name == "partition":
        scene = three_nodes(scene)
    with apply(make(name), scene, TARGETS.get(name, "leader"), now_s=iter(range(9)).__next__) as record:
        assert record.targets
        assert record.probes["during"]["bites"] is True
    assert record.evidence == "took_effect", record.probes
    assert record.probes["after"]["bites"] is False
    assert record.injected_s < record.bit_s < record.healing_s < record.healed_s


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_a_fault_that_does_nothing_is_caught(name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, name)
    if name == "partition":
        scene = three_nodes(scene)
    fault = make(name)

    @contextmanager
    def nothing(self: Any, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        yield

    monkeypatch.setattr(type(fault), "inject", nothing)
    with apply(fault, scene, TARGETS.get(name, "leader"), now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_every_fault_heals_on_an_error_too(name: str, scene: Scene) -> None:
    if name == "partition":
        scene = three_nodes(scene)
    fault = make(name)
    with (
        pytest.raises(ZeroDivisionError),
        apply(fault, scene, TARGETS.get(name, "leader"), now_s=lambda: 0.0) as record,
    ):
        raise ZeroDivisionError
    assert record.probes["after"]["bites"] is False


def test_noop_never_took_effect(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    with apply(make("noop"), scene, "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"


@pytest.mark.parametrize(
    ("looks", "evidence"),
    [
        ((False, True, False), "took_effect"), ((False, False, False), "no_effect"), ((True, True, False), "no_effect"),
        ((False, True, True), "not_healed"), ((False, None, False), "unproven"), ((None, True, False), "unproven"),
        ((False, True, None), "unproven"),
    ],
)  # fmt: skip
def test_evidence_is_what_three_looks_say(looks: tuple[bool | None, ...], evidence: str) -> None:
    assert judge(*(Probe(b, "") for b in looks)) == evidence


def test_a_fault_that_does_not_heal_is_said_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "kill")
    fault = make("kill")
    monkeypatch.setattr(type(fault), "mend", lambda self, node: None)
    with apply(fault, scene, "leader", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "not_healed"


@pytest.mark.parametrize(
    ("one_way", "dropped"),
    [("", {"b->a", "b->c", "a->b", "c->b"}), ("out", {"b->a", "b->c"}), ("in", {"a->b", "c->b"})],
)
def test_a_partition_cuts_the_directions_it_says(one_way: str, dropped: set[str], scene: Scene) -> None:
    with apply(make("partition", {"one_way": one_way}), three_nodes(scene), "leader", now_s=lambda: 0.0) as record:
        assert record.targets == ("b",)
        assert all(d in record.probes["during"]["seen"] for d in dropped)
        assert record.probes["during"]["seen"].count("->") == len(dropped)
    assert record.evidence == "took_effect"


def test_a_partition_that_cuts_more_than_it_says_is_unproven(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "partition")
    three_nodes(scene)
    peers = scene.cluster.peers
    assert isinstance(peers, Peers)
    with apply(make("partition"), scene, "leader", now_s=lambda: 0.0) as record:
        pass
    peers.dropped.clear()
    fault = make("partition")
    with fault.inject(scene, ("b",)):
        peers.dropped.add(("a", "c"))
        assert fault.probe(scene, ("b",)).bites is None
    assert record.evidence == "took_effect"


def test_a_partition_needs_nodes_on_both_sides(scene: Scene) -> None:
    with pytest.raises(PlanError, match="needs a cluster with peer links"):
        make("partition").resolve(scene, "leader")
    with pytest.raises(PlanError, match="nodes on both sides"):
        make("partition").resolve(three_nodes(scene), "all")


@pytest.mark.parametrize(
    ("target", "nodes"),
    [
        ("leader", "b"),
        ("follower", "a"),
        ("all", "abc"),
        ("one", "a"),
        ("minority", "b"),
        ("majority", "ba"),
        ("c", "c"),
    ],
)
def test_roles_of_nodes(target: str, nodes: str, scene: Scene) -> None:
    assert make("kill").resolve(three_nodes(scene), target) == tuple(nodes)


def test_halves_grow_to_half_of_the_nodes(scene: Scene) -> None:
    assert make("partition", {"shape": "halves"}).resolve(three_nodes(scene), "leader") == ("b",)


@pytest.mark.parametrize("name", ["kill", "link_down", "client_kill"])
def test_unknown_targets_say_which_there_are(name: str, scene: Scene) -> None:
    with pytest.raises(UsageError, match=r"unknown target of .*'leadr'; known: "):
        make(name).resolve(scene, "leadr")


def test_unknown_names_and_settings_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown fault 'latnecy'.*did you mean 'latency'"):
        make("latnecy")
    with pytest.raises(UsageError, match=r"unknown setting of fault latency 'latency_s'.*did you mean 'latency_ms'"):
        make("latency", {"latency_s": 3})


def test_two_faults_of_one_name_are_refused() -> None:
    @dataclass(frozen=True)
    class Other:
        name: ClassVar[str] = ""

    make("kill")
    with pytest.raises(base.HarnessError, match=r"two faults are called 'kill': brokerproof.faults.kill and"):
        base.fault("kill")(Other)


def test_client_kill_spares_who_has_no_clients(scene: Scene) -> None:
    with pytest.raises(PlanError, match="needs load processes"):
        make("client_kill").resolve(Scene(cluster=scene.cluster), "consumer")
