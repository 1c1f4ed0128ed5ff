"""The broker of an experiment, as an application sees it: addresses through Toxiproxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from brokerproof.brokers.base import Cluster
from brokerproof.errors import PlanError


class Way:
    """One way to the broker: the addresses of a group of clients. Link faults break the way ``producer`` and no other."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    @property
    def endpoint(self) -> Any:
        """All that the product's clients need to connect, as JSON; see ``Cluster.endpoint``."""
        return self._cluster.endpoint(self._group)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each node; of RocketMQ, of the gRPC proxy."""
        product, endpoint = self._cluster.product, self.endpoint
        if product == "rabbitmq":
            return [(host, port) for host, port in endpoint["addresses"]]
        if product == "kafka":
            return [(host, int(port)) for host, _, port in (b.rpartition(":") for b in endpoint["bootstrap"])]
        if product == "rocketmq":
            host, port = endpoint["grpc"]
            return [(host, port)]
        raise PlanError(f"{product} runs in this process and has no address; use .cluster")

    @property
    def bootstrap(self) -> str:
        """``host:port,host:port``: Kafka's ``bootstrap.servers``, RocketMQ's endpoints."""
        return ",".join(f"{host}:{port}" for host, port in self.addresses)

    @property
    def url(self) -> str:
        """``amqp://`` URL of the first node. Raises PlanError for a product that has no such thing."""
        if self._cluster.product != "rabbitmq":
            raise PlanError(f"{self._cluster.product} has no URL; use .bootstrap")
        endpoint = self.endpoint
        host, port = endpoint["addresses"][0]
        return f"amqp://{endpoint['user']}:{endpoint['password']}@{host}:{port}/%2F"

    @property
    def urls(self) -> list[str]:
        """One for each node."""
        endpoint = self.endpoint
        return [f"amqp://{endpoint['user']}:{endpoint['password']}@{host}:{port}/%2F" for host, port in self.addresses]


class Target(Way):
    """The broker, by the way that faults break. ``unbroken``: the way that they do not, for reading the truth.

    ``name(text)``: a name of this arm's own for a queue, a topic or a group; faults whose target is ``leader`` mean the
    leader of the first one that was asked for.
    """

    def __init__(self, cluster: Cluster, named: Callable[[str], str]) -> None:
        super().__init__(cluster, "producer")
        self.cluster = cluster
        self.unbroken = Way(cluster, "admin")
        self._named = named

    @property
    def product(self) -> str:
        return self.cluster.product

    @property
    def version(self) -> str:
        return self.cluster.version

    @property
    def nodes(self) -> Sequence[str]:
        return tuple(self.cluster.nodes)

    def name(self, text: str) -> str:
        return self._named(text)
