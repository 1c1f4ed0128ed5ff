"""Faults of client links, peer links and nodes on real containers, with a proxy between, but without a broker: each node
answers a line of text. Quick enough to see all of them; the broker's own tests see what brokers make of them."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from brokerproof.brokers.base import LONGER_OCTETS, Opening
from brokerproof.faults.base import Applied, Scene, apply, make
from brokerproof.runtime import images, sweep
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import NodeSpec
from brokerproof.waiting import wait_until

pytestmark = pytest.mark.container

_PORT, _ANSWER = 7000, 400
# Answers each line with so many octets; a process for each connection.
_SERVER = f"""
use IO::Socket::INET; $SIG{{CHLD}} = "IGNORE"; $SIG{{TERM}} = sub {{ exit 0 }};
my $server = IO::Socket::INET->new(LocalPort => {_PORT}, Listen => 50, ReuseAddr => 1) or die $!;
while (1) {{
    my $client = $server->accept or next;
    next if fork;
    while (<$client>) {{ print $client "a" x {_ANSWER}; $client->flush }}
    exit 0;
}}
"""
_OPENING = Opening(b"hello\n", b"." * (LONGER_OCTETS - 1) + b"\n", lambda answer: len(answer) >= _ANSWER)


class _Plain:
    """What faults need of a cluster."""

    product, topology, in_process = "plain", "three nodes", False

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.nodes = ground.nodes
        self.peers = ground.peers()

    def links(self, group: str) -> Sequence[Any]:
        return self.ground.links_of(group)

    def leader(self, name: str, partition: int = 0) -> str:
        return "b"

    def observe(self, names: Sequence[str]) -> Mapping[str, Any]:
        return {}

    def wait_healthy(self, timeout_s: float) -> None:
        for link in self.links("admin"):
            wait_until(lambda link=link: link.greet(1.0).answered, timeout_s, f"{link.name} to answer")  # type: ignore[misc]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    name = f"bpl-{uuid.uuid4().hex[:6]}"
    nodes = ("a", "b", "c")
    links = [LinkSpec(group, node, _PORT) for group in ("producer", "admin") for node in nodes]
    ground = Ground.open(name=name, run=name, nodes=nodes, links=links, opening=_OPENING)
    try:
        image = images.ensure("side").tag
        for node in nodes:
            # As the first process of a container it would not get a SIGTERM that it does not ask for.
            ground.launch(NodeSpec(name=node, image=image, command=["perl", "-e", _SERVER], memory_mb=128))
        cluster: Any = _Plain(ground)
        cluster.wait_healthy(20)
        yield Scene(cluster=cluster, destinations=("q",))
    finally:
        ground.close()
        sweep.unregister(name)


def broken(scene: Scene, name: str, target: str = "leader", **options: Any) -> Applied:
    clock = iter(range(100_000))
    with apply(make(name, options), scene, target, now_s=lambda: float(next(clock))) as record:
        pass
    return record


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bandwidth", {}), ("bandwidth", {"stream": "upstream", "rate_kb_s": 50}), ("bandwidth", {"rate_kb_s": 1}),
        ("slicer", {}), ("slicer", {"stream": "upstream"}), ("slicer", {"stream": "downstream"}),
        ("slicer", {"average_size": 20, "size_variation": 5}),
        ("cut_mid_frame", {}), ("cut_mid_frame", {"stream": "downstream", "after_octets": 123}),
        ("half_open", {}), ("latency", {"stream": "upstream"}), ("stall", {"stream": "downstream"}),
        ("black_hole", {"stream": "upstream"}),
    ],
)  # fmt: skip
def test_client_links(name: str, options: Mapping[str, Any], scene: Scene) -> None:
    record = broken(scene, name, **options)
    assert record.evidence == "took_effect", record.probes
    assert record.targets == ("producer-b",)
    assert all(link.greet(2.0).answered for group in ("producer", "admin") for link in scene.cluster.links(group))


def test_the_answer_is_cut_where_it_was_said(scene: Scene) -> None:
    seen = broken(scene, "cut_mid_frame", stream="downstream", after_octets=123).probes["during"]["seen"]
    assert seen == "producer-b: connected, then closed, after 123 octets of an answer"


def test_a_half_open_connection_stays_and_what_was_sent_into_it_is_sent_again(scene: Scene) -> None:
    (link,) = [link for link in scene.cluster.links("producer") if link.node == "b"]
    with socket.create_connection(link.address, timeout=5) as held:
        held.sendall(b"one\n")
        assert _read(held) == _ANSWER
        with apply(make("half_open"), scene, "leader", now_s=lambda: 0.0) as record:
            held.sendall(b"two\n")
            # The kernel's own word: a connection to the proxy on which something was sent and sent again.
            wait_until(lambda: _sent_again(link.address[1]), 10, "a retransmission across the cut", interval_s=0.05)
            held.settimeout(0.2)
            with pytest.raises(TimeoutError):
                held.recv(1)
        assert record.evidence == "took_effect", record.probes
        held.settimeout(20)
        assert _read(held) == _ANSWER


@pytest.mark.parametrize("speaks", [True, False], ids=["speaks", "silent"])
def test_no_connection_outlives_a_reset(speaks: bool, scene: Scene) -> None:
    (link,) = [link for link in scene.cluster.links("producer") if link.node == "b"]
    with socket.create_connection(link.address, timeout=5) as held:
        held.sendall(b"one\n")
        assert _read(held) == _ANSWER
        with apply(make("reset"), scene, "leader", now_s=lambda: 0.0) as record:
            if speaks:
                held.sendall(b"two\n")
                assert _ends(held), "at once, where somebody speaks"
        assert record.evidence == "took_effect", record.probes
        assert _ends(held)
    assert link.greet(2.0).answered


def _ends(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def _read(sock: socket.socket) -> int:
    n = 0
    while n < _ANSWER:
        got = len(sock.recv(4096))
        assert got, "closed"
        n += got
    return n


def _sent_again(port: int) -> bool:
    """Whether some connection to that port has unacknowledged data that was sent more than once (proc(5), net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, queues, _, again = line.split()[:7]
        if state == "01" and int(remote.split(":")[1], 16) == port and int(queues.split(":")[0], 16) and int(again, 16):
            return True
    return False


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("partition", {"shape": "ring"}), ("partition", {"shape": "bridge"}),
        ("partition", {"shape": "bridge", "one_way": "out"}), ("partition", {"shape": "halves"}),
        ("lossy_link", {}), ("lossy_link", {"percent": 2}), ("slow_link", {}), ("slow_link", {"rate_kb_s": 1000}),
    ],
)  # fmt: skip
def test_peer_links(name: str, options: Mapping[str, Any], scene: Scene) -> None:
    record = broken(scene, name, **options)
    assert record.evidence == "took_effect", record.probes
    assert all(scene.cluster.peers.reach().values())  # type: ignore[union-attr]  # it has peers


