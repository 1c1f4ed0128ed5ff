"""``kill``: SIGKILL to a node, started again when it is healed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.nodes import NodeFault


@fault("kill")
@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(NodeFault):
    """Evidence: the engine's word for the node's state."""

    name: ClassVar[str] = "kill"
    #: A frozen node dies as well: the engine thaws it for that.
    hits = ("running", "paused")

    def break_(self, node: Node) -> None:
        node.kill()
