"""The footing of one cluster: a network with fixed addresses, a Toxiproxy, the node containers, their peer links.

    client process --127.0.0.1:port--> toxiproxy --> node          only the proxy publishes ports, on loopback
    side container --nsenter--> nodes' network namespaces           peer links

Everything carries the labels of the run and of the cluster, and a name that starts with the cluster's, so another
process attaches by name and the sweeper finds what a killed harness left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import docker.types

from brokerproof.brokers.base import Opening
from brokerproof.errors import EnvironmentProblem, HarnessError
from brokerproof.runtime import equipment as equipment_kinds
from brokerproof.runtime import images, sweep
from brokerproof.runtime.node import (
    LABEL_CLUSTER,
    LABEL_MEMORY,
    LABEL_OWNER,
    LABEL_RUN,
    ContainerNode,
    NodeSpec,
    client,
    engine_errors,
)
from brokerproof.runtime.peers import ContainerPeers
from brokerproof.runtime.proxy import ProxyLink, ProxyServer
from brokerproof.runtime.silencer import ContainerSilencer
from brokerproof.waiting import wait_until

LOOPBACK = "127.0.0.1"
_LABEL_SHAPE = "brokerproof.shape"
_API_PORT = 8474
# 10.86.0.0/16 cut into /24 networks; one that is taken is passed over.
_SUBNETS = [f"10.86.{i}" for i in range(1, 255)]


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A client link: clients of ``group`` reach ``port`` of ``node``; ``published`` is the loopback port, 0 to choose.

    upstream: ``host:port`` that the proxy dials instead, where the node is not one of ours.
    """

    group: str
    node: str
    port: int
    published: int = 0
    upstream: str = ""


