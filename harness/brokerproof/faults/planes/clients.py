"""Faults of load processes."""

from __future__ import annotations

from brokerproof.errors import PlanError, unknown
from brokerproof.faults.base import Scene

_CLIENT_ROLES = ("consumer", "producer")


def resolve_clients(scene: Scene, target: str) -> tuple[str, ...]:
    """The role of load processes that is meant. Raises PlanError where there are none."""
    if target not in _CLIENT_ROLES:
        raise unknown("target of a client fault", target, _CLIENT_ROLES)
    if scene.clients is None:
        raise PlanError("a fault of clients needs load processes, and this trial has none")
    return (target,)
