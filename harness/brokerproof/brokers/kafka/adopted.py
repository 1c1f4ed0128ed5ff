"""A Kafka that somebody else runs: the same contract by what any client may ask.

Clients go where the brokers tell them, ``advertised.listeners`` of the listener that they came by. So a group of clients goes
through proxies of ours only where a listener of its own tells them these; the others, and all that we ask ourselves, go
directly. Faults on links are possible for the former only, and ``inspect`` says which, and what to set for more.
Source: https://kafka.apache.org/documentation/#brokerconfigs_advertised.listeners
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from brokerproof.brokers import tls
from brokerproof.brokers.base import (
    LINK_GROUPS,
    Inspected,
    Json,
    Link,
    Node,
    Noted,
    Opening,
    Pacing,
    PeerLinks,
    Thing,
    unpaced,
)
from brokerproof.brokers.kafka import access, ask
from brokerproof.brokers.kafka.probe import NotPassed, append_time, probe
from brokerproof.brokers.kafka.settings import OWN_OF_TOPIC
from brokerproof.errors import DeadlineError, EnvironmentProblem, HarnessError, ProvisionError, UsageError
from brokerproof.plan import Destination
from brokerproof.runtime.foreign import ForeignNode, unreached
from brokerproof.runtime.front import Front, found, put
from brokerproof.runtime.ground import LinkSpec
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.proxy import greet
from brokerproof.target import Target, joined
from brokerproof.waiting import wait_until

Address = tuple[str, int]
_ASK_S, _ADMIN_S, _GREET_S, _READY_S = 8.0, 20.0, 2.0, 60.0
#: What a listener for our proxies gets where ``snippet`` proposes one: on the broker, and on this machine.
_LISTENER_PORTS = {"producer": 19091, "consumer": 19092}
# Below those that clusters of our own take.
_PROXY_PORT = 19191
_HERE = ("127.0.0.1", "localhost")
_LOG = logging.getLogger("brokerproof.kafka")


class AdoptedKafka:
    """``brokers.base.Cluster``. Made by ``AdoptsKafka``."""

    product = "kafka"
    in_process = False
    keeps_consumed = True
    redelivery_s = 10.0
    peers: PeerLinks | None = None

    def __init__(self, target: Target, ground: Front, *, version: str, topology: str, run: str) -> None:
        self.version, self.topology = version, topology
        self._target, self._ground, self._run = target, ground, run
        self._journal = Journal(target.key)
        self._probe = f"{target.prefix}probe-{ground.name}"
        self.nodes: Mapping[str, Node] = {
            name: ForeignNode(node, partial(_answers, target, node.address)) for name, node in target.nodes.items()
        }

    # -- addresses -----------------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        """None for a group that goes directly."""
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """As ``KafkaCluster.endpoint``, and how one is let in; see ``access``."""
        through = [link.address for link in self._ground.links_of(group)]
        direct = [node.address for node in self._target.nodes.values()]
        return {
            "bootstrap": [joined(a) for a in through or direct], "cluster": self._ground.name, **access.of(self._target),
        }  # fmt: skip

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        wanted = {str(k): str(v) for k, v in destination.settings.items() if k not in OWN_OF_TOPIC}
        known = self._known()
        copies = int(wanted.pop("replication.factor", min(3, len(known.brokers))))
        thing = Thing("topic", name)
        if thing not in self._journal.left(lambda run: run == self._run):
            if name in known.topics:
                raise UsageError(_somebodys(self._target, [name]))
            self._journal.making(self._run, [thing])
        topic = NewTopic(
            name, num_partitions=destination.partitions, replication_factor=copies,
            config={"retention.ms": "-1", **wanted},
        )  # fmt: skip
        make(self._admin, topic)
        self._passes(name, destination.partitions, _ADMIN_S)

    def delete(self, destination: Destination, name: str) -> None:
        self._journal.gone(remove(self._target, [Thing("topic", name)]))

    def leader(self, name: str, partition: int = 0) -> str:
        known = self._known(name)
        found = known.topics[name].partitions.get(partition)
        if found is None or found.leader not in known.brokers:
            raise EnvironmentProblem(f"partition {partition} of topic {name!r} of {self._target.key} has no leader")
        return self._named(known).get(found.leader, str(found.leader))

    def replicas(self, name: str) -> Sequence[str]:
        known = self._known(name)
        found, named = known.topics[name].partitions[0], self._named(known)
        return [named.get(i, str(i)) for i in sorted(found.replicas, key=lambda i: i != found.leader)]

    # -- health --------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        said = ""

        def whole() -> bool:
            nonlocal said
            known = self._known()
            ours = (t for name, t in known.topics.items() if name.startswith(self._target.prefix))
            behind = [
                f"{t.topic}-{p.id}" for t in ours for p in t.partitions.values() if set(p.isrs) != set(p.replicas)
            ]
            said = f"out of sync: {', '.join(behind[:5])}" if behind else ""
            return not behind

        wait_until(
            whole, timeout_s, f"{self._target.key} in sync", interval_s=0.3, retry_on=(EnvironmentProblem,),
            last_state=lambda: said,
        )  # fmt: skip
        self._passes(self._probe, len(self.nodes), max(2.0, deadline - time.monotonic()))

    def sync(self) -> None:
        """What others run is not synced by us."""

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Json:
        known = self._known()
        named = self._named(known)
        return {
            "answering": sorted(named.get(i, str(i)) for i in known.brokers),
            "partitions": {
                name: {
                    str(p.id): {"leader": named.get(p.leader, ""), "isr": [named.get(i, str(i)) for i in p.isrs]}
                    for p in known.topics[name].partitions.values()
                }
                for name in names
                if name in known.topics
            },
        }

    def settings(self) -> Json:
        return {
            "broker": {}, "nodes": len(self._known().brokers), "target": self._target.public(), "proxy": self._ground.proxy,
            "proxied": [group for group in LINK_GROUPS if self.links(group)],
        }  # fmt: skip

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
        self.create(Destination(name=self._probe, kind="log", partitions=len(self.nodes)), self._probe)
        if wrong := [text for group in LINK_GROUPS if (text := _told_wrong(self._target, group))]:
            raise ProvisionError(f"{wrong[0]}; `brokerproof target check {self._target.path}` says what to set")

    def _passes(self, topic: str, partitions: int, timeout_s: float) -> None:
        endpoint = self.endpoint("admin")
        try:
            probe(
                endpoint["bootstrap"], topic, range(partitions), timeout_s, access.client(endpoint),
                f"{self._target.prefix}probe",
            )  # fmt: skip
        except NotPassed as exc:
            raise DeadlineError(f"a message through topic {topic!r} of {self._target.key} and back: {exc}") from exc

    def _known(self, topic: str | None = None) -> Any:
        return metadata(self._admin, self._target, topic)

    def _named(self, known: Any) -> dict[int, str]:
        return names_of(self._target, {i: (b.host, b.port) for i, b in known.brokers.items()})

    @cached_property
    def _admin(self) -> AdminClient:
        return admin_of(self._target, [joined(node.address) for node in self._target.nodes.values()])


class AdoptsKafka:
    """``brokers.base.Adopts``."""

    adopted_capabilities = frozenset({"dedup", "transactions", "several_consumers_per_lane"})

    def version_of(self, target: Target) -> str:
        if not target.version:
            raise UsageError(
                f'{target.path}: Kafka tells clients no version; write version = "4.3.1" (bin/kafka-topics.sh --version on a broker)'
            )
        metadata(admin_of(target, [joined(node.address) for node in target.nodes.values()]), target)
        return target.version

    def inspect(self, target: Target) -> Inspected:
        return Inspected(target.version, tuple(_Inspecting(target).run()))

    def foreign(self, target: Target) -> str:
        known = metadata(admin_of(target, [joined(node.address) for node in target.nodes.values()]), target)
        ours = {thing.name for thing in Journal(target.key).left()}
        theirs = sorted(name for name in known.topics if name.startswith(target.prefix) and name not in ours)
        return _somebodys(target, theirs) if theirs else ""

    def adopt(self, target: Target, *, version: str, topology: str, name: str, run: str, attach: bool,
              progress: Callable[[str], None]) -> AdoptedKafka:  # fmt: skip
        first = _opening(target)
        if attach:
            ground = found(name=name, run=run, opening=first)
            return AdoptedKafka(target, ground, version=version, topology=topology, run=run)
        links = [
            LinkSpec(group, node.name, upstream[1], published=port, upstream=joined(upstream))
            for node in target.nodes.values()
            for group, (port, upstream) in node.proxies.items()
        ]
        progress(
            f"putting a proxy in front of {', '.join(link.upstream for link in links) or 'nothing: no proxies are told'}"
        )
        ground = put(target, name=name, run=run, links=links, opening=first)
        cluster = AdoptedKafka(target, ground, version=version, topology=topology, run=run)
        try:
            cluster.open()
        except BaseException as exc:
            with contextlib.suppress(HarnessError):
                cluster.close()
            if isinstance(exc, DeadlineError):
                raise ProvisionError(f"standing on {target.key}: {exc}{unreached(target)}") from exc
            raise
        return cluster

    def remove(self, target: Target, things: Sequence[Thing], pace: Pacing = unpaced) -> list[Thing]:
        """In a few requests, however many these are."""
        if things:
            pace()
        return remove(target, things)


def admin_of(target: Target, bootstrap: Sequence[str], errors: list[str] | None = None) -> AdminClient:
    """errors: gets what librdkafka says of its connections; there is no credential in it."""

    def failed(error: KafkaError) -> None:
        if errors is not None:
            errors.append(error.str())

    settings: dict[str, Any] = (
        {**access.client(access.of(target)), "bootstrap.servers": ",".join(bootstrap), "reconnect.backoff.ms": 50,
         "reconnect.backoff.max.ms": 500, "log_level": 0, "socket.connection.setup.timeout.ms": 3000, "error_cb": failed}
    )  # fmt: skip
    return AdminClient(settings, logger=_LOG)


def metadata(admin: AdminClient, target: Target, topic: str | None = None) -> Any:
    """Raises EnvironmentProblem."""
    try:
        return admin.list_topics(topic, timeout=_ASK_S) if topic else admin.list_topics(timeout=_ASK_S)
    except KafkaException as exc:
        raise EnvironmentProblem(
            f"kafka at {', '.join(joined(n.address) for n in target.nodes.values())} gives no metadata "
            f"({target.access_in_words()}): {exc.args[0].str()}; `brokerproof target check {target.path}` looks at each node"
        ) from exc


def make(admin: AdminClient, topic: Any) -> None:
    """Raises EnvironmentProblem where Kafka refuses it for good."""

    def created() -> bool:
        try:
            admin.create_topics([topic], operation_timeout=10, request_timeout=12)[topic.topic].result(timeout=15)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return True  # by an earlier try whose answer did not come
            if not error.retriable():
                raise EnvironmentProblem(f"creating topic {topic.topic!r}: {error.str()}") from exc
            raise
        return True

    wait_until(created, 2 * _ADMIN_S, f"topic {topic.topic!r} created", retry_on=(KafkaException, TimeoutError))


def remove(target: Target, things: Sequence[Thing]) -> list[Thing]:
    """Deletes topics, and the consumer groups that are named after them; returns those that are gone. Never raises."""
    names = [thing.name for thing in things if thing.kind == "topic"]
    if not names:
        return []
    gone: list[Thing] = []
    with contextlib.suppress(HarnessError, KafkaException, TimeoutError):
        admin = admin_of(target, [joined(node.address) for node in target.nodes.values()])
        for name, future in admin.delete_topics(names, operation_timeout=10, request_timeout=12).items():
            try:
                future.result(timeout=15)
            except KafkaException as exc:
                if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
            gone.append(Thing("topic", name))
        listed = admin.list_consumer_groups(request_timeout=_ASK_S).result(timeout=_ASK_S + 1).valid
        groups = [g.group_id for g in listed if any(g.group_id.startswith(f"{name}-") for name in names)]
        groups += [g.group_id for g in listed if g.group_id == f"{target.prefix}probe"]
        for future in (admin.delete_consumer_groups(groups) if groups else {}).values():
            with contextlib.suppress(
                KafkaException, TimeoutError
            ):  # a member that is leaving; it goes by itself in a while
                future.result(timeout=_ASK_S)
    return gone


def names_of(target: Target, brokers: Mapping[int, Address]) -> dict[int, str]:
    """Broker id -> name in the target file, by address; where both have one only, that."""
    if len(brokers) == len(target.nodes) == 1:
        return dict(zip(brokers, target.nodes, strict=True))
    by_address = {node.address: node.name for node in target.nodes.values()}
    return {i: by_address[address] for i, address in brokers.items() if address in by_address}


def _told_wrong(target: Target, group: str) -> str:
    """What the listener of a proxied group tells its clients, where that is not our proxies, in a sentence; else ""."""
    nodes = {name: node.proxies[group] for name, node in target.nodes.items() if group in node.proxies}
    if not nodes:
        return ""
    upstreams = [joined(upstream) for _, upstream in nodes.values()]
    told = metadata(admin_of(target, upstreams), target).brokers.values()
    ports = {port for port, _ in nodes.values()}
    astray = [joined((b.host, b.port)) for b in told if b.host not in _HERE or b.port not in ports]
    if not astray:
        return ""
    return (
        f"clients of group {group} are told {', '.join(sorted(astray))} at {', '.join(upstreams)}, and would go there past our "
        f"proxies at {', '.join(f'127.0.0.1:{port}' for port in sorted(ports))}"
    )


def snippet(target: Target) -> str:
    """What to set on each broker, and in the target file, so that producers and consumers go through proxies of ours."""
    protocol = access.of(target)["client"].get("security.protocol", "plaintext").upper()
    lines = []
    for n, node in enumerate(target.nodes.values()):
        ports = {group: _PROXY_PORT + 10 * n + k for k, group in enumerate(_LISTENER_PORTS)}
        names = {group: f"PROOF{group.upper()}" for group in ports}
        listen = ",".join(f"{names[g]}://:{_LISTENER_PORTS[g]}" for g in ports)
        advertise = ",".join(f"{names[g]}://127.0.0.1:{port}" for g, port in ports.items())
        lines += [
            f"server.properties of {node.name}, added to what these have:",
            f"  listeners={listen}",
            f"  advertised.listeners={advertise}",
            f"  listener.security.protocol.map={','.join(f'{name}:{protocol}' for name in names.values())}",
            "target file:",
            f"  [nodes.{node.name}.proxies]",
            *(
                f'  {g} = {{ port = {port}, upstream = "{joined((node.address[0], _LISTENER_PORTS[g]))}" }}'
                for g, port in ports.items()
            ),
        ]
    return "\n".join(lines)


class _Inspecting:
    """``target check``: what can be seen of a Kafka, each with what to do about it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._notes: list[Noted] = []

    def run(self) -> list[Noted]:
        reached = [node for node in self._target.nodes.values() if self._reaches(node.name, node.address)]
        if not self._target.version:
            self._say("missing", "version", "Kafka tells clients none", 'version = "4.3.1" in the target file')
        if reached and self._lets_in():
            self._may()
            self._links()
        return self._notes

    def _say(self, status: str, name: str, seen: str, next_step: str = "") -> None:
        self._notes.append(Noted(status, name, seen, next_step))

    def _reaches(self, name: str, address: Address) -> bool:
        first = greet(address, _opening(self._target).greeting, _GREET_S)
        if first.answered:
            self._say("ok", f"node {name}", f"{joined(address)} answers after {first.rtt_ms or 0.0:.1f} ms")
            return True
        what = "no TCP connection" if not first.connected else "connected, and nothing answered"
        self._say(
            "missing", f"node {name}", f"{joined(address)}: {what}",
            "is the address right, the port open from here, and TLS on one side only?",
        )  # fmt: skip
        return False

    def _lets_in(self) -> bool:
        target, errors = self._target, list[str]()
        admin = admin_of(target, [joined(node.address) for node in target.nodes.values()], errors)
        try:
            known = metadata(admin, target)
        except EnvironmentProblem as exc:
            told = next((e for e in errors if "uthentication" in e or "SSL" in e), "")
            self._say(
                "missing",
                "access",
                told or str(exc).partition(";")[0],
                "check user, password and mechanism in [access], and [tls]",
            )
            return False
        brokers = {i: (b.host, b.port) for i, b in known.brokers.items()}
        said = ", ".join(f"{i} at {joined(a)}" for i, a in sorted(brokers.items()))
        self._say("ok", "cluster", f"{len(brokers)} broker{'' if len(brokers) == 1 else 's'}: {said}")
        named = names_of(target, brokers)
        if strange := [joined(a) for i, a in sorted(brokers.items()) if i not in named]:
            self._say(
                "warning", "cluster", f"the target file has no node at {', '.join(strange)}",
                "name every broker by the address that it tells: [nodes.NAME] address = \"…\"",
            )  # fmt: skip
        theirs = AdoptsKafka().foreign(target)
        self._say("missing", "names", *theirs.split("; ", 1)) if theirs else None
        return True

    def _may(self) -> None:
        target = self._target
        name = f"{target.prefix}check-{uuid.uuid4().hex[:12]}"
        bootstrap = [joined(node.address) for node in target.nodes.values()]
        step = (
            f"kafka-acls.sh --bootstrap-server {bootstrap[0]} --add --allow-principal User:{target.user or 'USER'} --operation All "
            f"--resource-pattern-type prefixed --topic {target.prefix} --group {target.prefix} --transactional-id {target.prefix}"
        )
        thing, journal = Thing("topic", name), Journal(target.key)
        journal.making("check", [thing])
        admin = admin_of(target, bootstrap)
        try:
            make(
                admin,
                NewTopic(
                    name, num_partitions=1, replication_factor=-1, config={"message.timestamp.type": "LogAppendTime"}
                ),
            )
            probe(bootstrap, name, [0], _ADMIN_S, access.client(access.of(target)), f"{target.prefix}probe")
            self._say("ok", "permissions", f"creates, writes to, reads and deletes topics {target.prefix}…")
            before = time.time()
            stamp = append_time(bootstrap, name, 0, _ASK_S, access.client(access.of(target)))
            after = time.time()
            off, error = stamp - (before + after) / 2, (after - before) / 2
            status = "warning" if abs(off) > error + 1.0 else "ok"
            self._say(status, "clock", f"the broker's is {off:+.3f} s from ours, within {error:.3f} s",
                      "set both by NTP; verdicts use this machine's only" if status != "ok" else "")  # fmt: skip
        except (HarnessError, NotPassed) as exc:
            self._say("missing", "permissions", str(exc), step)
        finally:
            gone = remove(target, [thing])
            journal.gone(gone)
        if not gone:
            self._say("missing", "permissions", f"topic {name} could not be deleted", step)

    def _links(self) -> None:
        groups = sorted({group for node in self._target.nodes.values() for group in node.proxies})
        for group in groups:
            missing = [name for name, node in self._target.nodes.items() if group not in node.proxies]
            try:
                wrong = _told_wrong(self._target, group)
            except EnvironmentProblem as exc:
                wrong = str(exc).partition(";")[0]
            if missing:
                self._say(
                    "missing", f"links of {group}", f"no proxy for {', '.join(missing)}", "name one for each node"
                )
            elif wrong:
                self._say("missing", f"links of {group}", wrong, f"set on the brokers:\n{snippet(self._target)}")
            else:
                self._say("ok", f"links of {group}", "its listener tells clients our proxies: link faults are possible")
        if not groups:
            self._say(
                "warning", "links", "no listener tells clients our proxies: they go directly, and no link can be broken",
                f"give each broker listeners of ours:\n{snippet(self._target)}",
            )  # fmt: skip


def _somebodys(target: Target, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"target {target.key} has topics under our prefix that are not of a run of ours: {', '.join(names[:3])}{more}; somebody's "
        f'data may be in them: choose another prefix, [names] prefix = "…", or remove them by hand'
    )


def _answers(target: Target, address: Address) -> bool:
    return greet(address, _opening(target).greeting, _GREET_S).answered


def _opening(target: Target) -> Opening:
    if target.tls is not None:
        return tls.opening(target.tls.server_name or next(iter(target.nodes.values())).address[0])
    return ask.opening()
