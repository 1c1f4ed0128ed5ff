"""A RocketMQ that somebody else runs: the same contract by what any client with an access key may ask.

Clients go where the gRPC proxy tells them. In cluster mode with ``useEndpointPortFromRequest`` that is where they came from, so
their links can go through proxies of ours, and those of oneway sends with them; otherwise all clients go directly, and no link can
be broken. What we ask ourselves goes directly, by remoting, to brokers and name servers. Topics are made on the masters that the
target file names, with the consumer groups of what looks at them; every group's name begins with its topic's.
Source: RouteActivity.java, ClusterTopicRouteService.java, LocalTopicRouteService.java of apache/rocketmq.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import LINK_GROUPS, Inspected, Json, Link, Node, Noted, Pacing, PeerLinks, Thing, unpaced
from brokerproof.brokers.rocketmq import access, remoting
from brokerproof.brokers.rocketmq import gateway as grpc_gateway
from brokerproof.brokers.rocketmq.configuration import GATEWAY
from brokerproof.brokers.rocketmq.gateway import Gateway, GatewayError
from brokerproof.errors import DeadlineError, EnvironmentProblem, HarnessError, ProvisionError, UsageError
from brokerproof.plan import Destination
from brokerproof.runtime import front
from brokerproof.runtime.foreign import ForeignNode, unreached
from brokerproof.runtime.ground import LOOPBACK, LinkSpec
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.proxy import greet
from brokerproof.target import Target, joined
from brokerproof.waiting import wait_until

Address = tuple[str, int]
_CREATE_S, _ASK_S, _GREET_S = 30.0, 5.0, 2.0
#: How long a question for messages waits: where the gRPC proxy's least is the default of 5 s, a shorter one with the library's
#: deadline is refused. Source: ProxyConfig.java, ReceiveMessageActivity.java.
_AWAIT_S = 5
#: What a proxy of ours may have for a port: asked with, to see what the gRPC proxy makes of it.
_SOME_PORT = 19181
_COMPANIONS = ("%RETRY%", "%DLQ%")
#: What another server calls the groups of ours that it has to know before they are used.
_PROBE, _READER = "probe", "reader"
_NOT_YET = (OSError, remoting.RemotingError, remoting.ProtocolError, GatewayError)
_NO_PERMISSION = 16
_DURABILITY = (
    "brokerRole", "flushDiskType", "flushIntervalCommitLog", "totalReplicas", "inSyncReplicas", "minInSyncReplicas",
)  # fmt: skip


class AdoptedRocketmq:
    """``brokers.base.Cluster``. Made by ``AdoptsRocketmq``."""

    product = "rocketmq"
    in_process = False
    keeps_consumed = True
    redelivery_s = 35.0
    peers: PeerLinks | None = None

    def __init__(self, target: Target, ground: front.Front, *, version: str, topology: str, run: str) -> None:
        self.version, self.topology = version, topology
        self._target, self._ground, self._run = target, ground, run
        self._journal = Journal(target.key)
        self._probe = f"{target.prefix}probe-{ground.name}"
        self.nodes: Mapping[str, Node] = {
            name: ForeignNode(node, partial(_answers, node.address)) for name, node in target.nodes.items()
        }
        self._oneway: dict[str, dict[str, Address]] = {}
        for link in ground.links:
            if link.node != GATEWAY:
                # Carries oneway sends, which gRPC has not: one client link with the gateway's, broken with it.
                self._oneway.setdefault(link.group, {})[link.node] = link.address
                link.opening, link.node = remoting.OPENING, GATEWAY

    # -- addresses -----------------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        """None for a group that goes directly."""
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """As ``RocketmqCluster.endpoint``; how one is let in (``access``); the group of the final read, and how long a question for
        messages waits."""
        direct = {node.name: node.address for node in self._target.nodes.values()}
        through = next((link.address for link in self._ground.links_of(group)), gateway_of(self._target))
        return {
            "grpc": list(through),
            "brokers": {n: list(a) for n, a in self._oneway.get(group, direct).items()},
            "setup": {n: list(a) for n, a in direct.items()},
            "masters": list(direct), "read_from": list(direct), "access": access.of(self._target),
            "reader": f"{name or self._probe}-{_READER}", "await_s": _AWAIT_S,
        }  # fmt: skip

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        thing = Thing("topic", name)
        if thing not in self._journal.left(lambda run: run == self._run):
            with let_in(self._target):
                known = known_topics(self._target)
            if name in known:
                raise UsageError(_somebodys(self._target, [name]))
            self._journal.making(self._run, [thing])
        kind = str(destination.settings.get("message.type", "NORMAL"))
        make(self._target, name, queues=int(destination.settings.get("queues", 4)), message_type=kind)
        wait_until(
            partial(passes, self._target, name, kind), _CREATE_S, f"a message through topic {name!r} of {self._target.key} and back",
            interval_s=0.1, retry_on=_NOT_YET,
        )  # fmt: skip

    def delete(self, destination: Destination, name: str) -> None:
        self._journal.gone(remove(self._target, [Thing("topic", name)]))

    def leader(self, name: str, partition: int = 0) -> str:
        """The first master: each leads the queues that it has."""
        return next(iter(self.nodes))

    def replicas(self, name: str) -> Sequence[str]:
        return list(self.nodes)

    # -- health --------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        def whole() -> bool:
            return routed(self._target, self._probe) and passes(self._target, self._probe, "NORMAL")

        wait_until(
            whole, timeout_s, f"a message through {self._target.key} and back", interval_s=0.2, retry_on=_NOT_YET
        )

    def sync(self) -> None:
        """What others run is not synced by us."""

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Json:
        return {
            "answering": [name for name, node in self._target.nodes.items() if _answers(node.address)],
            "offsets": {name: {node: self._offsets(node, name) for node in self.nodes} for name in names},
        }

    def _offsets(self, node: str, topic: str) -> Any:
        try:
            with talk(self._target, self._target.nodes[node].address, 1.0) as to:
                return [list(pair) for pair in remoting.offsets_of(to, topic, remoting.queues_of(to, topic))]
        except _NOT_YET as exc:
            return type(exc).__name__

    def settings(self) -> Json:
        return {
            "broker": {name: self._told(name) for name in self.nodes}, "nodes": len(self.nodes), "target": self._target.public(),
            "proxied": [group for group in LINK_GROUPS if self.links(group)], "proxy": self._ground.proxy,
        }  # fmt: skip

    def _told(self, node: str) -> Mapping[str, str]:
        """What durability hangs on, as that broker has it. Not the whole of it: credentials may be among that."""
        with contextlib.suppress(*_NOT_YET), talk(self._target, self._target.nodes[node].address) as to:
            live = remoting.properties(to.call(remoting.GET_BROKER_CONFIG, {}).body)
            return {name: live[name] for name in _DURABILITY if name in live}
        return {}

    def save_logs(self, folder: Path) -> None:
        """The proxy's. The nodes' are not ours to take."""
        self._ground.save_logs(folder)

    def close(self) -> None:
        try:
            self._journal.gone(remove(self._target, self._journal.left(lambda run: run == self._run)))
        finally:
            self._ground.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Makes the probe's topic, and passes a message through it."""
        self.create(Destination(name=self._probe, kind="queue", settings={"queues": 1}), self._probe)
        link = next((link.address for link in self._ground.links), None)
        if wrong := told_wrong(self._target, self._probe, link or gateway_of(self._target)):
            raise ProvisionError(f"{wrong}; `brokerproof target check {self._target.path}` says what to set")


