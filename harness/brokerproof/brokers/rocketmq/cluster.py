"""RocketMQ as a cluster: name servers, sets of brokers, and a gRPC proxy started after them.

    client --toxiproxy--> p1 (gRPC proxy) --> b1 | m1 ==> s1 | b1 <=> b2 | b1, b2          ns <-- all of them

Clients speak gRPC to ``p1``. It counts as a client: it is no node that faults break, and peer cuts (brokers and name
server) spare its links. Set-up, health and the final read speak the remoting protocol to the brokers, each through an
admin link of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import LINK_GROUPS, Json, Link, Node
from brokerproof.brokers.rocketmq import configuration, places, remoting
from brokerproof.brokers.rocketmq import gateway as grpc_gateway
from brokerproof.brokers.rocketmq.adopted import AdoptsRocketmq
from brokerproof.brokers.rocketmq.configuration import GATEWAY, LAYOUTS, NAME_SERVER, STORE, Layout
from brokerproof.brokers.rocketmq.gateway import Gateway, GatewayError
from brokerproof.errors import DeadlineError, HarnessError, ProvisionError, unknown
from brokerproof.plan import Destination
from brokerproof.runtime import images
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import ContainerNode
from brokerproof.runtime.peers import ContainerPeers
from brokerproof.runtime.proxy import ProxyLink
from brokerproof.runtime.seeking import seek
from brokerproof.waiting import wait_until
from brokerproof.where import Where

_PROBE_TOPIC = "brokerproof-probe"
#: Group of the link to the controller inside the name server.
CONTROLLER = "controller"
#: Links to the remoting ports of brokers and name servers, for protocol cases in TCP segments of one octet.
SLICED = "sliced"
_START_S = 120.0
_CREATE_S = 60.0
_NOT_YET = (OSError, remoting.RemotingError, remoting.ProtocolError, GatewayError)


class _Unreached(HarnessError):
    """A broker did not answer in time, or not at all."""


class RocketmqCluster:
    """A running cluster. Made by ``BROKER.start`` or ``BROKER.attach``.

    read_from: where the final read looks: "master", "slave", or "" for each master while it runs, else its slave.
    """

    product = "rocketmq"
    in_process = False
    keeps_consumed = True
    #: What a killed simple consumer held is invisible for 10 s more (the least that the gRPC proxy takes); what a push
    #: consumer held, until it is missed (``channelExpiredTimeout``, 15 to 25 s). Reviving takes a few seconds on top.
    redelivery_s = 35.0

    def __init__(self, ground: Ground, *, version: str, topology: str, settings: Json) -> None:
        self.version = version
        self.topology = topology
        self.read_from = ""
        self._ground = ground
        self._settings = dict(settings)
        self._layout = LAYOUTS[topology]
        self._brokers = self._layout.brokers
        self._name_servers = self._layout.name_servers
        #: The master of each set as it was when somebody last said.
        self._masters = [nodes[0] for nodes in self._layout.sets]
        self._launched: list[ContainerNode] = []
        self._links = {link.name: link for link in ground.links}
        for link in ground.links:
            if link.node == GATEWAY:
                continue
            link.opening = remoting.OPENING
            if link.group not in ("admin", CONTROLLER, SLICED):
                # Carries oneway sends, which gRPC has not: one client link with the gateway's, broken with it.
                link.node = GATEWAY
        #: Brokers and name servers. Not the gateway, which counts as a client.
        self.nodes: Mapping[str, Node] = {name: ground.nodes[name] for name in (*self._brokers, *self._name_servers)}
        self.peers: ContainerPeers | None = ground.peers([*self._brokers, *self._name_servers], self._brokers)

    @contextlib.contextmanager
    def wiring(self) -> Iterator[RocketmqCluster]:
        """See ``brokers.base.SupportsWiring``: cases ask each broker by itself (``routes``, ``replicas``)."""
        yield self

    @property
    def brokers(self) -> tuple[str, ...]:
        return self._brokers

    @property
    def name_servers(self) -> tuple[str, ...]:
        return self._name_servers

    @property
    def gateway(self) -> Node:
        """The gRPC proxy, which no fault hits."""
        return self._ground.nodes[GATEWAY]

    @property
    def controller_address(self) -> tuple[str, int]:
        """The controller's remoting port, in a topology with one."""
        return self._address(CONTROLLER, NAME_SERVER)

    @property
    def gateway_address(self) -> tuple[str, int]:
        """On a link that no fault breaks."""
        return self._address("admin", GATEWAY)

    # -- addresses -----------------------------------------------------------------------------------------------------

    def admin_address(self, node: str) -> tuple[str, int]:
        """The remoting port of a broker or a name server, on a link that no fault breaks."""
        return self._address("admin", node)

    @property
    def masters(self) -> list[str]:
        """The master of each set of brokers. A controller's choice is the name server's to tell; the last that it told
        while it is away."""
        if self._layout.elected:
            with contextlib.suppress(*_NOT_YET):
                told = self._registered()
                self._masters = [next((n for n in nodes if told.get(n) == 0), was)
                                 for nodes, was in zip(self._layout.sets, self._masters, strict=True)]  # fmt: skip
        return self._masters

    @property
    def master(self) -> str:
        return self.masters[0]

    def links(self, group: str) -> Sequence[Link]:
        """All links of the group go to the gateway ``p1``, but for those of ``admin``."""
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """``grpc``: the gateway. ``brokers``: remoting addresses of this group (oneway sends).
        ``setup``: remoting addresses that no fault breaks, for making consumer groups and for the final read, which is of
        ``read_from``."""
        return {
            "grpc": list(self._address(group, GATEWAY)),
            "brokers": {b: list(self._address(group, b)) for b in self._brokers if f"{group}-{b}" in self._links},
            "setup": {b: list(self._address("admin", b)) for b in self._brokers},
            "masters": list(self.masters),
            "read_from": self._reading(),
        }

    def _address(self, group: str, node: str) -> tuple[str, int]:
        return self.link(group, node).address

    def link(self, group: str, node: str) -> ProxyLink:
        return self._links[f"{group}-{node}"]

    def _reading(self) -> list[str]:
        """Of each set the node to read."""
        chosen = []
        for nodes, master in zip(self._layout.sets, self.masters, strict=True):
            slaves = [node for node in nodes if node != master]
            up = [node for node in (master, *slaves) if self._ground.nodes[node].state() == "running"]
            by_role = {"slave": slaves, "master": [master], "": up}[self.read_from]
            chosen.append((by_role or [master])[0])
        return chosen

    @contextlib.contextmanager
    def talk(self, node: str, timeout_s: float = 3.0) -> Iterator[remoting.Connection]:
        """To a broker or a name server, on a link that no fault breaks."""
        with remoting.Connection(self._address("admin", node), timeout_s) as connection:
            yield connection

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        settings = destination.settings
        message_type = str(settings.get("message.type", "NORMAL"))
        queues = int(settings.get("queues", 4))

        # A slave copies its master's topics every 60 s only, and does not serve one that it has not heard of: what is
        # in its log would be out of reach. So it is told, as it would have learnt. Source: BrokerController.java,
        # ``lastSyncTimeMs``.
        def created(broker: str) -> bool:
            with self._reaching(f"creating topic {name!r} on {broker!r}"), self.talk(broker, _CREATE_S / 3) as to:
                remoting.create_topic(to, name, queues=queues, message_type=message_type)
            return True

        for broker in self._brokers:
            # Asking twice does no harm, and a busy machine answers late: the broker writes the list of all its topics anew.
            what = f"topic {name!r} created on {broker!r}"
            wait_until(partial(created, broker), _CREATE_S, what, retry_on=(_Unreached,))
        # The gateway remembers for 20 s that a topic is not there: it is not asked before the name server knows.
        wait_until(
            lambda: self._routed(name),
            _CREATE_S,
            f"topic {name!r} known to the name server",
            interval_s=0.05,
            retry_on=_NOT_YET,
        )
        self._pass_through(name, message_type, _CREATE_S)

    def _routed(self, topic: str) -> bool:
        """Whether every name server knows that every set of brokers has the topic."""
        for name in self._name_servers:
            with self.talk(name) as to:
                if len(remoting.route(to, topic)) < len(self._layout.sets):
                    return False
        return True

    def _pass_through(self, topic: str, message_type: str, timeout_s: float) -> None:
        def passed() -> bool:
            with Gateway(self._address("admin", GATEWAY)) as gateway:
                gateway.pass_through(topic, message_type, _PROBE_TOPIC)
            return True

        wait_until(passed, timeout_s, f"a message to pass through {topic!r}", interval_s=0.1, retry_on=_NOT_YET)

    @staticmethod
    @contextlib.contextmanager
    def _reaching(doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise _Unreached(f"{doing}: {exc}") from exc
        except _NOT_YET as exc:
            raise HarnessError(f"{doing}: {exc}") from exc

    def delete(self, destination: Destination, name: str) -> None:
        for broker in self._brokers:
            with contextlib.suppress(*_NOT_YET), self.talk(broker) as to:
                to.call(remoting.DELETE_TOPIC_IN_BROKER, {"topic": name})
        for server in self._name_servers:
            with contextlib.suppress(*_NOT_YET), self.talk(server) as to:
                to.call(remoting.DELETE_TOPIC_IN_NAMESRV, {"topic": name})

    def leader(self, name: str, partition: int = 0) -> str:
        """The master, of the first set where there are more: without a controller no other broker ever takes writes."""
        return self.master

    def replicas(self, name: str) -> Sequence[str]:
        return list(self._brokers)

    # -- state ---------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        seen: dict[str, Any] = {}

        def healthy() -> bool:
            seen.clear()
            seen.update(self._states())
            if set(seen["states"].values()) != {"running"}:
                return False
            seen["registered"] = {name: self._registered(name) for name in self._name_servers}
            if not all(self._layout.complete(told) for told in seen["registered"].values()):
                self._nudge([b for b in self._brokers if any(b not in told for told in seen["registered"].values())])
                return False
            if self._replicated:
                seen["replication"] = self._replication()
                if not seen["replication"]:
                    # A slave that registered before its master has not heard where that is.
                    self._nudge([b for b in self._brokers if b != self.master])
                if not seen["replication"] or not all(map(self._caught_up, seen["replication"])):
                    return False
            with Gateway(self._address("admin", GATEWAY)) as gateway:
                try:
                    gateway.pass_through(_PROBE_TOPIC, "NORMAL", _PROBE_TOPIC)
                except GatewayError:
                    # A slave of 5.3.3 fails to copy topics that have attributes (apache/rocketmq 9403): as a new master it is without them.
                    # Those of a trial are the trial's to miss; that ours is gone says nothing of whether messages pass.
                    if without := self._without_probe():
                        self._make_probe(without)
                        seen["probe topic made again on"] = without
                    raise
            return True

        def last() -> object:
            return dict(seen)

        wait_until(healthy, timeout_s, f"cluster {self._ground.name!r} healthy", interval_s=0.2, retry_on=_NOT_YET,
                   last_state=last)  # fmt: skip

    def _make_probe(self, brokers: Sequence[str]) -> None:
        for broker in brokers:
            with self.talk(broker) as to:
                remoting.create_topic(to, _PROBE_TOPIC, queues=1, message_type="NORMAL")
                # Where autoCreateSubscriptionGroup is off nobody else makes it.
                remoting.create_group(to, _PROBE_TOPIC, orderly=False)

    def _without_probe(self) -> list[str]:
        """Masters that do not have the probe's topic. A slave learns its topics from its master."""
        without = []
        for broker in self.masters:
            try:
                with self.talk(broker) as to:
                    remoting.queues_of(to, _PROBE_TOPIC)
            except remoting.RemotingError as exc:
                if exc.code != remoting.TOPIC_NOT_EXIST:
                    raise
                without.append(broker)
        return without

    def _caught_up(self, slave: Mapping[str, Any]) -> bool:
        """One that only learns is never one of the in-sync replicas."""
        return not slave["diff"] and (slave["inSync"] or bool(self._settings.get("asyncLearner")))

    def _states(self) -> dict[str, Any]:
        return {"states": {n: node.state() for n, node in {**self.nodes, GATEWAY: self._ground.nodes[GATEWAY]}.items()}}

    @property
    def _replicated(self) -> bool:
        """By the vendor's own HA service, which a DLedger group does without."""
        return not self._layout.raft and any(len(nodes) > 1 for nodes in self._layout.sets)

    def _registered(self, name_server: str = NAME_SERVER) -> dict[str, int]:
        """Node -> id of each broker that is registered there: 0 is a master."""
        by_address = {node.address: name for name, node in self._ground.nodes.items()}
        with self.talk(name_server) as to:
            return {
                by_address[host]: number for ids in remoting.cluster_info(to).values() for number, host in ids.items()
            }

    def _nudge(self, brokers: Sequence[str]) -> None:
        """A broker that starts before its name server tries again only after 10 s. It also registers at once when its
        permission is set, here to what it is (6, read and write). Source: AdminBrokerProcessor.updateBrokerConfig.

        With a controller a broker registers as soon as it has a role, and not before."""
        if self._layout.controller:
            return
        for broker in brokers:
            with contextlib.suppress(*_NOT_YET), self.talk(broker) as to:
                to.call(remoting.UPDATE_BROKER_CONFIG, {}, b"brokerPermission=6\n")

    def _replication(self) -> list[dict[str, Any]]:
        """What the master says of each slave that is connected: acknowledged offset, bytes behind, in sync."""
        with self.talk(self.master) as to:
            status = remoting.loads(to.call(remoting.GET_BROKER_HA_STATUS, {}).body)
        names = ("addr", "slaveAckOffset", "diff", "inSync")
        return [{name: slave.get(name) for name in names} for slave in remoting.in_sync_slaves(status)]

    def sync(self) -> None:
        for broker in self._brokers:
            self._ground.nodes[broker].sync(STORE)

    def segments(self, node: str, name: str) -> Sequence[str]:
        """All topics of a broker share one log."""
        return ("0/commitlog/*",)

    def observe(self, names: Sequence[str]) -> Json:
        seen: dict[str, Any] = {"master": self.master, **self._states()}
        for key, look in (("registered", self._registered), ("replication", self._replication)):
            if key == "replication" and not self._replicated:
                continue
            try:
                seen[key] = look()
            except _NOT_YET as exc:
                seen[key] = type(exc).__name__
        seen["offsets"] = {name: {b: self._offsets(b, name) for b in self._brokers} for name in names}
        return seen

    def _offsets(self, broker: str, topic: str) -> Any:
        try:
            with self.talk(broker, 1.0) as to:
                return [list(pair) for pair in remoting.offsets_of(to, topic, remoting.queues_of(to, topic))]
        except _NOT_YET as exc:
            return type(exc).__name__

    def settings(self) -> Json:
        addresses = {name: node.address for name, node in self._ground.nodes.items()}
        made: dict[str, Any] = {"version": self.version, "topology": self.topology, "proxy": self._proxy_settings()}
        for broker in self._brokers:
            asked = configuration.broker_settings(self.topology, broker, addresses, self._settings)
            made[broker] = self._live(broker, asked)
        return made

    def own_clock(self, node: str) -> tuple[float, float, str] | None:
        """See ``brokers.base.TellsTime``. The name server tells none."""
        if node not in self._brokers:
            return None
        before = time.time()
        with self._reaching(f"asking {node!r} for its time"), self.talk(node) as to:
            told = remoting.time_of_day(remoting.runtime_info(to))
        after = time.time()
        return told - (before + after) / 2, (after - before) / 2 + 0.5, "start and time run, in whole seconds"

    def _live(self, broker: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the broker says of the settings it was given, and of those that durability hangs on."""
        try:
            return self._told(broker, asked)
        except _NOT_YET:
            return {name: configuration.word(value) for name, value in asked.items()}

    def _told(self, broker: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        words = {*asked, "brokerRole", "flushDiskType", "totalReplicas", "inSyncReplicas", "minInSyncReplicas"}
        words |= {"flushIntervalCommitLog", "flushCommitLogLeastPages", "slaveReadEnable"}
        with self.talk(broker) as to:
            live = remoting.properties(to.call(remoting.GET_BROKER_CONFIG, {}).body)
            live["brokerVersionDesc"] = remoting.runtime_info(to).get("brokerVersionDesc", "")
        return {name: live[name] for name in sorted({*words, "brokerVersionDesc"}) if name in live}

    def locate(
        self, lanes: Mapping[str, Destination], marks: Mapping[bytes, tuple[str, int]], deadline: float
    ) -> Mapping[str, Mapping[bytes, Where]]:
        """See ``brokers.base.Locates``."""

        def one(broker: str) -> Mapping[bytes, Where]:
            node = self._ground.nodes[broker]
            found = seek(node, places.FOLDERS, marks, read=places.read, deadline=deadline)
            end = self._log_end(broker)
            return {m: places.within(where, end) for m, where in found.items()}

        with ThreadPoolExecutor(len(self._brokers)) as pool:
            return dict(zip(self._brokers, pool.map(one, self._brokers), strict=True))

    def _log_end(self, broker: str) -> int | None:
        """The physical offset up to which its commit log is valid; None where it does not answer."""
        if self._ground.nodes[broker].state() != "running":
            return None
        with contextlib.suppress(*_NOT_YET, KeyError), self.talk(broker) as to:
            return int(remoting.runtime_info(to)["commitLogMaxOffset"])
        return None

    def adjust(self, settings: Json) -> None:
        """See ``brokers.base.Adjustable``. The broker writes them to its file as well, so they outlive a restart."""
        wanted = {**configuration.LIVE, **settings}
        if self._layout.controller:
            if "brokerRole" in settings:
                raise ProvisionError("brokerRole is the controller's to set; leave it out, or take another topology")
            del wanted["brokerRole"]
        # Whoever is a slave today may be the master tomorrow.
        for broker in self._brokers if self._layout.controller else self.masters:
            with self._reaching(f"setting {wanted} on {broker!r}"), self.talk(broker) as to:
                to.call(remoting.UPDATE_BROKER_CONFIG, {}, configuration.text(wanted).encode())
            self._taken(broker, wanted)
        self._settings.update(wanted)

    def _proxy_settings(self) -> dict[str, Any]:
        addresses = {name: node.address for name, node in self._ground.nodes.items()}
        return configuration.proxy_settings(self.topology, addresses, self._settings)

    # -- life ----------------------------------------------------------------------------------------------------------

    def save_logs(self, folder: Path) -> None:
        self._ground.save_logs(folder)

    def close(self) -> None:
        self._ground.close()

    def boot(self, progress: Callable[[str], None], equipment: Sequence[str] = ()) -> None:
        """Launches the nodes and waits until a message went through and came back."""
        image = images.ensure("rocketmq", self.version).tag
        addresses = {name: node.address for name, node in self._ground.nodes.items()}
        specs = []
        for name in self._name_servers:
            settings = configuration.name_server_settings(self.topology, name, addresses, self._settings)
            specs.append(configuration.name_server(image, self.version, name, settings))
        for broker in self._brokers:
            settings = configuration.broker_settings(self.topology, broker, addresses, self._settings)
            specs.append(configuration.broker(image, self.version, broker, settings))
        with ThreadPoolExecutor(len(specs)) as pool:
            self._launched = list(pool.map(self._ground.launch, specs))
        progress(f"{self._ground.name}: {', '.join(self.nodes)} started")
        self._while_up(self._all_registered, "the brokers to register with the name server")
        # The slave, if there is one, learns at this where its master is.
        self._nudge([b for b in self._brokers if b not in self.masters])
        # It looks for a broker to keep its system topic on, once, and exits without one.
        self._launched.append(self._ground.launch(configuration.gateway(image, self.version, self._proxy_settings())))
        progress(f"{self._ground.name}: brokers registered, gRPC proxy started")
        for broker in self._brokers:
            self._taken(broker, configuration.broker_settings(self.topology, broker, addresses, self._settings))
        self._make_probe(self._brokers)
        self._while_up(self._answers, "the gRPC proxy to answer")
        self.wait_healthy(_START_S)

    def _all_registered(self) -> bool:
        for name in self._name_servers:
            registered = self._registered(name)
            if not self._layout.complete(registered):
                self._nudge([b for b in self._brokers if b not in registered])
                return False
        return True

    def _taken(self, broker: str, asked: Mapping[str, Any]) -> None:
        """A broker starts on its default for a name or a value that it does not know, and says nothing."""
        live = wait_until(
            partial(self._told, broker, asked), _START_S, f"the settings of broker {broker!r}", retry_on=_NOT_YET
        )
        for name, value in asked.items():
            if live.get(name) != configuration.word(value):
                raise ProvisionError(
                    f"broker {broker!r}: setting {name!r} was given as {configuration.word(value)!r} and is "
                    f"{live.get(name, 'unknown to it')!r}; see BrokerConfig.java and MessageStoreConfig.java for its form"
                )

    def _answers(self) -> bool:
        return self.link("admin", GATEWAY).greet(1.0).answered

    def renew_gateway(self) -> None:
        """Ends the gRPC proxy and starts it again, once all brokers are registered: it would end itself without them."""
        wait_until(self._all_registered, _START_S, "the brokers to register with the name server", retry_on=_NOT_YET)
        if self.gateway.state() == "running":
            self.gateway.kill()
        self.gateway.start()

    def _while_up(self, condition: Callable[[], bool], why: str) -> None:
        """Waits for a condition; a node that exits meanwhile ends it with that node's last words."""

        def met() -> bool:
            for node in self._launched:
                node.ensure_running(why)
            return condition()

        wait_until(met, _START_S, why, interval_s=0.1, retry_on=_NOT_YET)


class Rocketmq(AdoptsRocketmq):
    """``brokers.base.Broker``."""

    product = "rocketmq"
    versions = ("5.5.0", "5.3.3")
    topologies: Mapping[str, str] = {name: layout.explained for name, layout in LAYOUTS.items()}
    capabilities = frozenset({"peers", "several_consumers_per_lane", "fifo", "slave"})
    capability_versions: Mapping[str, str] = {}
    live_settings = frozenset(configuration.LIVE)

    def start(self, *, version: str, topology: str, settings: Json, name: str, run: str,
              progress: Callable[[str], None], equipment: Sequence[str] = ()) -> RocketmqCluster:  # fmt: skip
        layout = self._layout(topology)
        links = [LinkSpec(group, GATEWAY, configuration.GATEWAY_PORT) for group in LINK_GROUPS]
        # Oneway sends go to the master, whoever that may come to be.
        to = layout.brokers if layout.elected else layout.brokers[:1]
        links += [LinkSpec(group, b, configuration.BROKER_PORT) for group in ("producer", "sham") for b in to]
        links += [LinkSpec("admin", broker, configuration.BROKER_PORT) for broker in layout.brokers]
        links += [LinkSpec("admin", name, configuration.NAME_SERVER_PORT) for name in layout.name_servers]
        links += [LinkSpec(SLICED, broker, configuration.BROKER_PORT) for broker in layout.brokers]
        links += [LinkSpec(SLICED, name, configuration.NAME_SERVER_PORT) for name in layout.name_servers]
        if layout.controller:
            links.append(LinkSpec(CONTROLLER, NAME_SERVER, configuration.CONTROLLER_PORT))
        ground = Ground.open(
            name=name,
            run=run,
            nodes=[*layout.brokers, *layout.name_servers, GATEWAY],
            links=links,
            opening=grpc_gateway.OPENING,
            equipment=equipment,
        )
        cluster = RocketmqCluster(ground, version=version, topology=topology, settings=settings)
        try:
            cluster.boot(progress)
        except DeadlineError as exc:
            tails = {n: "\n    ".join(node.logs(tail=8).splitlines()) for n, node in ground.nodes.items()}
            cluster.close()
            said = "\n".join(f"  {n}:\n    {tail}" for n, tail in tails.items())
            raise ProvisionError(f"starting cluster {name!r}: {exc}\n{said}") from exc
        except BaseException:
            cluster.close()
            raise
        return cluster

    def attach(self, *, version: str, topology: str, settings: Json, name: str, run: str) -> RocketmqCluster:
        self._layout(topology)
        ground = Ground.attach(name=name, run=run, opening=grpc_gateway.OPENING)
        return RocketmqCluster(ground, version=version, topology=topology, settings=settings)

    def _layout(self, topology: str) -> Layout:
        if topology not in LAYOUTS:
            raise unknown("rocketmq topology", topology, LAYOUTS)
        return LAYOUTS[topology]


BROKER = Rocketmq()
