"""What stands in front of nodes that somebody else runs: a Toxiproxy, in a container or as a process of this machine.

way()    which of them it is going to be: as the target file says, or else a container where an engine answers
put()    starts it, a link for each client group and node
found()  takes hold of one that another process of the run has started
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from brokerproof.brokers.base import Opening
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import localproxy
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import client
from brokerproof.runtime.proxy import ProxyLink
from brokerproof.target import Target


class Front(Protocol):
    """proxy: what it is, in words.  links: one for each client group and node that goes through it."""

    name: str
    proxy: str
    links: list[ProxyLink]

    def links_of(self, group: str) -> list[ProxyLink]: ...

    def save_logs(self, folder: Path) -> None:
        """What it has logged since the last time this was called."""

    def close(self) -> None:
        """Removes it; safe to call twice."""


def way(target: Target) -> str:
    """``container`` or ``local``. Raises EnvironmentProblem where neither can be had, or not the one that the file asks for."""
    if target.toxiproxy == "local":
        localproxy.server(target.toxiproxy_server)
        return "local"
    try:
        client()
    except EnvironmentProblem as no_engine:
        if target.toxiproxy == "container":
            raise
        try:
            localproxy.server(target.toxiproxy_server)
        except EnvironmentProblem as no_server:
            raise EnvironmentProblem(
                f"a target needs a Toxiproxy in front of it, in a container or as a process: {no_engine}; or without an engine: "
                f"{no_server}"
            ) from no_server
        return "local"
    return "container"


def put(target: Target, *, name: str, run: str, links: Sequence[LinkSpec], opening: Opening) -> Front:
    """links: each with its ``upstream``. Raises EnvironmentProblem."""
    if way(target) == "local":
        program = localproxy.server(target.toxiproxy_server)
        return localproxy.LocalProxy.open(name=name, run=run, links=links, opening=opening, program=program)
    return Ground.open(name=name, run=run, nodes=(), links=links, opening=opening, on_host=target.on_loopback)


def found(*, name: str, run: str, opening: Opening) -> Front:
    """Raises EnvironmentProblem when there is none of that name."""
    process = localproxy.LocalProxy.attach(name=name, run=run, opening=opening)
    return process if process is not None else Ground.attach(name=name, run=run, opening=opening)