class Ground:
    """Made by ``open`` (starts) or ``attach`` (takes hold of what runs)."""

    def __init__(self, *, name: str, run: str, shape: Mapping[str, Any], opening: Opening) -> None:
        self.name, self.run = name, run
        self.proxy = "Toxiproxy, a container"
        self._shape = shape
        self.nodes = {n: ContainerNode(cluster=name, name=n, address=a) for n, a in shape["nodes"].items()}
        self._toxiproxy = ContainerNode(cluster=name, name="toxiproxy", address=shape["toxiproxy"])
        self._side = ContainerNode(cluster=name, name="side", address="")
        self.server = ProxyServer(LOOPBACK, shape["api_port"])
        silencer = NoSilencer() if self._on_host else ContainerSilencer(self._side, self._toxiproxy)
        self.links = [
            ProxyLink(
                self.server,
                silencer,
                group=s["group"],
                node=s["node"],
                address=(LOOPBACK, s["published"]),
                opening=opening,
            )
            for s in shape["links"]
        ]
        for kind in shape.get("equipment", ()):
            equipment_kinds.kind(kind).attach(self.nodes, cluster=name, run=run)
        #: Node -> time stamp of the last line of its log that was saved.
        self._saved: dict[str, str] = {}

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def _on_host(self) -> bool:
        return bool(self._shape.get("on_host"))

    @classmethod
    def open(
        cls, *, name: str, run: str, nodes: Sequence[str], links: Sequence[LinkSpec], opening: Opening,
        equipment: Sequence[str] = (), on_host: bool = False,
    ) -> Ground:  # fmt: skip
        """Makes network, proxy and side container. The nodes are launched one by one with ``launch``.

        nodes: names; each gets a fixed address and is known by its name on the network.
        opening: the protocol's first words; probes speak them.
        equipment: what nodes that keep data are started with besides, see ``Plan.equipment``.
        on_host: the proxy is in the host's own network, and reaches what only listens on its loopback; links cannot be
            silenced there, since that would be rules in the host's packet filter.
        """
        sweep.register(run)
        with published_ports(len(links) + 1) as ports:
            subnet = "" if on_host else _make_network(name, run)
            addresses = {node: f"{subnet}.{10 + i}" for i, node in enumerate(nodes)}
            specs = [
                {"group": s.group, "node": s.node, "port": s.port, "published": s.published or ports[i],
                 "upstream": s.upstream or f"{addresses[s.node]}:{s.port}"}
                for i, s in enumerate(links)
            ]  # fmt: skip
            shape = {
                "nodes": addresses,
                "toxiproxy": f"{subnet}.5",
                "api_port": ports[-1],
                "links": specs,
                "equipment": list(equipment),
                "on_host": on_host,
            }
        ground = cls(name=name, run=run, shape=shape, opening=opening)
        try:
            with ThreadPoolExecutor(2) as both:
                for future in [both.submit(ground._start_proxy), both.submit(ground._start_side)]:
                    future.result()
        except BaseException:
            ground.close()
            raise
        return ground

    @classmethod
    def attach(cls, *, name: str, run: str, opening: Opening) -> Ground:
        """Raises EnvironmentProblem when there is no such cluster."""
        with engine_errors(f"attaching to cluster {name!r}"):
            proxy = client().containers.get(f"{name}-toxiproxy")
            shape = json.loads(proxy.labels[_LABEL_SHAPE])
        return cls(name=name, run=run, shape=shape, opening=opening)

    def launch(self, spec: NodeSpec) -> ContainerNode:
        """Starts a node's container on the network; does not wait for it to be ready."""
        node = self.nodes[spec.name]
        self._run_container(spec, node.address)
        if spec.data:
            for name in self._shape.get("equipment", ()):
                equipment_kinds.kind(name).check(node)
        return node

    def close(self) -> None:
        """Removes the containers, the network and what equipment made outside of them; safe to call twice."""
        sweep.remove(cluster=self.name)
        for name in self._shape.get("equipment", ()):
            equipment_kinds.kind(name).remove(self.name)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def links_of(self, group: str) -> list[ProxyLink]:
        return [link for link in self.links if link.group == group]

    def link(self, group: str, node: str) -> ProxyLink:
        for link in self.links:
            if link.group == group and link.node == node:
                return link
        raise HarnessError(f"cluster {self.name!r} has no link of group {group!r} to {node!r}")

    def peers(self, nodes: Sequence[str] | None = None, replicas: Sequence[str] | None = None) -> ContainerPeers:
        """The links between these nodes (all of them by default; leave gateways out: they count as clients).

        replicas: those that keep copies of messages; all of them by default.
        """
        chosen = {n: self.nodes[n] for n in (nodes if nodes is not None else self.nodes)}
        return ContainerPeers(self._side, chosen, replicas)

    def save_logs(self, folder: Path) -> None:
        """What every container has logged since the last time this was called; a file each."""
        folder.mkdir(parents=True, exist_ok=True)
        for node in [*self.nodes.values(), self._toxiproxy]:
            with contextlib.suppress(HarnessError):
                lines = node.logs_after(self._saved.get(node.name, ""))
                (folder / f"{node.name}.log").write_text(lines)
                if lines:
                    self._saved[node.name] = lines.rstrip("\n").rpartition("\n")[2].partition(" ")[0]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start_proxy(self) -> None:
        image = images.ensure("toxiproxy").tag
        labels = {_LABEL_SHAPE: json.dumps(self._shape)}
        api_port, inside = self._shape["api_port"], "127.0.0.1" if self._on_host else "0.0.0.0"
        command = ["-host", inside, *(["-port", str(api_port)] if self._on_host else [])]
        spec = NodeSpec(name="toxiproxy", image=image, command=command, memory_mb=512)
        if self._on_host:
            self._run_container(spec, None, labels=labels, network_mode="host")
        else:
            ports = {f"{s['published']}/tcp": s["published"] for s in self._shape["links"]}
            self._run_container(
                spec, self._shape["toxiproxy"], ports={**ports, f"{_API_PORT}/tcp": api_port}, labels=labels
            )
        wait_until(self.server.answers, 20, f"the proxy of cluster {self.name!r} to answer", interval_s=0.05)
        for s in self._shape["links"]:
            self.server.create(f"{s['group']}-{s['node']}", listen=f"{inside}:{s['published']}", upstream=s["upstream"])

    def _start_side(self) -> None:
        if self._on_host:
            return
        spec = NodeSpec(name="side", image=images.ensure("side").tag, command=["sleep", "infinity"], memory_mb=256)
        self._run_container(
            spec, None, network_mode="none", pid_mode="host", cap_add=["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"],
            security_opt=["apparmor=unconfined"], init=True,
        )  # fmt: skip

    def _run_container(
        self, spec: NodeSpec, address: str | None, *, ports: Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None, **more: Any,
    ) -> None:  # fmt: skip
        from testcontainers.core.container import DockerContainer  # slow import, and only here

        equipped: dict[str, Any] = {}
        if spec.data:
            for name in self._shape.get("equipment", ()):
                spec, options = equipment_kinds.kind(name).equip(spec, cluster=self.name, run=self.run)
                equipped |= options
        container = DockerContainer(
            spec.image,
            command=list(spec.command),  # type: ignore[arg-type]  # a list is what the engine takes, and safer
            name=f"{self.name}-{spec.name}",
            transferables=[
                (content.encode() if isinstance(content, str) else content, path, 0o644)
                for path, content in spec.files.items()
            ],
        )
        container.with_envs(**spec.environment)
        for inner, outer in (ports or {}).items():
            container.ports[inner] = (LOOPBACK, outer)  # type: ignore[assignment]  # docker's form for one interface
        kwargs: dict[str, Any] = {
            "labels": {
                LABEL_RUN: self.run,
                LABEL_CLUSTER: self.name,
                LABEL_OWNER: sweep.owner_label(self.run),
                LABEL_MEMORY: str(spec.memory_mb),
                **(labels or {}),
            },
            "mem_limit": f"{spec.memory_mb}m",
            "memswap_limit": f"{spec.memory_mb}m",
            "detach": True,
            **more,
            **equipped,
        }
        if spec.user is not None:
            kwargs["user"] = spec.user
        if spec.entrypoint is not None:
            kwargs["entrypoint"] = list(spec.entrypoint)
        if address is not None:
            kwargs["hostname"] = spec.name
            kwargs["network"] = self.name
            kwargs["networking_config"] = {
                self.name: docker.types.EndpointConfig("1.41", aliases=[spec.name], ipv4_address=address)
            }
        container.with_kwargs(**kwargs)
        try:
            with engine_errors(f"starting {spec.name!r} of cluster {self.name!r} from image {spec.image!r}"):
                container.start()
        except EnvironmentProblem as exc:
            if "port is already allocated" in str(exc) or "address already in use" in str(exc):
                raise EnvironmentProblem(
                    f"a port that was free a moment ago is in use now: {exc}; run again, or free it"
                ) from exc
            raise


