"""``pause``: a node is frozen: it holds its connections and answers nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.nodes import NodeFault


@fault("pause")
@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(NodeFault):
    """Evidence: the engine's word for the node's state."""

    name: ClassVar[str] = "pause"
    hit = "paused"

    def break_(self, node: Node) -> None:
        node.pause()

    def mend(self, node: Node) -> None:
        node.unpause()
