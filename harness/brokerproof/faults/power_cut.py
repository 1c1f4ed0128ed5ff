"""``power_cut``: nodes go down at one moment, and come back on what their disks had by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.disks import DiskFault, each_disk
from brokerproof.faults.planes.nodes import start_again


@fault("power_cut")
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut(DiskFault):
    """All targets are frozen, then their file systems stopped, then they are killed; so nobody hears of anything that was
    done after the cut. Power is back with the heal.

    commit_s: the mount option ``commit`` until the cut. Whether something is durable is asked with the journal left alone
        (600); how much is lost in practice with the kernel's 5.
    Evidence: the node is down, and what was written last before the cut, and not synced, is not on the disk. What the
    node itself had written and not synced is told as well. It may be nothing: a freeze waits for an fsync that is under
    way, and a broker that syncs all it writes has then nothing left to lose.
    """

    name: ClassVar[str] = "power_cut"
    commit_s: int = 600

    def prepare(self, scene: Scene, targets: Sequence[str]) -> None:
        each_disk(scene, targets, lambda node, disk: disk.commit_every(self.commit_s))

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        try:
            # Each step on all of them before the next: no node learns of the others' end, and answers.
            each_disk(scene, targets, lambda node, disk: node.pause())
            each_disk(scene, targets, lambda node, disk: disk.cut())
            each_disk(scene, targets, lambda node, disk: node.kill())
            each_disk(scene, targets, lambda node, disk: disk.power_on())
            yield
        finally:
            each_disk(scene, targets, self.mend)

    def mend(self, node: Node, disk: Disk) -> None:
        if disk.state() == "cut":
            if node.state() != "exited":
                node.kill()
            disk.power_on()
        start_again(node)

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        state = node.state()
        if state == "running":
            return False, "running"
        if state != "exited" or disk.lost is None:
            return None, f"{state}, disk {disk.state()}"
        if not disk.lost.canary_gone:
            return False, f"{state}, but what was written last and not synced is still there: no power was cut"
        own = f"{disk.lost.bytes} bytes in {len(disk.lost.files)} files" if disk.lost.files else "nothing"
        return True, f"{state}; not synced and gone: the canary, and {own} of the node's"
