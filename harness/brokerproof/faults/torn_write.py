"""``torn_write``: a power cut in the middle of a write: of the newest segment's last one only a part is on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.disks import each_disk, newest_segment, seen_damage
from brokerproof.faults.power_cut import PowerCut


@fault("torn_write")
@dataclass(frozen=True, slots=True, kw_only=True)
class TornWrite(PowerCut):
    """While power is off, the newest segment is cut off before its last bytes; one that is laid out longer than its data is
    given zeros there, as blocks have that were allocated and not written.

    torn_bytes: how many; no multiple of a sector or of a page, so that a record is torn and not dropped.
    Evidence: that of the power cut, and what is read from outside where the data had ended.
    """

    name: ClassVar[str] = "torn_write"
    torn_bytes: int = 77

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        def tear(node: Node, disk: Disk) -> None:
            path = newest_segment(scene, node, disk, 2 * self.torn_bytes)
            end = disk.data_end(path)
            at = end - self.torn_bytes
            disk.damage(path, at, b"" if path.stat().st_size == end else bytes(end - at))

        # Not super(): a dataclass with slots is another class than the one that this method was written in.
        with PowerCut.inject(self, scene, targets):
            each_disk(scene, targets, tear)
            yield

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        cut, said = PowerCut.bites(self, node, disk)
        if not cut:
            return cut, said
        torn, how = seen_damage(disk)
        return torn, f"{said}; {how}"
