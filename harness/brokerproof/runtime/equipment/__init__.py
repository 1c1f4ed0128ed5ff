"""What nodes are started with so that faults can act on them later; one module per kind.

A kind is a module ``equipment/<name>.py`` that offers ``KIND: Kind``. Plans name it (``Plan.equipment``), faults ask for it
(``Fault.needs``), and a cluster with it is another cluster than one without.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from brokerproof.errors import unknown
from brokerproof.runtime.node import ContainerNode, NodeSpec


class Kind(Protocol):
    """One kind of equipment."""

    def missing(self) -> str:
        """What this machine lacks for it, with the next step, in a sentence; empty when it can be had. Looks, and
        changes nothing that stays."""

    def equip(self, spec: NodeSpec, *, cluster: str, run: str) -> tuple[NodeSpec, dict[str, Any]]:
        """The specification of a node that keeps data, changed, and options for the engine (``containers.run``)."""

    def attach(self, nodes: Mapping[str, ContainerNode], *, cluster: str, run: str) -> None:
        """Gives the nodes of a cluster, started or not yet, the handles that faults act by."""

    def check(self, node: ContainerNode) -> None:
        """A node that keeps data has been started with it. Raises EnvironmentProblem where that does not show."""

    def remove(self, cluster: str) -> None:
        """What it made for that cluster outside of its containers; safe to call twice."""


def kinds() -> tuple[str, ...]:
    """The names there are: the modules of this package."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])))


def kind(name: str) -> Kind:
    """Raises UsageError for a name that is none."""
    if name not in kinds():
        raise unknown("equipment", name, kinds())
    found: Kind = importlib.import_module(f"brokerproof.runtime.equipment.{name}").KIND
    return found