class AdoptsRocketmq:
    """``brokers.base.Adopts``."""

    adopted_capabilities = frozenset({"several_consumers_per_lane", "fifo"})

    def version_of(self, target: Target) -> str:
        with let_in(target):
            known_topics(target)
            versions = [_version(target, node.address) for node in target.nodes.values()]
            if slaves := [n for n, node in target.nodes.items() if _role(target, node.address) == "SLAVE"]:
                raise UsageError(
                    f"{target.path}: {', '.join(slaves)} is a slave, which takes no messages; name the masters, one table each"
                )
        return target.version or versions[0]

    def inspect(self, target: Target) -> Inspected:
        return _Inspecting(target).run()

    def foreign(self, target: Target) -> str:
        with let_in(target):
            theirs = _theirs(target)
        return _somebodys(target, theirs) if theirs else ""

    def adopt(self, target: Target, *, version: str, topology: str, name: str, run: str, attach: bool,
              progress: Callable[[str], None]) -> AdoptedRocketmq:  # fmt: skip
        first = grpc_gateway.OPENING
        if attach:
            ground = front.found(name=name, run=run, opening=first)
            return AdoptedRocketmq(target, ground, version=version, topology=topology, run=run)
        links = _links(target)
        progress(
            f"putting a proxy in front of {', '.join(dict.fromkeys(link.upstream for link in links)) or 'nothing: clients go directly'}"
        )
        ground = front.put(target, name=name, run=run, links=links, opening=first)
        cluster = AdoptedRocketmq(target, ground, version=version, topology=topology, run=run)
        try:
            cluster.open()
        except BaseException as exc:
            with contextlib.suppress(HarnessError):
                cluster.close()
            if isinstance(exc, (DeadlineError, *_NOT_YET)):
                raise ProvisionError(f"standing on {target.key}: {exc}{unreached(target)}") from exc
            raise
        return cluster

    def remove(self, target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
        return remove(target, things, pace)


def _links(target: Target) -> list[LinkSpec]:
    """Those of a group that sends lead to the brokers as well. None where the gRPC proxy sends clients elsewhere."""
    if not target.port_from_request:
        return []
    at = gateway_of(target)
    links = [LinkSpec(group, GATEWAY, at[1], upstream=joined(at)) for group in LINK_GROUPS if group != "admin"]
    return links + [
        LinkSpec(group, node.name, node.address[1], upstream=joined(node.address))
        for group in ("producer", "sham")
        for node in target.nodes.values()
    ]


# -- what is asked of brokers, name servers and the gRPC proxy -----------------------------------------------------------


@contextlib.contextmanager
def talk(target: Target, address: Address, timeout_s: float = _ASK_S) -> Iterator[remoting.Connection]:
    with remoting.Connection(address, timeout_s, access.of(target)) as connection:
        yield connection


def known_topics(target: Target) -> frozenset[str]:
    """Those that a name server has, retry and dead-letter topics too."""
    found: set[str] = set()
    for server in target.name_servers:
        with talk(target, server) as to:
            found |= remoting.topics(to)
    return frozenset(found)


def make(target: Target, topic: str, *, queues: int, message_type: str) -> None:
    """On each master, with the groups of the probe and of the final read: where ``autoCreateSubscriptionGroup`` is off nobody else
    makes those. Returns when every name server knows it; the gRPC proxy must not be asked before, for it remembers that a topic is
    not there. Raises EnvironmentProblem where that is refused."""

    def made(address: Address) -> bool:
        with talk(target, address) as to:
            remoting.create_topic(to, topic, queues=queues, message_type=message_type)
            for group in (_PROBE, _READER):
                remoting.create_group(to, f"{topic}-{group}", orderly=False)
        return True

    for node in target.nodes.values():
        try:
            wait_until(
                partial(made, node.address), _CREATE_S, f"topic {topic!r} made on {node.name}", retry_on=(OSError,)
            )
        except (remoting.RemotingError, remoting.ProtocolError) as exc:
            raise EnvironmentProblem(
                f"{node.name} of {target.key} does not make topic {topic!r}: {exc}; `brokerproof target check {target.path}` says what "
                "the access key may do"
            ) from exc
    wait_until(
        partial(routed, target, topic), _CREATE_S, f"topic {topic!r} known to the name servers", interval_s=0.05,
        retry_on=_NOT_YET,
    )  # fmt: skip


def routed(target: Target, topic: str) -> bool:
    """Whether every name server knows that every master has the topic."""
    for server in target.name_servers:
        with talk(target, server) as to:
            if len(remoting.route(to, topic)) < len(target.nodes):
                return False
    return True


def passes(target: Target, topic: str, message_type: str) -> bool:
    """One message, through the gRPC proxy's own address. Raises GatewayError."""
    with Gateway(gateway_of(target), access=access.of(target)) as gateway:
        gateway.pass_through(topic, message_type, f"{topic}-{_PROBE}")
    return True


def told_wrong(target: Target, topic: str, asked: Address) -> str:
    """What the gRPC proxy tells a client that came by this address, where it cannot be reached there or, if it was to go through a
    proxy of ours, would pass that by, in a sentence; else ""."""
    with Gateway(gateway_of(target), access=access.of(target)) as gateway:
        told = gateway.told(topic, asked)
    if target.port_from_request:
        astray = sorted(joined(a) for a in told if a != asked)
        if not astray:
            return ""
        return (
            f"clients that come by {joined(asked)} are told {', '.join(astray)}, and would go there past our proxies, though the "
            "target file says useEndpointPortFromRequest"
        )
    deaf = [a for a in sorted(told) if not greet(a, grpc_gateway.OPENING.greeting, _GREET_S).answered]
    if not deaf:
        return ""
    return (
        f"clients that come by {joined(asked)} are told {', '.join(map(joined, deaf))}, where nothing answers from here"
    )


def remove(target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
    """Deletes topics, their retry and dead-letter topics, and the consumer groups that are named after them; returns those that no
    name server knows any more. Never raises."""
    topics = [thing for thing in things if thing.kind == "topic"]
    if not topics:
        return []
    names = [thing.name for thing in topics]
    try:
        wanted = _named_after(target, names)
        reached = [_forgotten(target, node.address, wanted, names, pace) for node in target.nodes.values()]
        for server in target.name_servers:
            with talk(target, server) as to:
                for topic in wanted:
                    pace()
                    to.call(remoting.DELETE_TOPIC_IN_NAMESRV, {"topic": topic})
        # Who refused, or registered while it was asked to forget, has told them again.
        left = known_topics(target)
    except (HarnessError, *_NOT_YET):
        return []
    return [thing for thing in topics if not any(_is_of(t, [thing.name]) for t in left)] if all(reached) else []


def _named_after(target: Target, names: Sequence[str]) -> list[str]:
    """These topics and those that are named after them, as name servers or brokers know them: of a retry topic that a broker makes for
    popped messages it tells the name servers half a minute later. Source: PopReviveService.java, ``addRetryTopicIfNotExist``."""
    found = set(known_topics(target))
    for node in target.nodes.values():
        # Whoever does not answer, or does not tell this user, does not keep the others from being asked.
        with contextlib.suppress(*_NOT_YET), talk(target, node.address) as to:
            found |= remoting.topics_of(to)
    return sorted({*names, *(t for t in found if _is_of(t, names))})


def _forgotten(target: Target, broker: Address, topics: Sequence[str], names: Sequence[str], pace: Pacing) -> bool:
    """Whether it was told to delete these topics, and deleted the groups that are named after ``names``."""
    try:
        with talk(target, broker) as to:
            for topic in topics:
                pace()
                with contextlib.suppress(remoting.RemotingError):  # the others go
                    to.call(remoting.DELETE_TOPIC_IN_BROKER, {"topic": topic})
            for group in remoting.groups(to):
                if _is_of(group, names):
                    pace()
                    to.call(remoting.DELETE_SUBSCRIPTIONGROUP, {"groupName": group, "cleanOffset": True})
    except _NOT_YET:
        return False
    return True


def _is_of(name: str, topics: Sequence[str]) -> bool:
    """Whether a topic or group is one of these, or is named after one."""
    stem = _stem(name)
    return any(stem == topic or stem.startswith(f"{topic}-") for topic in topics)


def _stem(name: str) -> str:
    for prefix in _COMPANIONS:
        name = name.removeprefix(prefix)
    return name


def _theirs(target: Target) -> list[str]:
    ours = [thing.name for thing in Journal(target.key).left()]
    return sorted(t for t in known_topics(target) if _stem(t).startswith(target.prefix) and not _is_of(t, ours))


def _somebodys(target: Target, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"target {target.key} has topics under our prefix that are not of a run of ours: {', '.join(names[:3])}{more}; somebody's "
        f'data may be in them: choose another prefix, [names] prefix = "…", or remove them by hand'
    )


def gateway_of(target: Target) -> Address:
    assert target.gateway is not None  # ``target.load`` asks for it
    return target.gateway


def _answers(address: Address) -> bool:
    return greet(address, remoting.OPENING.greeting, _GREET_S).answered


def _version(target: Target, address: Address) -> str:
    """Of "V5_5_0". Source: MQVersion.java."""
    with talk(target, address) as to:
        return remoting.runtime_info(to).get("brokerVersionDesc", "").removeprefix("V").replace("_", ".")


def _role(target: Target, address: Address) -> str:
    with talk(target, address) as to:
        return remoting.role(to)


@contextlib.contextmanager
def let_in(target: Target) -> Iterator[None]:
    """Turns what remoting says into what a person can act on."""
    where = f"rocketmq at {', '.join(joined(n.address) for n in target.nodes.values())}"
    try:
        yield
    except remoting.RemotingError as exc:
        if exc.code != _NO_PERMISSION:
            raise EnvironmentProblem(f"{where} answers: {exc}; `brokerproof target check {target.path}`") from exc
        raise UsageError(
            f"{where} refuses {target.access_in_words()}: {_first_words(exc.remark)}; check user (the access key) and the secret key, "
            f"and what it may do: {_grant(target)}"
        ) from exc
    except (OSError, remoting.ProtocolError) as exc:
        raise EnvironmentProblem(
            f"{where} or a name server at {', '.join(map(joined, target.name_servers))} does not answer: {exc}; "
            f"`brokerproof target check {target.path}` looks at each"
        ) from exc


def _first_words(remark: str) -> str:
    """Without the stack that some remarks bring."""
    return remark.partition("\n")[0][:200]


def _grant(target: Target) -> str:
    server = joined(target.name_servers[0])
    return (
        f"mqadmin createAcl -n {server} -c CLUSTER -s User:{target.user or 'USER'} -r 'Topic:{target.prefix}*,"
        f"Topic:%DLQ%{target.prefix}*,Group:{target.prefix}*' -a All -d Allow"
    )


def snippet(target: Target) -> str:
    """What to set so that clients go through proxies of ours."""
    server = joined(target.name_servers[0])
    return "\n".join([
        "rmq-proxy.json of the gRPC proxy, which takes it when it starts:",
        '  "useEndpointPortFromRequest": true',
        f"and, where it runs in the broker (local mode), a proxy of its own: mqproxy -n {server} -pm cluster -pc rmq-proxy.json",
        "target file:",
        "  [rocketmq]",
        "  useEndpointPortFromRequest = true",
    ])  # fmt: skip


class _Inspecting:
    """``target check``: what can be seen of a RocketMQ, each with what to do about it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._notes: list[Noted] = []
        self._version = ""

    def run(self) -> Inspected:
        target = self._target
        servers = [self._names(server) for server in target.name_servers]
        nodes = [self._reaches(name, node.address) for name, node in target.nodes.items()]
        if all([self._proxy(), *servers, *nodes]):
            theirs = _theirs(target)
            self._say("missing", "names", *_somebodys(target, theirs).split("; ", 1)) if theirs else None
            self._may()
        return Inspected(self._version, tuple(self._notes))

    def _say(self, status: str, name: str, seen: str, next_step: str = "") -> None:
        self._notes.append(Noted(status, name, seen, next_step))

    def _names(self, server: Address) -> bool:
        try:
            with talk(self._target, server, _GREET_S) as to:
                known = remoting.cluster_info(to)
                remoting.topics(to)
        except _NOT_YET as exc:
            self._say(
                "missing", "name server", f"{joined(server)}: {exc}",
                "is the address right, and the port open from here? It is 9876 by default",
            )  # fmt: skip
            return False
        said = ", ".join(f"{name} at {', '.join(hosts.values())}" for name, hosts in sorted(known.items()))
        self._say("ok", "name server", f"{joined(server)} knows {said or 'no broker'}")
        if len(known) > len(self._target.nodes):
            self._say(
                "warning", "masters", f"the target file names {len(self._target.nodes)} of {len(known)} sets of brokers",
                "topics of ours are on those only; name each master for more: [nodes.NAME]",
            )  # fmt: skip
        return True

    def _reaches(self, name: str, address: Address) -> bool:
        first = greet(address, remoting.OPENING.greeting, _GREET_S)
        if not first.answered:
            what = "no TCP connection" if not first.connected else "connected, and nothing answered"
            self._say(
                "missing", f"node {name}", f"{joined(address)}: {what}",
                "is it the remoting port of a broker, 10911 by default, open from here, and without TLS?",
            )  # fmt: skip
            return False
        before = time.time()
        try:
            with let_in(self._target), talk(self._target, address) as to:
                info, role = remoting.runtime_info(to), remoting.role(to)
        except HarnessError as exc:
            text, _, step = str(exc).partition("; ")
            self._say("missing", f"node {name}", text, step)
            return False
        after = time.time()
        version = info.get("brokerVersionDesc", "").removeprefix("V").replace("_", ".")
        self._version = self._version or version
        slave = role == "SLAVE"
        self._say(
            "missing" if slave else "ok", f"node {name}",
            f"{joined(address)}: RocketMQ {version}, {role}, answers after {first.rtt_ms or 0.0:.1f} ms",
            "it takes no messages: name its master" if slave else "",
        )  # fmt: skip
        self._clock(name, remoting.time_of_day(info) - (before + after) / 2, (after - before) / 2 + 0.5)
        return not slave

    def _clock(self, name: str, off: float, error: float) -> None:
        wrong = abs(off) > error + 1.0
        self._say("warning" if wrong else "ok", "clock", f"that of {name} is {off:+.1f} s from ours, within {error:.1f} s",
                  "set both by NTP; verdicts use this machine's only" if wrong else "")  # fmt: skip

    def _proxy(self) -> bool:
        at = gateway_of(self._target)
        first = greet(at, grpc_gateway.OPENING.greeting, _GREET_S)
        if first.answered:
            self._say("ok", "gRPC proxy", f"{joined(at)} answers after {first.rtt_ms or 0.0:.1f} ms")
            return True
        what = "no TCP connection" if not first.connected else "connected, and nothing answered as HTTP/2 does"
        self._say(
            "missing", "gRPC proxy", f"{joined(at)}: {what}",
            "is it the gRPC port, 8081 by default (8080 is the proxy's remoting), and open from here?",
        )  # fmt: skip
        return False

    def _may(self) -> None:
        target, topic = self._target, f"{self._target.prefix}check-{uuid.uuid4().hex[:12]}"
        thing, journal = Thing("topic", topic), Journal(target.key)
        journal.making("check", [thing])
        try:
            make(target, topic, queues=1, message_type="NORMAL")
            self._told(topic)
            wait_until(
                partial(passes, target, topic, "NORMAL"), _CREATE_S, "a message through the gRPC proxy and back",
                interval_s=0.1, retry_on=_NOT_YET,
            )  # fmt: skip
            with talk(target, next(iter(target.nodes.values())).address) as to:
                remoting.offsets_of(to, topic, 1)
                pulled = to.wait(to.ask(remoting.PULL_MESSAGE, remoting.pull_fields(f"{topic}-{_READER}", topic, 0, 0)))
                if pulled.code == _NO_PERMISSION:
                    raise remoting.RemotingError(remoting.PULL_MESSAGE, pulled.code, pulled.remark)
            self._say(
                "ok",
                "permissions",
                f"makes topics and groups {target.prefix}…, sends, receives, reads and deletes them",
            )
        except (HarnessError, *_NOT_YET) as exc:
            self._say("missing", "permissions", _first_words(str(exc)), _grant(target))
        finally:
            gone = remove(target, [thing])
            journal.gone(gone)
        if not gone:
            self._say("missing", "permissions", f"topic {topic} could not be deleted", _grant(target))

    def _told(self, topic: str) -> None:
        """Whether link faults are possible: what the gRPC proxy tells clients of proxies of ours, and others."""
        target, ours = self._target, (LOOPBACK, _SOME_PORT)
        wrong = told_wrong(target, topic, ours if target.port_from_request else gateway_of(target))
        if wrong:
            self._say("missing", "links", wrong, f"set\n{snippet(target)}")
        elif target.port_from_request:
            self._say("ok", "links", "the gRPC proxy sends clients back where they came from: link faults are possible")
        else:
            with Gateway(gateway_of(target), access=access.of(target)) as gateway:
                back = gateway.told(topic, ours) == {ours}
            self._say(
                "warning", "links",
                "the gRPC proxy would send clients back to proxies of ours, and the target file does not say so: no link can be broken"
                if back else "the gRPC proxy sends clients past proxies of ours: they go directly, and no link can be broken",
                "write useEndpointPortFromRequest = true in [rocketmq]" if back else f"set\n{snippet(target)}",
            )  # fmt: skip
