"""``read_only``: a node's file system becomes read-only while the node has files open on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.disks import DiskFault
from brokerproof.faults.planes.nodes import start_again


@fault("read_only")
@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOnly(DiskFault):
    """As ext4 does on an error of its device; what was written before is flushed first and kept. Such a file system is
    writable again only after it was unmounted, so the heal takes the node down, as an operator would.

    Evidence: what a write of 64 KiB to a new file meets.
    """

    name: ClassVar[str] = "read_only"

    def break_(self, node: Node, disk: Disk) -> None:
        disk.fail()

    def mend(self, node: Node, disk: Disk) -> None:
        if disk.state() == "read-only":
            if node.state() != "exited":
                node.kill()
            disk.repair()
        start_again(node)

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        met = disk.try_write()
        return {"EROFS": True, "": False}.get(met), f"a write of 64 KiB meets {met or 'no error'}"
