"""``crash_loop``: SIGKILL, start, and SIGKILL again while the node recovers, several times."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import ClassVar

from brokerproof.brokers.base import Node
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.nodes import LastingNodeFault


@fault("crash_loop")
@dataclass(frozen=True, slots=True, kw_only=True)
class CrashLoop(LastingNodeFault):
    """times: how often it is killed. recovery_ms: from a start to the next kill: less than the product needs until it
    serves again. down_ms: from a kill to the next start.

    Evidence: the engine's word for the nodes' states. The record has every step with its time, and of every kill
    whether the node had come to answer: one that had was not recovering any more.
    """

    name: ClassVar[str] = "crash_loop"
    times: int = 3
    recovery_ms: int = 1000
    down_ms: int = 500

    def act(self, scene: Scene, nodes: Sequence[Node], ending: Event) -> None:
        with ThreadPoolExecutor(len(nodes)) as pool:
            for n in range(1, self.times + 1):
                for node in nodes:
                    scene.note(f"kill {n} of {node.name}, which {_service(scene, node)}")
                list(pool.map(lambda node: node.kill(), nodes))
                ending.wait(self.down_ms / 1000)
                list(pool.map(lambda node: node.start(), nodes))
                for node in nodes:
                    scene.note(f"start {n} of {node.name}")
                if ending.is_set() or (n < self.times and ending.wait(self.recovery_ms / 1000)):
                    return


def _service(scene: Scene, node: Node) -> str:
    mine = [link for link in scene.cluster.links("admin") if link.node == node.name]
    if not mine:
        return "nobody but its peers talks to"
    return "answers" if mine[0].greet(0.3).answered else "does not answer"
