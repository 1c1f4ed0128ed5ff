"""``disk``: a node's data on an ext4 file system of its own, so that its power can be cut, its space taken, its writes slowed.

Each node that keeps data gets one file system (``loopdisk``) for all its data paths; each path is a folder of it, filled
as the image has it (an empty volume would be, too), so that owners and modes are right. The engine must run on this
machine: it mounts what root mounts here.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import socket
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker.errors
import docker.types

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import loopdisk, sweep
from brokerproof.runtime.loopdisk import LoopDisk
from brokerproof.runtime.node import ContainerNode, NodeSpec, client, engine_errors


class DiskKind:
    """``equipment.Kind``."""

    def missing(self) -> str:
        if lacking := _missing_here():
            return lacking
        with engine_errors("asking the engine where it runs"):
            name = client().info().get("Name", "")
        if name != socket.gethostname():
            return f"disk faults need the engine on this machine: it calls itself {name!r}, this is {socket.gethostname()!r}"
        return ""

    def equip(self, spec: NodeSpec, *, cluster: str, run: str) -> tuple[NodeSpec, dict[str, Any]]:
        disk = LoopDisk(sweep.disks_of(run), f"{cluster}-{spec.name}")
        disk.make()
        mounts = []
        for number, path in enumerate(spec.data):
            folder = disk.root / str(number)
            _copy_out(spec.image, path, folder)
            mounts.append(docker.types.Mount(path, str(folder), type="bind"))
        return spec, {"mounts": mounts}

    def attach(self, nodes: Mapping[str, ContainerNode], *, cluster: str, run: str) -> None:
        for node in nodes.values():
            node.own_disk = LoopDisk(sweep.disks_of(run, make=False), f"{cluster}-{node.name}", node.pid)

    def check(self, node: ContainerNode) -> None:
        if node.disk is not None and not node.disk.in_use():
            raise EnvironmentProblem(
                f"node {node.name!r} does not see the file system that was mounted for it at {str(node.disk.root)!r}; "
                "does the engine have a mount namespace of its own?"
            )

    def remove(self, cluster: str) -> None:
        sweep.remove_disks(f"{cluster}-")


@functools.cache
def _missing_here() -> str:
    name = f"trial-{os.getpid()}-"  # other processes look at the same time
    try:
        return loopdisk.missing(sweep.disks_of(name))
    finally:
        sweep.remove_disks(name)


def _copy_out(image: str, path: str, to: Path) -> None:
    """Makes ``to`` a copy of a folder of the image, owners and modes included; an empty one where the image has none."""
    with engine_errors(f"looking at {path!r} in image {image!r}"):
        container = client().containers.create(image, command=["true"], labels=sweep.labels_of_a_moment())
        try:
            stream, _ = container.get_archive(path)
            content = b"".join(stream)
        except docker.errors.NotFound:
            to.mkdir()
            return
        finally:
            container.remove(force=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(to.parent, numeric_owner=True, filter="fully_trusted")
    shutil.move(to.parent / Path(path).name, to)


KIND = DiskKind()
