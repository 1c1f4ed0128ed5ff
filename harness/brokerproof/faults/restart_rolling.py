"""``restart_rolling``: one node after the other is stopped and started, as in an upgrade; each is back before the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import ClassVar

from brokerproof.brokers.base import Node
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.nodes import LastingNodeFault

#: How long a node may take to be back; after that the round ends, as an operator would end it.
_BACK_S = 90.0


@fault("restart_rolling")
@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRolling(LastingNodeFault):
    """SIGTERM, start, and the cluster healthy again (the node in, replicas in sync) before the next node's turn.

    down_ms: how long each node stays down besides.
    Evidence: the engine's word for the nodes' states; the record has every step with its time.
    """

    name: ClassVar[str] = "restart_rolling"
    #: Never two at once: for the limits of a schedule it is one node that is out.
    one_by_one: ClassVar[bool] = True
    #: A node that ends in good order takes its time, up to the grace time of the engine.
    bite_s: ClassVar[float] = 25.0
    down_ms: int = 1000

    def act(self, scene: Scene, nodes: Sequence[Node], ending: Event) -> None:
        for node in nodes:
            if ending.is_set():
                return
            scene.note(f"stopping {node.name}")
            node.stop()
            scene.note(f"{node.name} is down")
            ending.wait(self.down_ms / 1000)
            node.start()
            started = time.monotonic()
            scene.note(f"{node.name} started")
            if ending.is_set():
                return
            scene.cluster.wait_healthy(_BACK_S)
            scene.note(f"{node.name} is back in, {time.monotonic() - started:.1f} s after its start")