class NoSilencer:
    """``runtime.proxy.Silencer`` of a proxy in this machine's own network."""

    def silence(self, port: int) -> None:
        raise EnvironmentProblem(
            f"dropping the packets of port {port}: the proxy is in this machine's own network, as a process or because a node's "
            "address is on loopback; give an address that containers reach, and let the proxy be one"
        )

    def unsilence(self, port: int) -> None:
        """Nothing was silenced."""


def facts(run: str) -> dict[str, Any]:
    """Engine and image ids of what a run has started: ``{"engine": {...}, "images": {tag: id}}``; nothing where no engine answers,
    which then has started nothing."""
    try:
        engine = client()
    except EnvironmentProblem:
        return {}
    with engine_errors("asking for versions"):
        version = engine.version()
        containers = engine.containers.list(filters={"label": f"{LABEL_RUN}={run}"}, ignore_removed=True)
        images = {c.attrs["Config"]["Image"]: c.attrs["Image"] for c in containers}
    return {"engine": {"version": version["Version"], "kernel": version.get("KernelVersion", "")}, "images": images}


@contextlib.contextmanager
def published_ports(n: int) -> Iterator[list[int]]:
    """``n`` loopback ports that are free; held open until the block ends, so that no two clusters choose the same.

    Taken below the kernel's ephemeral range, or an outgoing connection could sit on one while a proxy restarts.
    """
    base = 20000 + int(hashlib.sha256(os.urandom(8)).hexdigest(), 16) % 8000
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        for port in range(base, 32000):
            sock = socket.socket()
            try:
                sock.bind((LOOPBACK, port))
            except OSError:
                sock.close()
                continue
            held.append(sock)
            ports.append(port)
            if len(ports) == n:
                break
        else:
            raise EnvironmentProblem(f"no {n} free loopback ports between {base} and 32000; what is using them all?")
        yield ports
    finally:
        for sock in held:
            sock.close()


def _make_network(name: str, run: str) -> str:
    """Makes the cluster's network; returns the first three octets of its subnet."""
    from testcontainers.core.network import Network

    start = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(_SUBNETS)
    last: Exception | None = None
    for i in range(len(_SUBNETS)):
        subnet = _SUBNETS[(start + i) % len(_SUBNETS)]
        pool = docker.types.IPAMPool(subnet=f"{subnet}.0/24")
        network = Network(
            docker_network_kw={
                "driver": "bridge",
                "ipam": docker.types.IPAMConfig(pool_configs=[pool]),
                "labels": {LABEL_RUN: run, LABEL_CLUSTER: name, LABEL_OWNER: sweep.owner_label(run)},
            }
        )
        network.name = name
        try:
            network.create()
            return subnet
        except docker.errors.APIError as exc:
            if "overlap" not in str(exc):
                raise EnvironmentProblem(f"making network {name!r}: the container engine says: {exc}") from exc
            last = exc
    raise EnvironmentProblem(f"no free subnet in 10.86.0.0/16 for network {name!r}: {last}")
