"""Faults of nodes' file systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from brokerproof.brokers.base import Disk, Node, Segmented
from brokerproof.errors import HarnessError, PlanError
from brokerproof.faults.base import Plane, Probe, Scene, T
from brokerproof.faults.planes.nodes import resolve_nodes


class DiskFault:
    """A fault of nodes' file systems. Targets as of ``NodeFault``, of the nodes that keep data; all hit at once.

    What a node notices of it is its own affair: one that has exited by the end is started again.
    """

    plane: Plane = "disk"
    needs = ("disk",)

    def break_(self, node: Node, disk: Disk) -> None:
        raise NotImplementedError

    def mend(self, node: Node, disk: Disk) -> None:
        """Must leave a node that runs on a file system that can be written to, whatever there was before."""
        raise NotImplementedError

    def bites(self, node: Node, disk: Disk) -> tuple[bool | None, str]:
        """Whether it bites that node, and what was seen."""
        raise NotImplementedError

    def resolve(self, scene: Scene, target: str) -> tuple[str, ...]:
        return resolve_nodes(scene, target, among=_with_disks(scene))

    @contextmanager
    def inject(self, scene: Scene, targets: Sequence[str]) -> Iterator[None]:
        try:
            each_disk(scene, targets, self.break_)
            yield
        finally:
            each_disk(scene, targets, self.mend)

    def probe(self, scene: Scene, targets: Sequence[str]) -> Probe:
        try:
            seen = each_disk(scene, targets, self.bites)
        except (HarnessError, OSError) as exc:
            return Probe(None, str(exc))
        said = "; ".join(f"{name}: {what}" for name, (_, what) in zip(targets, seen, strict=True))
        biting = {bites for bites, _ in seen}
        return Probe(biting.pop() if len(biting) == 1 else None, said)


def each_disk(scene: Scene, targets: Sequence[str], do: Callable[[Node, Disk], T]) -> list[T]:
    """Does that to all targets at once; raises the first error when all are done."""

    def one(name: str) -> T:
        node = scene.cluster.nodes[name]
        if node.disk is None:
            raise PlanError(f"node {name!r} has no file system of its own; a disk fault needs equipment 'disk'")
        return do(node, node.disk)

    with ThreadPoolExecutor(max(1, len(targets))) as pool:
        futures = [pool.submit(one, name) for name in targets]
    return [future.result() for future in futures]


def newest_segment(scene: Scene, node: Node, disk: Disk, least_bytes: int) -> Path:
    """The file in which that node wrote last what the scene's destinations were sent; one that was only just begun has a
    header and no message, and does not count (least_bytes)."""
    if not isinstance(scene.cluster, Segmented):
        raise PlanError(f"{scene.cluster.product} does not say in which files it keeps messages")
    found = []
    for name in scene.destinations:
        with suppress(HarnessError):  # not every node has every destination
            found.append(disk.newest(scene.cluster.segments(node.name, name), least_bytes))
    if not found:
        of = ", ".join(scene.destinations)
        raise PlanError(f"node {node.name!r} has no file with {least_bytes} bytes and more of messages of {of}")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def seen_damage(disk: Disk) -> tuple[bool, str]:
    """Whether what was done to a file of a node that is down is there, as read from outside."""
    done = disk.damaged
    if done is None:
        return False, "no file was damaged"
    with done.path.open("rb") as file:
        file.seek(done.at)
        there = file.read(len(done.before))
    said = f"{len(done.before)} bytes at {done.at} of {done.path.name}"
    if there == done.before:
        return False, f"{said} are what they were"
    return there == done.after, f"{said} {'are gone' if not there else 'have changed'}"


def _with_disks(scene: Scene) -> list[str]:
    found = [name for name, node in sorted(scene.cluster.nodes.items()) if node.disk is not None]
    if not found:
        raise PlanError("no node has a file system of its own; a disk fault needs nodes with equipment 'disk'")
    return found
