"""``disk_full``: there is no space left on a node's file system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.disks import DiskFault
from brokerproof.faults.planes.nodes import start_again


@fault("disk_full")
@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(DiskFault):
    """Evidence: what a write of 64 KiB to a new file meets."""

    name: ClassVar[str] = "disk_full"

    def break_(self, node: Node, disk: Disk) -> None:
        disk.fill()

    def mend(self, node: Node, disk: Disk) -> None:
        disk.free()
        start_again(node)

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        met = disk.try_write()
        return {"ENOSPC": True, "": False}.get(met), f"a write of 64 KiB meets {met or 'no error'}"
