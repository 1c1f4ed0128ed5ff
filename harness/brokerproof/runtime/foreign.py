"""A node that somebody else runs: what can be done to it is what its target file gives, and only when that is allowed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from brokerproof.brokers.base import Disk
from brokerproof.errors import EnvironmentProblem, PlanError
from brokerproof.runtime import front
from brokerproof.runtime.node import ContainerNode
from brokerproof.target import Target, TargetNode
from brokerproof.waiting import wait_until

#: How long a command of the target file may take.
COMMAND_S = 120.0
#: How long a node may take to stop answering after its kill command is done.
DOWN_S = 30.0


class NamedContainer(ContainerNode):
    """A container of somebody else, by its name."""

    def __init__(self, *, container: str, name: str) -> None:
        super().__init__(cluster="", name=name, address="")
        self.container_name = container


class ForeignNode:
    """``brokers.base.Node``. answers: whether the broker on it answers a fresh connection, by its own address."""

    def __init__(self, told: TargetNode, answers: Callable[[], bool]) -> None:
        self.name = told.name
        self._told, self._answers = told, answers
        self._container = NamedContainer(container=told.container, name=told.name) if told.container else None

    @property
    def disk(self) -> Disk | None:
        return None

    def kill(self) -> None:
        if self._container is not None:
            self._container.kill()
            return
        self._command("kill")
        wait_until(lambda: not self._answers(), DOWN_S, f"node {self.name!r} to answer no more after its kill command")

    def stop(self) -> None:
        self._needs_container("stop").stop()

    def start(self) -> None:
        if self._container is not None:
            self._container.start()
        else:
            self._command("start")

    def pause(self) -> None:
        self._needs_container("pause").pause()

    def unpause(self) -> None:
        self._needs_container("unpause").unpause()

    def state(self) -> str:
        """Without a container: ``running`` where the broker answers, else ``exited``."""
        if self._container is not None:
            return self._container.state()
        return "running" if self._answers() else "exited"

    def logs(self) -> str:
        return self._container.logs() if self._container is not None else ""

    def _needs_container(self, doing: str) -> ContainerNode:
        if self._container is None:
            raise PlanError(f"{doing} of node {self.name!r}: its target file gives no container")
        return self._container

    def _command(self, what: str) -> None:
        command = self._told.commands.get(what)
        if not command:
            raise PlanError(f'{what} of node {self.name!r}: its target file gives no command; write {what} = "…"')
        try:
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=COMMAND_S, check=False)
        except subprocess.TimeoutExpired as exc:
            raise EnvironmentProblem(f"{what} command of node {self.name!r}: not done after {COMMAND_S:g} s") from exc
        if done.returncode:
            # Not its output: whoever wrote the command knows what it prints, we do not.
            raise EnvironmentProblem(
                f"{what} command of node {self.name!r} ended with {done.returncode}; run it by hand to see why"
            )


def unreached(target: Target) -> str:
    """What to try where this machine reaches the nodes and the proxy's container may not; "" where they are one network."""
    if target.on_loopback or front.way(target) == "local":
        return ""
    return (
        "; the proxy's container has to reach the addresses as well: of a broker in a container of this machine write 127.0.0.1 and "
        "its published port"
    )
