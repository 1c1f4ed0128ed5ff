"""Faults of client links: toxics or a switched-off proxy, and what a fresh connection then sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

from brokerproof.brokers.base import LINK_GROUPS, Greeted, Link
from brokerproof.errors import unknown
from brokerproof.faults.base import Plane, Probe, Scene
from brokerproof.faults.planes.nodes import leaders_of
from brokerproof.overlap import Grip

#: Which way a fault of a link acts: from client to broker, from broker to client.
Stream = Literal["both", "upstream", "downstream"]


def streams(stream: Stream) -> tuple[str, ...]:
    """Raises UsageError for a word that is none."""
    if stream not in ("both", "upstream", "downstream"):
        raise unknown("stream of a link fault", stream, ("both", "upstream", "downstream"))
    return ("upstream", "downstream") if stream == "both" else (stream,)


class LinkFault:
    """A fault of client links: toxics or a switched-off proxy, and what a fresh connection then sees.

    Targets: ``all`` links of the scene's groups, ``leader`` (those to the destinations' leaders), or a node's name.
    """

    plane: Plane = "link"
    #: How long the probe's fresh connection waits for an answer.
    greet_s = 1.0

    def break_(self, link: Link) -> None:
        raise NotImplementedError

    def mend(self, link: Link) -> None:
        link.clear_toxics()

    def bites(self, seen: Greeted) -> bool:
        """Whether this is what a fresh connection sees while the fault is on."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        links = [link for group in scene.link_groups for link in scene.cluster.links(group)]
        nodes = {link.node for link in links}
        if target == "leader":
            leaders = set(leaders_of(scene))
            # A gateway stands for every node behind it.
            chosen = leaders & nodes or nodes
        elif target == "all":
            chosen = nodes
        elif target in nodes:
            chosen = {target}
        else:
            raise unknown("target of a link fault", target, {"all", "leader", *nodes})
        return tuple(link.name for link in links if link.node in chosen)

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        links = [Grip(link, scene.ledger) for link in _links(scene, targets)]
        try:
            for link in links:
                self.break_(link)
            yield
        finally:
            for link in links:
                self.mend(link)

    def ask(self, link: Link) -> Greeted:
        """How the probe's fresh connection looks."""
        return link.greet(self.greet_s)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        links = _links(scene, targets)
        with ThreadPoolExecutor(max(1, len(links))) as pool:
            seen = list(pool.map(self.ask, links))
        said = "; ".join(f"{link.name}: {_sentence(saw)}" for link, saw in zip(links, seen, strict=True))
        biting = [self.bites(saw) for saw in seen]
        if all(biting) and biting:
            return Probe(True, said)
        # Healed means that every link answers, not merely that this fault's own sign is gone.
        return Probe(False if all(saw.answered for saw in seen) and not any(biting) else None, said)


def again_if(doubtful: Callable[[Greeted], bool], ask: Callable[[], Greeted], times: int = 3) -> Greeted:
    """The first look that is not doubtful, or the last of so many: a busy machine looks broken now and then, and hides
    now and then what is."""
    for _ in range(times - 1):
        if not doubtful(seen := ask()):
            return seen
    return ask()


def _links(scene: Scene, names: Sequence[str]) -> list[Link]:
    return [link for group in LINK_GROUPS for link in scene.cluster.links(group) if link.name in names]


def _sentence(seen: Greeted) -> str:
    if not seen.connected:
        return "connection refused" if seen.ended else "no connection"
    if seen.answered and seen.whole_ms is not None and seen.whole_ms != seen.rtt_ms:
        return f"answered after {seen.rtt_ms:.1f} ms, {seen.octets} octets in {seen.pieces} pieces by {seen.whole_ms:.1f} ms"
    if seen.answered:
        return f"answered after {seen.rtt_ms:.1f} ms"
    end = {"rst": "connected, then reset", "fin": "connected, then closed"}.get(seen.ended, "connected, no answer")
    return f"{end}, after {seen.octets} octets of an answer" if seen.octets else end
