"""``bit_flip``: bits of a node's newest segment change while the node is down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from brokerproof.brokers.base import Disk, Node
from brokerproof.faults.base import Scene, fault
from brokerproof.faults.planes.disks import DiskFault, each_disk, newest_segment, seen_damage
from brokerproof.faults.planes.nodes import start_again


@fault("bit_flip")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitFlip(DiskFault):
    """The node is killed, one bit is flipped in each of some bytes, and the node is started on it by the heal. The damage
    stays: what a node makes of it is the question.

    flipped_bytes: how many, one after the other.  from_end_bytes: how long before the end of the data they begin.
    Evidence: the node is down, and the bytes read from outside are the flipped ones.
    """

    name: ClassVar[str] = "bit_flip"
    flipped_bytes: int = 8
    from_end_bytes: int = 1000

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        def flip(node: Node, disk: Disk) -> None:
            distance = max(self.from_end_bytes, self.flipped_bytes)
            path = newest_segment(scene, node, disk, 2 * distance)
            at = disk.data_end(path) - distance
            with path.open("rb") as file:
                file.seek(at)
                data = file.read(self.flipped_bytes)
            disk.damage(path, at, bytes(byte ^ 0x10 for byte in data))

        try:
            each_disk(scene, targets, lambda node, disk: node.kill())
            each_disk(scene, targets, flip)
            yield
        finally:
            each_disk(scene, targets, lambda node, disk: start_again(node))

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        state = node.state()
        if state == "running":
            return False, "running"
        if state != "exited":
            return None, state
        flipped, how = seen_damage(disk)
        return flipped, f"{state}; {how}"
