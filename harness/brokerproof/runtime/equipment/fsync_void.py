"""``fsync_void``: the known-bad broker, whose every fsync, fdatasync and msync does nothing and says that it did.

``libeatmydata`` is loaded into the node's processes. It validates the instrument: what such a broker acknowledged must
be gone after a power cut, or the cut cut nothing. What lanes are made of is synced from outside before the load
(``Cluster.sync``), so messages are lost and not their queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import docker.errors

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import images, sweep
from brokerproof.runtime.node import ContainerNode, NodeSpec, client, engine_errors

LIBRARY = "/usr/local/lib/libeatmydata.so"


class FsyncVoid:
    """``equipment.Kind``."""

    def missing(self) -> str:
        theirs = [product for product in ("kafka", "rabbitmq", "rocketmq") if images.would_be_official(product)]
        if theirs:
            return (
                f"syncs are made void by libeatmydata, which the vendor's image of {', '.join(theirs)} has not and images "
                "that are built here have: BROKERPROOF_IMAGES=build"
            )
        return ""

    def equip(self, spec: NodeSpec, *, cluster: str, run: str) -> tuple[NodeSpec, dict[str, Any]]:
        with engine_errors(f"looking for {LIBRARY!r} in image {spec.image!r}"):
            container = client().containers.create(spec.image, command=["true"], labels=sweep.labels_of_a_moment())
            try:
                container.get_archive(LIBRARY)
            except docker.errors.NotFound:
                raise EnvironmentProblem(
                    f"image {spec.image!r} has no {LIBRARY}, by which syncs are made void; images that are built have: "
                    "BROKERPROOF_IMAGES=build"
                ) from None
            finally:
                container.remove(force=True)
        preload = ":".join(filter(None, (spec.environment.get("LD_PRELOAD", ""), LIBRARY)))
        return replace(spec, environment={**spec.environment, "LD_PRELOAD": preload}), {}

    def attach(self, nodes: Mapping[str, ContainerNode], *, cluster: str, run: str) -> None:
        pass

    def check(self, node: ContainerNode) -> None:
        pass

    def remove(self, cluster: str) -> None:
        pass


KIND = FsyncVoid()
