"""Each fault on the memory broker: it is injected, seen from outside, healed; a no-op is caught by its evidence."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from brokerproof import listing
from brokerproof.brokers.base import Damage, Direction, Greeted, Lost, MemoryUse, PeerTrouble, Throttled, broker
from brokerproof.brokers.memory.cluster import MemoryCluster, MemoryNode
from brokerproof.errors import DeadlineError, HarnessError, PlanError, UsageError
from brokerproof.experiment import Experiment
from brokerproof.faults import base
from brokerproof.faults.base import Probe, Scene, apply, faults, judge, make
from brokerproof.faults.planes import nodes
from brokerproof.plan import Destination, Injection, Workload
from brokerproof.run import lacking


@dataclass
class Clients:
    """Load processes that only remember."""

    gone: list[str] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)
    last: str = ""

    def kill(self, role: str, step: str = "", which: str = "") -> Sequence[int]:
        self.gone.append(role)
        self.last = {"ack": "settle"}.get(step, step)
        return [1]

    def replace(self, role: str) -> None:
        self.gone.remove(role)

    def killed(self, role: str) -> Sequence[str]:
        return [r for r in self.gone if r == role]

    def last_steps(self, role: str) -> Mapping[str, str]:
        return dict.fromkeys(self.killed(role), self.last)

    def in_hand(self, role: str) -> Mapping[str, int]:
        return dict.fromkeys(self.killed(role), int(self.last.startswith("effect:")))

    def pause(self, role: str) -> Sequence[int]:
        self.paused.append(role)
        return [1]

    def resume(self, role: str) -> None:
        self.paused.remove(role)

    def states(self, role: str) -> Mapping[str, str]:
        return {role: "T" if role in self.paused else "S"}


class Peers:
    """Nodes whose links are sets, and whose network has no chance in it."""

    def __init__(self, nodes: str = "abc", replicas: Sequence[str] | None = None) -> None:
        self.nodes = nodes
        self.replicas: Sequence[str] = replicas or tuple(nodes)
        self.dropped: set[Direction] = set()
        self.cuts: dict[str, frozenset[Direction]] = {}
        self.lossy: dict[Direction, int] = {}
        self.slowed: dict[Direction, int] = {}

    def cut(self, directions: Collection[Direction], name: str = "") -> None:
        self.cuts[name] = frozenset(directions)
        self.dropped |= set(directions)

    def ordered(self, trouble: PeerTrouble) -> frozenset[Direction]:
        return frozenset().union(*self.cuts.values()) if trouble == "cut" else frozenset()

    def lose(self, directions: Collection[Direction], percent: int, name: str = "") -> None:
        self.lossy |= dict.fromkeys(directions, percent)

    def slow(self, directions: Collection[Direction], rate_kb_s: int, name: str = "") -> None:
        self.slowed |= dict.fromkeys(directions, rate_kb_s)

    def heal(self, trouble: PeerTrouble = "cut", name: str = "") -> None:
        if trouble == "cut" and name:
            self.cuts.pop(name, None)
            self.dropped = set(self.ordered("cut"))
            return
        self.cuts.clear()
        {"cut": self.dropped, "loss": self.lossy, "rate": self.slowed}[trouble].clear()

    def _all(self) -> list[Direction]:
        return [(a, b) for a in self.nodes for b in self.nodes if a != b]

    def reach(self) -> Mapping[Direction, bool]:
        return {direction: direction not in self.dropped for direction in self._all()}

    def arriving(self, datagrams: int) -> Mapping[Direction, float]:
        return {direction: 1 - self.lossy.get(direction, 0) / 100 for direction in self._all()}

    def throughput(self, octets: int, timeout_s: float) -> Mapping[Direction, float]:
        return {direction: float(self.slowed.get(direction, 20_000)) for direction in self._all()}


class Disk:
    """A file system that is a few words and one file; what a cut takes is said beforehand (``unsynced``)."""

    def __init__(self, root: Path, events: list[str] | None = None) -> None:
        self.root = root
        root.mkdir(parents=True)
        (root / "segment").write_bytes(b"0123456789" * 300)
        self.events = [] if events is None else events
        self.unsynced = {"0/log": (8, 4, 4096)}
        self.canary_gone = True
        self.lost: Lost | None = None
        self.damaged: Damage | None = None
        self.commit_s = 600
        self._state = "mounted"
        self._error = ""
        self._bytes_per_s = 0

    def state(self) -> str:
        return self._state

    def in_use(self) -> bool:
        return True

    def facts(self) -> Mapping[str, Any]:
        return {"options": f"commit={self.commit_s}"}

    def try_write(self) -> str:
        return self._error

    def write_ms(self) -> float:
        return 65536_000 / self._bytes_per_s if self._bytes_per_s else 0.3

    def commit_every(self, commit_s: int) -> None:
        self.commit_s = commit_s

    def cut(self) -> None:
        self.events.append("cut")
        self._state, self.lost = "cut", None

    def power_on(self) -> None:
        if self._state == "cut":
            self.events.append("power on")
            self.lost = Lost(
                self.unsynced, sum(n for _, _, n in self.unsynced.values()), self.canary_gone, self.facts()
            )
            self._state = "mounted"

    def fill(self) -> None:
        self._error = "ENOSPC"

    def free(self) -> None:
        self._error = ""

    def fail(self) -> None:
        self._state, self._error = "read-only", "EROFS"

    def repair(self) -> None:
        self._state, self._error = "mounted", ""

    def throttle(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s

    def newest(self, patterns: Sequence[str], least_bytes: int = 1) -> Path:
        if self.data_end(self.root / patterns[0]) < least_bytes:
            raise HarnessError(f"{patterns[0]} has not {least_bytes} bytes")
        return self.root / patterns[0]

    def data_end(self, path: Path) -> int:
        return len(path.read_bytes().rstrip(b"\0"))

    def damage(self, path: Path, at: int, data: bytes) -> None:
        old = path.read_bytes()
        end = at + len(data) if data else len(old)
        path.write_bytes(old[:at] + data + old[end:])
        self.damaged = Damage(path, at, old[at:end], data)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    cluster = broker("memory").start(
        version="sound", topology="single", settings={}, name="test-faults", run="r", progress=lambda _: None
    )
    cluster.create(Destination(name="q", kind="queue"), "q")
    cluster.nodes["m1"].disk = Disk(tmp_path / "m1")  # type: ignore[misc]  # memory's own is an attribute
    cluster.segments = lambda node, name, partition=0: ("segment",)  # type: ignore[attr-defined]
    yield Scene(cluster=cluster, destinations=("q",), clients=Clients())
    cluster.close()


class Machine(MemoryNode):
    """A node whose kernel counts what it lacks: with every look by so much, as if time had gone by."""

    cores: float | None = None
    headroom_mb: int | None = None
    periods, waited = 100, 7
    offset_s, drift = 0.0, 0.0
    moves = True
    oom = ""

    def limit_cores(self, cores: float | None) -> None:
        self.cores = cores

    def throttled(self) -> Throttled:
        if self.cores is not None:
            self.periods, self.waited = self.periods + 1, self.waited + 1
        return Throttled(self.periods, self.waited, 90.0 * self.waited)

    def limit_memory(self, headroom_mb: int | None) -> None:
        self.headroom_mb = headroom_mb

    def memory(self) -> MemoryUse:
        limit = 1024.0 if self.headroom_mb is None else 280.0 + self.headroom_mb
        return MemoryUse(min(320.0, limit), 280.0, limit, 1024.0, 19)

    def killed(self) -> str:
        return self.oom

    def clock_moves(self) -> bool:
        return self.moves

    def move_clock(self, offset_s: float, drift: float = 0.0) -> None:
        self.offset_s, self.drift, self.since = offset_s, drift, time.monotonic()

    def clock_ahead(self) -> tuple[float, float]:
        gained = self.drift * (time.monotonic() - self.since) if self.drift else 0.0
        return self.offset_s + gained, 0.001


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("brokerproof.faults.cpu_starve"), "_WATCH_S", 0.01)


def machines(scene: Scene) -> Scene:
    cluster = scene.cluster
    assert isinstance(cluster, MemoryCluster)
    cluster.nodes = {"m1": Machine(cluster)}
    return scene


def machine(scene: Scene) -> Machine:
    node = machines(scene).cluster.nodes["m1"]
    assert isinstance(node, Machine)
    return node


def three_nodes(scene: Scene, nodes: str = "abc") -> Scene:
    cluster = scene.cluster
    cluster.peers = Peers(nodes)
    cluster.nodes = dict.fromkeys(nodes, cluster.nodes["m1"])
    cluster.leader = lambda name, partition=0: "b"  # type: ignore[method-assign]
    cluster.replicas = lambda name: "bc"  # type: ignore[method-assign]
    return scene


@dataclass
class Database:
    """One that is up or down, and remembers nothing."""

    product: str = "redis"
    up: bool = True

    def kill(self) -> None:
        self.up = False

    def start(self) -> None:
        self.up = True

    def answers(self) -> bool:
        return self.up

    def holds(self) -> str:
        return "holds nothing"


def databases(scene: Scene) -> Scene:
    return replace(scene, stores={"redis": Database(), "redis that keeps": Database(), "mariadb": Database("mariadb")})


TARGETS = {"link": "all", "none": "all", "load": "consumer", "store": "redis"}
#: Settings that make a fault quick.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "restart_rolling": {"down_ms": 200},
    "crash_loop": {"down_ms": 200, "recovery_ms": 1},
}


#: What faults of a plane need besides the memory broker's one node and its links.
STAGES = {"peer": three_nodes, "resource": machines, "clock": machines, "store": databases}


def staged(name: str, scene: Scene, options: Mapping[str, Any] | None = None) -> tuple[Any, Scene, str]:
    """The fault, a scene that it can act in, and a target."""
    made: Any = make(name, OPTIONS.get(name, {}) if options is None else options)
    scene = STAGES.get(made.plane, lambda same: same)(scene)
    return made, scene, TARGETS.get(made.plane, "leader")


def impatient(monkeypatch: pytest.MonkeyPatch, name: str = "noop") -> None:
    monkeypatch.setattr(type(make(name)), "bite_s", 0.05)
    monkeypatch.setattr(base, "HEAL_S", 0.05)


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_every_fault_bites_and_heals(name: str, scene: Scene) -> None:
    made, scene, target = staged(name, scene)
    with apply(made, scene, target, now_s=itertools.count().__next__) as record:
        assert record.targets
        assert record.probes["during"]["bites"] is True
    assert record.evidence == "took_effect", record.probes
    assert record.probes["after"]["bites"] is False
    assert record.injected_s < record.bit_s < record.healing_s < record.healed_s


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_a_fault_that_does_nothing_is_caught(name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, name)
    fault, scene, target = staged(name, scene)

    @contextmanager
    def nothing(self: Any, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        yield

    monkeypatch.setattr(type(fault), "inject", nothing)
    with apply(fault, scene, target, now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"


@pytest.mark.parametrize("name", [n for n in faults() if n != "noop"])
def test_every_fault_heals_on_an_error_too(name: str, scene: Scene) -> None:
    fault, scene, target = staged(name, scene)
    with pytest.raises(ZeroDivisionError), apply(fault, scene, target, now_s=lambda: 0.0) as record:
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
        ("replica", "c"),
        ("all", "abc"),
        ("one", "a"),
        ("minority", "b"),
        ("majority", "ba"),
        ("c", "c"),
    ],
)
def test_roles_of_nodes(target: str, nodes: str, scene: Scene) -> None:
    assert make("kill").resolve(three_nodes(scene), target) == tuple(nodes)


def test_a_replica_leads_nothing_of_the_scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LEADER_S", 0.05)
    both = Scene(cluster=three_nodes(scene).cluster, destinations=("one", "two"))
    both.cluster.replicas = lambda name: {"one": "ba", "two": "bc"}[name]  # type: ignore[method-assign]
    assert make("kill").resolve(both, "replica") == ("a", "c")
    both.cluster.leader = lambda name, partition=0: {"one": "b", "two": "c"}[name]  # type: ignore[method-assign]
    assert make("kill").resolve(both, "replica") == ("a",)


def test_a_role_that_nobody_has_is_said_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LEADER_S", 0.05)
    for role in ("replica", "follower", "minority"):
        with pytest.raises(PlanError, match=f"no node is a {role} of q: led by m1"):
            make("kill").resolve(scene, role)


@pytest.mark.parametrize(
    ("nodes", "options", "dropped"),
    [
        ("abc", {"shape": "bridge"}, "a->c c->a"),
        ("abc", {"shape": "bridge", "one_way": "out"}, "a->c"),
        # The leader, b, leads the ring: b a c. Each hears the one before it.
        ("abc", {"shape": "ring"}, "a->b b->c c->a"),
        ("abcde", {"shape": "bridge"}, "a->d a->e c->d c->e d->a e->a d->c e->c"),
        # b a c d e: the two that are not beside one another.
        ("abcde", {"shape": "ring"}, "b->c c->b b->d d->b a->d d->a a->e e->a c->e e->c"),
        ("abcde", {"shape": "halves"}, "a->c a->d a->e b->c b->d b->e c->a d->a e->a c->b d->b e->b"),
    ],
)
def test_shapes_of_a_partition(nodes: str, options: Mapping[str, Any], dropped: str, scene: Scene) -> None:
    with apply(make("partition", options), three_nodes(scene, nodes), "leader", now_s=lambda: 0.0) as record:
        seen = record.probes["during"]["seen"]
        assert set(seen.removeprefix("nothing arrives on ").split(", ")) == set(dropped.split())
    assert record.evidence == "took_effect"


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_in_a_ring_every_node_hears_a_majority_and_no_two_the_same(n: int, scene: Scene) -> None:
    nodes = "abcdefg"[:n]
    fault = make("partition", {"shape": "ring"})
    with fault.inject(three_nodes(scene, nodes), ("b",)):
        reach = scene.cluster.peers.reach()  # type: ignore[union-attr]  # it has
        hears = {frozenset({b, *(a for a in nodes if reach.get((a, b)))}) for b in nodes}
    assert len(hears) == n and {len(heard) for heard in hears} == {n // 2 + 1}


@pytest.mark.parametrize("shape", ["ring", "bridge"])
def test_shapes_that_need_three_copies_say_so(shape: str, scene: Scene) -> None:
    three_nodes(scene).cluster.peers = Peers("abc", replicas=("a", "b"))
    fault = make("partition", {"shape": shape})
    with pytest.raises(PlanError, match=r"needs three nodes that keep messages; .* has 2: a, b"):
        fault.resolve(scene, "leader")
    assert fault.asks == ("three_nodes",)
    assert {p: "three_nodes" in broker(p).capabilities for p in ("kafka", "rabbitmq", "rocketmq")} == {
        "kafka": True, "rabbitmq": True, "rocketmq": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("product", "shape", "says"),
    [
        ("rocketmq", "ring", "rocketmq has no three_nodes, which partition {'shape': 'ring'} needs"),
        ("rocketmq", "halves", ""), ("kafka", "ring", ""), ("rabbitmq", "bridge", ""),
    ],
)  # fmt: skip
def test_a_cell_whose_product_lacks_what_its_fault_asks_for_is_unsupported(product: str, shape: str, says: str) -> None:
    arm = Workload(destinations=(Destination(name="q", kind="queue"),), senders=())
    schedule = (Injection(fault="partition", options={"shape": shape}),)
    assert lacking(Experiment(topology="", treatment=arm, control=arm, schedule=schedule), product) == says


@pytest.mark.parametrize(
    ("name", "options", "spoil", "bites"),
    [
        ("lossy_link", {"percent": 20}, {("b", "a"): 12}, True),  # within chance, of 200
        ("lossy_link", {"percent": 20}, {("b", "a"): 50}, None),
        ("lossy_link", {"percent": 20}, {("b", "a"): 0}, None),
        ("lossy_link", {"percent": 20}, {("a", "c"): 5}, None),  # which it should have left alone
        ("slow_link", {"rate_kb_s": 50}, {("b", "a"): 30}, True),  # shared with the nodes' own traffic
        ("slow_link", {"rate_kb_s": 50}, {("b", "a"): 90}, None),
        ("slow_link", {"rate_kb_s": 50}, {("b", "a"): 0}, None),  # nothing arrives: that is not slow
        ("slow_link", {"rate_kb_s": 50}, {("a", "c"): 50}, None),
    ],
)
def test_the_share_and_the_rate_are_as_asked_for(
    name: str, options: Mapping[str, Any], spoil: Mapping[Direction, int], bites: bool | None, scene: Scene
) -> None:
    fault = make(name, options)
    peers = three_nodes(scene).cluster.peers
    assert isinstance(peers, Peers)
    with fault.inject(scene, ("b",)):
        (peers.lossy if name == "lossy_link" else peers.slowed).update(spoil)
        assert fault.probe(scene, ("b",)).bites is bites


def test_peer_faults_heal_only_what_is_theirs(scene: Scene) -> None:
    peers = three_nodes(scene).cluster.peers
    assert isinstance(peers, Peers)
    with make("lossy_link").inject(scene, ("b",)):
        with make("partition").inject(scene, ("a",)):
            assert peers.dropped and peers.lossy
        assert not peers.dropped and peers.lossy
    assert not peers.lossy


def test_a_reset_link_is_up_again_where_its_toxics_will_not_go(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, scene, target = staged("reset", scene, {})
    link: Any = scene.cluster.links("producer")[0]

    def refuse(name: str) -> None:
        raise HarnessError("the proxy does not answer")

    monkeypatch.setattr(link, "remove_toxic", refuse)
    with pytest.raises(HarnessError, match="does not answer"), apply(fault, scene, target, now_s=lambda: 0.0):
        pass
    assert link._enabled


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize("name", ["latency", "stall", "black_hole", "bandwidth", "slicer", "cut_mid_frame"])
def test_link_faults_of_one_direction(name: str, stream: str, scene: Scene) -> None:
    options = {"stream": stream}
    if name == "cut_mid_frame" and stream == "downstream":
        options["after_octets"] = 60  # type: ignore[assignment]
    if name == "bandwidth":
        options["rate_kb_s"] = 5  # type: ignore[assignment]
    fault, scene, target = staged(name, scene, options)
    link: Any = scene.cluster.links("producer")[0]
    with apply(fault, scene, target, now_s=lambda: 0.0) as record:
        assert {s for _, s, _ in link._toxics.values()} == {stream}
    assert record.evidence == "took_effect", record.probes


@pytest.mark.parametrize("name", ["bandwidth", "slicer"])
def test_one_look_that_is_late_does_not_count(name: str, scene: Scene) -> None:
    fault, scene, _ = staged(name, scene, {"stream": "upstream"})
    link: Any = scene.cluster.links("producer")[0]
    late = Greeted(True, True, "", 5000.0, sent=2000, octets=100, pieces=1, whole_ms=5000.0)
    looks = iter([late, late, replace(late, whole_ms=1.0)])
    link.exchange = lambda timeout_s: next(looks)
    assert fault.probe(scene, (link.name,)).bites is False


@pytest.mark.parametrize(
    ("pieces", "whole_ms", "bites"),
    [((1, 1, 120), 400.0, True), ((1, 1, 1), 400.0, False), ((1, 1, 2), 90.0, False), ((3, 3, 3), 12.0, False),
     ((1, 2, 2), 400.0, True)],
)  # fmt: skip
def test_one_look_that_sees_slices_is_enough(pieces: Sequence[int], whole_ms: float, bites: bool, scene: Scene) -> None:
    """A reader that gets no processor reads many slices at once; an answer that nobody slices never has many."""
    fault, scene, _ = staged("slicer", scene, {"stream": "downstream"})
    link: Any = scene.cluster.links("producer")[0]
    first = Greeted(True, True, "", 10.0, sent=2000, octets=1000, pieces=1, whole_ms=whole_ms)
    looks = iter([replace(first, pieces=n) for n in pieces])
    link.exchange = lambda timeout_s: next(looks)
    assert fault.probe(scene, (link.name,)).bites is bites


def test_one_late_answer_is_no_latency(scene: Scene) -> None:
    fault, scene, _ = staged("latency", scene)
    link: Any = scene.cluster.links("producer")[0]
    for answers, bites in (((300.0, 300.0, 5.0), False), ((300.0, 300.0, 300.0), True)):
        looks = iter(answers)
        link.greet = lambda timeout_s, looks=looks: Greeted(True, True, "", next(looks))
        assert fault.probe(scene, (link.name,)).bites is bites


def test_a_cut_behind_the_answers_end_has_no_effect(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "cut_mid_frame")
    fault = make("cut_mid_frame", {"stream": "downstream", "after_octets": 1000})
    with apply(fault, scene, "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("bandwidth", {"rate_kb_s": 0}, "passes 1 to 50 kB/s"),
        ("bandwidth", {"rate_kb_s": 5000}, "cannot be told from none"),
        ("slicer", {"delay_us": 0}, "puts the segments together again"),
        ("slicer", {"average_size": 10, "size_variation": 10}, "less than average_size"),
        ("slicer", {"average_size": 500}, "at most 50"),
        ("cut_mid_frame", {"after_octets": 100_000}, "after 1 to 1900 octets"),
        ("cut_mid_frame", {"stream": "both"}, "upstream or downstream"),
        ("lossy_link", {"percent": 100}, "1 to 99 percent"),
        ("slow_link", {"rate_kb_s": 0}, "1 to 1000 kB/s"),
        ("partition", {"shape": "ring", "one_way": "in"}, "has no one_way"),
        ("client_kill", {"step": "ack"}, "a producer has no such step"),
    ],
)
def test_settings_that_cannot_be_seen_are_refused(
    name: str, options: Mapping[str, Any], says: str, scene: Scene
) -> None:
    with pytest.raises(PlanError, match=says):
        make(name, options).resolve(three_nodes(scene), "producer" if name == "client_kill" else "all")


@pytest.mark.parametrize(
    ("name", "options"),
    [("partition", {"shape": "rign"}), ("client_kill", {"step": "efect"}), ("latency", {"stream": "up"})],
)
def test_words_that_are_none_suggest_the_nearest(name: str, options: Mapping[str, Any], scene: Scene) -> None:
    fault, scene, target = staged(name, scene, options)
    with pytest.raises(UsageError, match=r"unknown .*; known: "), fault.inject(scene, fault.resolve(scene, target)):
        pass


def test_a_rolling_restart_takes_one_node_after_the_other(scene: Scene) -> None:
    memory: Any = scene.cluster.nodes["m1"]
    nodes = {name: type(memory)(scene.cluster) for name in "abc"}
    for name, node in nodes.items():
        node.name = name
    three_nodes(scene).cluster.nodes = nodes
    healthy: list[str] = []
    scene.cluster.wait_healthy = lambda timeout_s: healthy.extend(n for n in nodes if nodes[n].state() != "running")  # type: ignore[method-assign]
    with apply(make("restart_rolling", {"down_ms": 200}), scene, "all", now_s=itertools.count().__next__) as record:
        assert [s["what"] for s in record.observed["steps"]][:2] == ["stopping a", "a is down"]
    steps = record.observed["steps"]
    assert [s["what"].split(",")[0] for s in steps] == [
        f"{what}" for n in "abc" for what in (f"stopping {n}", f"{n} is down", f"{n} started", f"{n} is back in")
    ]
    assert [s["at_s"] for s in steps] == sorted(s["at_s"] for s in steps)
    assert record.evidence == "took_effect" and healthy == []


def test_a_rolling_restart_ends_where_a_node_does_not_come_back(scene: Scene) -> None:
    def ill(timeout_s: float) -> None:
        raise DeadlineError("m1 has not joined")

    scene.cluster.wait_healthy = ill  # type: ignore[method-assign]
    with apply(make("restart_rolling", {"down_ms": 200}), scene, "all", now_s=lambda: 0.0) as record:
        pass
    assert record.observed["steps"][-1]["what"] == "given up: m1 has not joined"
    assert scene.cluster.nodes["m1"].state() == "running"


def test_a_crash_loop_says_whether_the_node_had_come_to_answer(scene: Scene) -> None:
    with apply(make("crash_loop", OPTIONS["crash_loop"]), scene, "one", now_s=lambda: 0.0) as record:
        pass
    kills = [s["what"] for s in record.observed["steps"] if s["what"].startswith("kill")]
    assert kills == [f"kill {n} of m1, which answers" for n in (1, 2, 3)]
    assert record.evidence == "took_effect"


def test_a_client_that_was_killed_at_another_step_is_unproven(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "client_kill")
    for step in ("receive", "effect", "ack"):
        with apply(make("client_kill", {"step": step}), scene, "consumer", now_s=lambda: 0.0) as record:
            pass
        assert record.evidence == "took_effect", record.probes
    monkeypatch.setattr(Clients, "last_steps", lambda self, role: dict.fromkeys(self.killed(role), "receive"))
    with apply(make("client_kill", {"step": "ack"}), scene, "consumer", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "unproven"


def test_a_client_that_owed_no_effect_did_not_die_within_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "client_kill")
    # Handed several at once, it settles the one before: what its history has last is no ``receive``.
    monkeypatch.setattr(Clients, "last_steps", lambda self, role: dict.fromkeys(self.killed(role), "settle"))
    for owed, evidence in ((2, "took_effect"), (0, "unproven")):
        monkeypatch.setattr(Clients, "in_hand", lambda self, role, n=owed: dict.fromkeys(self.killed(role), n))
        fault = make("client_kill", {"step": "effect:stock acted"})
        with apply(fault, scene, "consumer", now_s=lambda: 0.0) as record:
            pass
        assert record.evidence == evidence
        assert record.probes["during"]["seen"].endswith(f"in hand without their effect: {owed}")


def test_halves_grow_to_half_of_the_nodes(scene: Scene) -> None:
    assert make("partition", {"shape": "halves"}).resolve(three_nodes(scene), "leader") == ("b",)


@pytest.mark.parametrize("name", ["kill", "link_down", "client_kill", "client_pause"])
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


# -- processor, memory, clock ------------------------------------------------------------------------------------------


def test_a_limit_that_the_node_does_not_reach_is_no_starvation(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    impatient(monkeypatch, "cpu_starve")
    monkeypatch.setattr(Machine, "throttled", lambda self: Throttled(100, 7, 630.0))
    with apply(make("cpu_starve", {"cores": 1.5}), machines(scene), "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"
    assert (
        "waited in 0 periods just now, in 7 of 100 since it started, 630 ms in all" in record.probes["during"]["seen"]
    )


def test_waiting_that_goes_on_after_the_heal_is_not_healed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "cpu_starve")
    monkeypatch.setattr(make("cpu_starve").__class__, "mend", lambda self, node: None)
    with apply(make("cpu_starve"), machines(scene), "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "not_healed"


@pytest.mark.parametrize(("headroom_mb", "evidence"), [(8, "took_effect"), (100, "no_effect")])
def test_memory_presses_only_where_the_node_is_at_its_limit(
    headroom_mb: int, evidence: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, "memory_pressure")
    fault = make("memory_pressure", {"headroom_mb": headroom_mb})
    with apply(fault, machines(scene), "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == evidence


def test_a_node_that_the_kernel_killed_is_said_and_started_again(scene: Scene) -> None:
    node = machine(scene)
    with apply(make("memory_pressure"), scene, "all", now_s=lambda: 0.0) as record:
        node.kill()
        node.oom = "2026-01-01T00:00:00Z"
        killed = make("memory_pressure").probe(scene, ("m1",))
    assert killed.bites
    assert node.state() == "running"
    assert record.evidence == "took_effect"
    assert "killed it for want of memory at 2026-01-01" in record.probes["after"]["seen"]


def test_a_node_that_is_down_for_another_reason_is_no_pressure(scene: Scene) -> None:
    machine(scene).kill()
    assert make("memory_pressure").probe(scene, ("m1",)).bites is None


class Alarmed:
    """A product that watches its memory, as the cluster tells it."""

    def __init__(self, scene: Scene) -> None:
        self.on: set[str] = set()
        for name in ("raise_memory_alarm", "clear_memory_alarm", "memory_alarm"):
            setattr(scene.cluster, name, getattr(self, name))

    def raise_memory_alarm(self, node: str) -> None:
        self.on.add(node)

    def clear_memory_alarm(self, node: str) -> None:
        self.on.discard(node)

    def memory_alarm(self, node: str) -> tuple[bool, str]:
        return node in self.on, f"memory alarm {'on' if node in self.on else 'off'}"


def test_memory_pressure_is_the_products_alarm_where_it_has_one(scene: Scene) -> None:
    node = machine(scene)
    Alarmed(scene)
    with apply(make("memory_pressure"), scene, "all", now_s=lambda: 0.0) as record:
        assert node.headroom_mb is None
    assert record.probes["during"]["seen"] == "m1: memory alarm on"
    assert record.evidence == "took_effect"
    with apply(make("memory_pressure", {"by": "limit"}), scene, "all", now_s=lambda: 0.0) as record:
        assert node.headroom_mb == 8
    assert record.evidence == "took_effect"


def test_an_alarm_that_does_not_go_off_is_caught(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "memory_pressure")
    alarmed = Alarmed(machines(scene))
    monkeypatch.setattr(scene.cluster, "raise_memory_alarm", lambda node: None, raising=False)
    with apply(make("memory_pressure"), scene, "all", now_s=lambda: 0.0) as record:
        assert not alarmed.on
    assert record.evidence == "no_effect"


def test_memory_pressure_by_alarm_needs_a_product_that_has_one(scene: Scene) -> None:
    with pytest.raises(PlanError, match="memory has no memory alarm"):
        make("memory_pressure", {"by": "alarm"}).resolve(machines(scene), "all")


@pytest.mark.parametrize("name", ["cpu_starve", "memory_pressure", "clock_jump", "clock_skew"])
def test_nodes_that_cannot_be_limited_or_moved_are_refused(name: str, scene: Scene) -> None:
    with pytest.raises(PlanError, match="node 'm1' of memory has not"):
        make(name).resolve(scene, "all")


@pytest.mark.parametrize("name", ["clock_jump", "clock_skew"])
def test_a_clock_fault_is_for_equipped_nodes_only(name: str, scene: Scene) -> None:
    machine(scene).moves = False
    with pytest.raises(PlanError, match="start the nodes with the equipment clock"):
        make(name).resolve(scene, "all")
    assert make(name).needs == ("clock",)


@pytest.mark.parametrize("jump_s", [-3600.0, 5.0])
def test_a_clock_jumps_either_way_and_back(jump_s: float, scene: Scene) -> None:
    node = machine(scene)
    with apply(make("clock_jump", {"jump_s": jump_s}), scene, "all", now_s=lambda: 0.0) as record:
        assert node.offset_s == jump_s
        assert f"m1: date {jump_s:+.3f} s" in record.probes["during"]["seen"]
    assert node.offset_s == 0
    assert record.evidence == "took_effect"


def test_a_jump_of_another_size_is_unproven(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "clock_jump")
    monkeypatch.setattr(type(make("clock_jump")), "move", lambda self, node: node.move_clock(10.0))
    with apply(make("clock_jump"), machines(scene), "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "unproven"


def test_a_broker_that_does_not_see_the_jump_of_its_node_is_unproven(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    impatient(monkeypatch, "clock_jump")
    monkeypatch.setattr(machines(scene).cluster, "own_clock", lambda node: (0.0, 0.01, "own time"), raising=False)
    with apply(make("clock_jump"), scene, "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "unproven"
    assert "m1: own time +0.000 s" in record.probes["during"]["seen"]


@pytest.mark.parametrize("drift_ms_per_s", [2000.0, -600.0])
def test_a_clock_runs_fast_or_slow(drift_ms_per_s: float, scene: Scene) -> None:
    with apply(
        make("clock_skew", {"drift_ms_per_s": drift_ms_per_s}), machines(scene), "all", now_s=lambda: 0.0
    ) as record:
        assert "then m1: date" in record.probes["during"]["seen"]
    assert record.evidence == "took_effect"


def test_a_jump_is_no_skew(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "clock_skew")
    monkeypatch.setattr(type(make("clock_skew")), "move", lambda self, node: node.move_clock(10.0))
    with apply(make("clock_skew"), machines(scene), "all", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "unproven"


@pytest.mark.parametrize(("ahead", "coarse", "bites"), [(1.0, 0.5, True), (-1.0, 0.5, None), (0.0, 0.01, None)])
def test_a_brokers_own_time_must_agree_with_the_date_of_its_node(
    ahead: float, coarse: float, bites: bool | None, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = machine(scene)
    monkeypatch.setattr(scene.cluster, "own_clock", lambda node: (ahead, coarse, "own time"), raising=False)
    fault = make("clock_skew", {"drift_ms_per_s": 900.0})
    node.move_clock(0.5, 0.9)
    assert fault.probe(scene, ("m1",)).bites is bites


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clock_jump", {"jump_s": 0.2}),
        ("clock_skew", {"drift_ms_per_s": 5.0}),
        ("clock_skew", {"drift_ms_per_s": -1000.0}),
    ],
)
def test_what_could_not_be_told_from_an_error_is_refused(name: str, options: Mapping[str, float]) -> None:
    with pytest.raises(UsageError, match="expected at least"):
        make(name, options)


def test_a_restart_of_databases_takes_all_of_the_kind_and_no_other(scene: Scene) -> None:
    made, scene, target = staged("store_restart", scene)
    with apply(made, scene, target, now_s=lambda: 0.0) as record:
        assert {name: store.answers() for name, store in scene.stores.items()} == {
            "redis": False, "redis that keeps": False, "mariadb": True,
        }  # fmt: skip
    assert [step["what"].split(" ")[-2:] for step in record.observed["steps"]] == [["holds", "nothing"]] * 4


def test_a_restart_of_databases_that_did_not_stop_all_is_unproven(scene: Scene) -> None:
    made, scene, _ = staged("store_restart", scene)
    scene.stores["redis"].kill()
    assert made.probe(scene, ("redis", "redis that keeps")).bites is None


def test_a_restart_of_a_database_needs_one(scene: Scene) -> None:
    made, staged_scene, _ = staged("store_restart", scene)
    with pytest.raises(
        PlanError, match="no effect of these trials is in one; their databases: redis, redis that keeps"
    ):
        made.resolve(staged_scene, "postgresql")
    with pytest.raises(UsageError, match="known: "):
        made.resolve(staged_scene, "rediss")


def test_every_fault_says_what_it_is_aimed_at_and_what_it_shows() -> None:
    for row in listing.faults():
        assert row["evidence"], row["fault"]
        assert row["targets"] or row["fault"] == "noop"
        assert row["what"]


# -- disks -------------------------------------------------------------------------------------------------------------


def disk_of(scene: Scene) -> Disk:
    disk = scene.cluster.nodes["m1"].disk
    assert isinstance(disk, Disk)
    return disk


def test_a_power_cut_freezes_all_before_it_cuts_any_and_kills_none_before_all_are_cut(
    scene: Scene, tmp_path: Path
) -> None:
    events: list[str] = []

    class Noting(MemoryNode):
        def pause(self) -> None:
            events.append("pause")
            super().pause()

        def kill(self) -> None:
            events.append("kill")
            super().kill()

    cluster = scene.cluster
    assert isinstance(cluster, MemoryCluster)
    nodes = {name: Noting(cluster) for name in "abc"}
    for name, node in nodes.items():
        node.disk = Disk(tmp_path / name, events)
    cluster.nodes = nodes
    with apply(make("power_cut"), scene, "all", now_s=lambda: 0.0) as record:
        assert [node.state() for node in nodes.values()] == ["exited"] * 3
    assert events == ["pause"] * 3 + ["cut"] * 3 + ["kill"] * 3 + ["power on"] * 3
    assert record.evidence == "took_effect"
    assert record.observed["disks"]["a"]["lost"]["bytes"] == 4096


def test_a_power_cut_that_left_the_canary_is_no_power_cut(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "power_cut")
    disk_of(scene).canary_gone = False
    with apply(make("power_cut"), scene, "all", now_s=lambda: 0.0) as record:
        assert "no power was cut" in record.probes["during"]["seen"]
    assert record.evidence == "no_effect"


def test_a_power_cut_says_that_a_node_had_synced_all(scene: Scene) -> None:
    disk_of(scene).unsynced = {}
    with apply(make("power_cut"), scene, "all", now_s=lambda: 0.0) as record:
        assert (
            record.probes["during"]["seen"] == "m1: exited; not synced and gone: the canary, and nothing of the node's"
        )
    assert record.evidence == "took_effect"


def test_a_power_cut_that_fails_halfway_leaves_nodes_that_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "power_cut")
    node = scene.cluster.nodes["m1"]
    monkeypatch.setattr(node, "kill", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), apply(make("power_cut"), scene, "all", now_s=lambda: 0.0):
        pass
    monkeypatch.undo()
    make("power_cut").mend(node, disk_of(scene))  # type: ignore[attr-defined]  # of disk faults
    assert (node.state(), disk_of(scene).state()) == ("running", "mounted")


def test_the_journal_interval_is_set_before_the_cut(scene: Scene) -> None:
    base.look(make("power_cut", {"commit_s": 5}), scene, "all")
    assert disk_of(scene).commit_s == 5


@pytest.mark.parametrize(
    ("tail", "left"), [(b"", b"0123456789" * 292 + b"012"), (bytes(50), b"0123456789" * 292 + b"012" + bytes(127))]
)
def test_a_torn_write_cuts_off_or_leaves_zeros(tail: bytes, left: bytes, scene: Scene) -> None:
    segment = disk_of(scene).root / "segment"
    segment.write_bytes(segment.read_bytes() + tail)
    with apply(make("torn_write"), scene, "leader", now_s=lambda: 0.0) as record:
        assert segment.read_bytes() == left
    assert record.evidence == "took_effect"


@pytest.mark.parametrize("name", ["torn_write", "bit_flip"])
def test_damage_that_is_not_there_is_caught(name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, name)
    monkeypatch.setattr(disk_of(scene), "damage", lambda path, at, data: None)
    with apply(make(name), scene, "leader", now_s=lambda: 0.0) as record:
        pass
    assert record.evidence == "no_effect"


def test_bits_are_flipped_in_as_many_bytes_as_said(scene: Scene) -> None:
    segment = disk_of(scene).root / "segment"
    before = segment.read_bytes()
    with apply(make("bit_flip", {"flipped_bytes": 3, "from_end_bytes": 10}), scene, "leader", now_s=lambda: 0.0):
        pass
    after = segment.read_bytes()
    assert [i for i in range(len(before)) if before[i] != after[i]] == [2990, 2991, 2992]
    assert all((before[i] ^ after[i]).bit_count() == 1 for i in (2990, 2991, 2992))


@pytest.mark.parametrize("name", ["power_cut", "disk_full", "disk_slow", "read_only", "torn_write", "bit_flip"])
def test_a_disk_fault_needs_nodes_with_disks(name: str, scene: Scene) -> None:
    assert make(name).needs == ("disk",)
    assert base.plane(name) == "disk"
    scene.cluster.nodes["m1"].disk = None  # type: ignore[misc]  # memory's own is an attribute
    with pytest.raises(PlanError, match="nodes with equipment 'disk'"):
        make(name).resolve(scene, "all")


@pytest.mark.parametrize("name", ["torn_write", "bit_flip"])
def test_a_product_without_files_has_no_segment(name: str, scene: Scene) -> None:
    del scene.cluster.segments  # type: ignore[attr-defined]
    with (
        pytest.raises(PlanError, match="does not say in which files"),
        apply(make(name), scene, "all", now_s=lambda: 0.0),
    ):
        pass
    assert scene.cluster.nodes["m1"].state() == "running"


@pytest.mark.parametrize("name", ["torn_write", "bit_flip"])
def test_a_segment_that_was_only_just_begun_is_left_alone(name: str, scene: Scene) -> None:
    segment = disk_of(scene).root / "segment"
    segment.write_bytes(b"header")
    with pytest.raises(PlanError, match="bytes and more of messages of q"):
        with apply(make(name), scene, "all", now_s=lambda: 0.0):
            pass
    assert segment.read_bytes() == b"header"
    assert scene.cluster.nodes["m1"].state() == "running"


def test_a_disk_that_cannot_be_looked_at_is_unproven(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "disk_slow")
    with apply(make("disk_slow"), scene, "all", now_s=lambda: 0.0) as record:
        scene.cluster.nodes["m1"].pause()
    scene.cluster.nodes["m1"].unpause()
    assert make("disk_slow").probe(scene, ("m1",)).bites is False
    monkeypatch.setattr(disk_of(scene), "write_ms", lambda: (_ for _ in ()).throw(OSError("no device")))
    assert make("disk_slow").probe(scene, ("m1",)) == Probe(None, "no device")
    assert record.targets == ("m1",)
