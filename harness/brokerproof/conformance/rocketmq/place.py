"""Where the peers of a RocketMQ scene are, and what can be done to them: one contract for a cluster and for the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from brokerproof.brokers.rocketmq.access import Access

Address = tuple[str, int]


class Place(Protocol):
    """brokers, name_servers: node names; the brokers of one set share a name and copy from its master."""

    brokers: Sequence[str]
    name_servers: Sequence[str]
    #: The one set of brokers' name, which is in every message queue and receipt handle.
    broker_name: str
    #: How one is let in: by what requests are signed; None where nobody is asked.
    access: Access

    def address(self, node: str) -> Address:
        """Of the remoting port of a broker or name server, on a link of its own that no fault breaks."""

    def proxy(self) -> Address:
        """Of the gRPC proxy."""

    def master(self) -> str:
        """The node that is the master now; the last known one while there is none."""

    def kill(self, node: str) -> None: ...
    def stop(self, node: str) -> None: ...
    def start(self, node: str) -> None: ...

    def cut(self, left: Sequence[str], right: Sequence[str]) -> None:
        """Drops every packet between the two sides, and tells nobody; clients still reach both."""

    def heal(self) -> None: ...

    def slow_disk(self, node: str) -> bool:
        """Makes its disk so slow that a flush takes longer than it may; False where that cannot be done here."""

    def quick_disk(self, node: str) -> None: ...

    def memory(self, node: str) -> float:
        """MiB that it cannot give back, as the kernel counts them: pages of files are not in it."""

    def controller(self) -> Address:
        """Of the controller's remoting port, where the topology has one."""

    def connected(self, one: str, other: str) -> bool:
        """Whether there is a TCP connection between two nodes."""

    def registrations(self, name_server: str, broker: str, since: float) -> list[float]:
        """When that broker registered there, in seconds since 1970 by this machine's clock."""

    def wait_healthy(self, timeout_s: float) -> None: ...
