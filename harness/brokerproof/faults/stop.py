"""``stop``: SIGTERM to a node, which may end in good order; started again when it is healed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.nodes import NodeFault


@fault("stop")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(NodeFault):
    """Evidence: the engine's word for the node's state."""

    name: ClassVar[str] = "stop"

    def break_(self, node: Node) -> None:
        node.stop()
