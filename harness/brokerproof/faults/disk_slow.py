"""``disk_slow``: a node's writes to its disk take long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import fault
from brokerproof.faults.planes.disks import DiskFault
from brokerproof.faults.planes.nodes import start_again

_PROBE_KB = 64


@fault("disk_slow")
@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSlow(DiskFault):
    """Limits what the node's control group writes to the device. Who waits for the disk (fsync, msync) feels it; who leaves
    writing to the kernel does not, until memory runs out.

    Evidence: how long 64 KiB past the page cache take in that control group: at least half of what the limit says.
    """

    name: ClassVar[str] = "disk_slow"
    write_kb_per_s: int = 128

    def break_(self, node: Node, disk: Disk) -> None:
        disk.throttle(self.write_kb_per_s * 1024)

    def mend(self, node: Node, disk: Disk) -> None:
        disk.throttle(0)
        start_again(node)

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        if node.state() != "running":
            return None, f"{node.state()}: nobody writes"
        took = disk.write_ms()
        return took >= 1000 * _PROBE_KB / self.write_kb_per_s / 2, f"64 KiB take {took:.1f} ms"