@pytest.mark.parametrize(
    ("name", "options"), [("partition", {"shape": "bridge"}), ("lossy_link", {}), ("slow_link", {})]
)
def test_links_of_a_node_that_is_restarted_stay_broken(name: str, options: Mapping[str, Any], scene: Scene) -> None:
    fault = make(name, options)
    with apply(fault, scene, "leader", now_s=lambda: 0.0) as record:
        for node in ("a", "b"):
            scene.cluster.nodes[node].kill()
            scene.cluster.nodes[node].start()
        again = fault.probe(scene, record.targets)
        assert again.bites is True, again.seen
    assert record.evidence == "took_effect", record.probes
    scene.cluster.wait_healthy(20)


def test_a_slow_peer_link_slows_no_client(scene: Scene) -> None:
    (link,) = [link for link in scene.cluster.links("producer") if link.node == "b"]
    with apply(make("slow_link", {"rate_kb_s": 1}), scene, "leader", now_s=lambda: 0.0):
        seen = min((link.exchange(5.0) for _ in range(3)), key=lambda seen: seen.whole_ms or 1e9)
        # 400 octets of an answer would take 400 ms at that rate.
        assert seen.answered and seen.whole_ms is not None and seen.whole_ms < 100


def test_nodes_are_restarted_in_turn_and_crash_in_a_loop(scene: Scene) -> None:
    rolled = broken(scene, "restart_rolling", "all", down_ms=500)
    assert rolled.evidence == "took_effect", rolled.probes
    assert [s["what"].split(",")[0] for s in rolled.observed["steps"] if "back" in s["what"]] == [
        f"{name} is back in" for name in "abc"
    ]
    looped = broken(scene, "crash_loop", "one", times=2, recovery_ms=300)
    assert looped.evidence == "took_effect", looped.probes
    assert [s["what"].split(",")[0] for s in looped.observed["steps"]] == [
        "kill 1 of a", "start 1 of a", "kill 2 of a", "start 2 of a",
    ]  # fmt: skip
    scene.cluster.wait_healthy(20)
