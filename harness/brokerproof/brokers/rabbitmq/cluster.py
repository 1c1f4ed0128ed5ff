"""A RabbitMQ cluster: starts the nodes behind their links, knows who leads what, and when all is well again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from brokerproof.brokers.base import LINK_GROUPS, Json, Link, Node, PeerLinks
from brokerproof.brokers.rabbitmq import admin, config, erlang, places
from brokerproof.brokers.rabbitmq.adopted import AdoptsRabbit
from brokerproof.brokers.rabbitmq.greeting import OPENING
from brokerproof.brokers.rabbitmq.queues import Shape, consumer_arguments, exchange_name, queue_name, shape
from brokerproof.brokers.rabbitmq.routing import Router
from brokerproof.brokers.rabbitmq.wiring import Wiring
from brokerproof.errors import DeadlineError, EnvironmentProblem, HarnessError, PlanError, ProvisionError
from brokerproof.plan import Destination
from brokerproof.runtime import images
from brokerproof.runtime.ground import Ground, LinkSpec
from brokerproof.runtime.node import NodeSpec
from brokerproof.runtime.seeking import seek
from brokerproof.waiting import wait_until
from brokerproof.where import Where

T = TypeVar("T")

TOPOLOGIES = {
    "cluster": "three nodes r1, r2, r3; quorum queues by default, led by r1 until a fault moves them",
    "single": "one node r1; classic queues by default",
}
_NODES = {"cluster": ("r1", "r2", "r3"), "single": ("r1",)}
#: A queue that nothing but readiness and health use.
PROBE_QUEUE = "brokerproof-probe"
#: Queue argument that says where a queue belongs; RabbitMQ keeps arguments it does not know.
_HOME_ARGUMENT = "x-brokerproof-node"
_READY_S = 90.0
_CREATE_S = 20.0
#: So long a node that sees all others again may be stuck in a partition, or a replica behind, before it is restarted.
_STUCK_S = 10.0
_PASS_S = 5.0
_LEADER_TRIES = 3
_ERRORS_MAX = 8
#: Longest heartbeat interval of clients: a connection that went silent is given up after twice that.
HEARTBEAT_S = 5


class RabbitCluster:
    """``brokers.base.Cluster``. Made by ``RabbitBroker``."""

    product = "rabbitmq"
    in_process = False
    keeps_consumed = False
    #: A lost connection is noticed after two heartbeats at the latest, and its messages go to others.
    redelivery_s = 3.0

    def __init__(self, ground: Ground, *, version: str, topology: str, settings: Json) -> None:
        self.version, self.topology = version, topology
        self._ground = ground
        self._settings = dict(settings)
        self._names = _NODES[topology]
        #: Destination -> type of its queues, of those that were created from here.
        self._kinds: dict[str, str] = {}
        #: Nodes that ``wait_healthy`` had to restart, as an operator would.
        self.restarted: list[str] = []
        self.nodes: Mapping[str, Node] = ground.nodes
        self.peers: PeerLinks | None = ground.peers() if len(self._names) > 1 else None

    # -- addresses -----------------------------------------------------------------------------------------------------

    def links(self, group: str) -> Sequence[Link]:
        return self._ground.links_of(group)

    def endpoint(self, group: str, name: str | None = None) -> Json:
        """``addresses``: the group's links, the leader's first; clients try them in this order, again and again."""
        first = ""
        if name is not None:
            with contextlib.suppress(EnvironmentProblem):
                first = self.leader(name)
        links = sorted(self._ground.links_of(group), key=lambda link: link.node != first)
        return {
            "addresses": [list(link.address) for link in links], "user": "guest", "password": "guest", "vhost": "/",
            "heartbeat_s": HEARTBEAT_S,
        }  # fmt: skip

    # -- destinations --------------------------------------------------------------------------------------------------

    def create(self, destination: Destination, name: str) -> None:
        stream = destination.settings.get("x-queue-type") == "stream"
        if (destination.kind == "log") != stream:
            raise PlanError(
                f"destination {name!r} is a {destination.kind} with x-queue-type {destination.settings.get('x-queue-type')!r}; on "
                "rabbitmq a stream is a log, and everything else a queue"
            )
        wanted = self._shape(destination, name)
        self._kinds[name] = str(wanted.arguments.get("x-queue-type", ""))
        queues = [queue_name(name, p) for p in range(destination.partitions)]
        home = wanted.node or self._names[0]
        if wanted.policy:
            for queue in queues:
                erlang.set_policy(self._ground.nodes[home], queue, json.dumps(wanted.policy))

        def passed() -> bool:
            with admin.channel(self._ground.link("admin", home).address) as ch:
                for queue in queues:
                    admin.declare(ch, queue, wanted)
                    if not admin.pass_through(
                        ch, queue, _PASS_S, consumer_arguments(destination.settings)
                    ) and not _may_vanish(wanted):
                        return False
            return True

        wait_until(
            passed, _CREATE_S, f"a message through queue {name!r} of {self._ground.name!r} on {home} and back",
            interval_s=0.2, retry_on=admin.NOT_YET,
        )  # fmt: skip

    def perishes(self, destination: Destination) -> bool:
        """See ``brokers.base.Perishing``."""
        made = self._shape(destination, destination.name)
        return not made.durable or (made.exchange is not None and not made.exchange.durable)

    def delete(self, destination: Destination, name: str) -> None:
        for node in self._names:
            with contextlib.suppress(*admin.NOT_YET), admin.channel(self._ground.link("admin", node).address) as ch:
                for partition in range(destination.partitions):
                    ch.queue_delete(queue_name(name, partition))
                if destination.settings.get("exchange"):
                    ch.exchange_delete(exchange_name(name))
                break
        if destination.settings.get("policy"):
            with contextlib.suppress(EnvironmentProblem):
                for partition in range(destination.partitions):
                    erlang.clear_policy(self._ground.nodes[self._names[0]], queue_name(name, partition))

    def leader(self, name: str, partition: int = 0) -> str:
        """The node that leads at the highest term: one that was cut off still believes in the term of before, so it is
        asked again while fewer than most nodes answer."""
        queue = queue_name(name, partition)
        for _ in range(_LEADER_TRIES):
            seen = self._ask(lambda node: erlang.replicas(node, [queue])[queue])
            if len(seen) > len(self._names) // 2:
                break
        leading = [node for node, replica in seen.items() if replica.state == "leader"]
        if not leading:
            raise EnvironmentProblem(
                f"queue {queue!r} of {self._ground.name!r} has no leader; nodes say {_states(seen)}"
            )
        return max(leading, key=lambda node: seen[node].term)

    def replicas(self, name: str) -> Sequence[str]:
        leader = self.leader(name)
        nodes = erlang.replicas(self._ground.nodes[leader], [queue_name(name, 0)])[queue_name(name, 0)].nodes
        return [leader, *sorted(nodes - {leader})]

    # -- health --------------------------------------------------------------------------------------------------------

    def wait_healthy(self, timeout_s: float) -> None:
        """Besides what the contract says: leaders that a fault moved are moved back home, so that all lanes of the
        next experiment are led by the node they were declared on; and a node that does not get over what it has been
        through is restarted once, as an operator would (``restarted`` in ``observe``).

        Source: https://www.rabbitmq.com/docs/partitions#recovering. RabbitMQ does not heal a partition in its mode
        ``ignore`` ever, and in ``pause_minority`` not when the cut was over before the node had noticed it.
        """
        deadline = time.monotonic() + timeout_s
        trouble = _Trouble("not looked yet")
        commits: dict[str, int] = {}
        stuck = ("", 0.0)  # (node, since when)
        restarted: set[str] = set()

        def healthy() -> bool:
            nonlocal trouble, stuck
            trouble = self._trouble(commits)
            if trouble.node != stuck[0]:
                stuck = (trouble.node, time.monotonic())
            elif stuck[0] and stuck[0] not in restarted and time.monotonic() - stuck[1] > _STUCK_S:
                restarted.add(stuck[0])
                self._restart(stuck[0])
            return not trouble.what

        wait_until(
            healthy, timeout_s, f"rabbitmq cluster {self._ground.name!r} healthy", interval_s=0.2,
            last_state=lambda: trouble.what,
        )  # fmt: skip
        self._passes(max(2.0, deadline - time.monotonic()))

    def _trouble(self, commits: dict[str, int]) -> _Trouble:
        """What keeps the cluster from being healthy; nothing when nothing does.

        commits: commit index of each queue as its leader told it last time, for comparison; updated.
        """
        beliefs = self._ask(erlang.belief)
        for name in self._names:
            if name not in beliefs or not beliefs[name].up:
                return _Trouble(f"rabbit does not run on {name}")
            if missing := set(self._names) - beliefs[name].connected:
                return _Trouble(f"{name} does not see {', '.join(sorted(missing))}")
        for name, cut_off in ((name, beliefs[name].partitions) for name in self._names):
            if cut_off:
                minority = len(cut_off) > len(self._names) // 2
                what = f"{name} says it was partitioned from {', '.join(sorted(cut_off))}"
                return _Trouble(what, name if minority else "")
        if len(self._names) == 1:
            return _Trouble("")
        held = self._ask(erlang.quorum_replicas)
        if silent := set(self._names) - set(held):
            return _Trouble(f"{', '.join(sorted(silent))} did not tell the state of its queues")
        for queue in sorted({queue for replicas in held.values() for queue in replicas}):
            seen = {node: replicas[queue] for node, replicas in held.items() if queue in replicas}
            if what := _lagging(seen, commits.get(queue)):
                behind = [node for node, r in seen.items() if r.state not in ("leader", "follower")]
                return _Trouble(f"queue {queue!r}: {what}; nodes say {_states(seen)}", (behind or [""])[0])
            commits[queue] = max(replica.commit for replica in seen.values() if replica.state == "leader")
        return _Trouble(self._away())

    def _restart(self, name: str) -> None:
        self.restarted.append(name)
        self.nodes[name].stop()
        self.nodes[name].start()

    def _away(self) -> str:
        """Asks leaders that are not at home to hand over; says so while there are any."""
        if len(self._names) == 1:
            return ""
        moved = self._ask(lambda node: erlang.send_leaders_home(node, _HOME_ARGUMENT, self._names[0]))
        away = [queue for queues in moved.values() for queue in queues]
        return f"leaders of {', '.join(sorted(away)[:5])} are on their way home" if away else ""

    def sync(self) -> None:
        self._each(lambda name: self._ground.nodes[name].sync(config.DATA))

    def segments(self, node: str, name: str) -> Sequence[str]:
        """Quorum queues of a node write to one log ahead of their own segments; classic queues keep small messages in their
        index (``.qs``; ``.idx`` up to 3.13), larger ones in a store for all of them (``.rdq``)."""
        if self._kinds.get(name, "quorum") == "quorum":
            return ("0/mnesia/*/quorum/*/*.wal", "0/mnesia/*/quorum/*/*/*.segment")
        classic = ("queues/*/*.qs", "queues/*/*.idx", "msg_store_persistent/*.rdq")
        return tuple(f"0/mnesia/*/msg_stores/vhosts/*/{pattern}" for pattern in classic)

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Json:
        """Per node whether rabbit runs, whom it is connected to and whom it knows cut off; per queue the leader and every
        replica's state and term, as each node believes."""
        beliefs = self._ask(erlang.belief)
        held = self._ask(lambda node: erlang.replicas(node, names))

        def told(queue: str) -> Json:
            seen = {node: replicas[queue] for node, replicas in held.items() if queue in replicas}
            leading = [node for node in seen if seen[node].state == "leader"]
            return {
                "leader": max(leading, key=lambda node: seen[node].term, default=""),
                "believes": sorted(leading),
                "replicas": {
                    node: {"state": r.state, "term": r.term, "commit": r.commit} for node, r in seen.items()
                    if r.state != "none"
                },
            }  # fmt: skip

        return {
            "answering": sorted(beliefs),
            "restarted": list(self.restarted),
            "nodes": {
                name: {"up": b.up, "connected": sorted(b.connected), "partitions": sorted(b.partitions)}
                for name, b in beliefs.items()
            },
            "queues": {name: told(name) for name in names},
        }

    def locate(
        self, lanes: Mapping[str, Destination], marks: Mapping[bytes, tuple[str, int]], deadline: float
    ) -> Mapping[str, Mapping[bytes, Where]]:
        """See ``brokers.base.Locates``. Says with each what the node is to the queue."""
        queues = {m: queue_name(name, max(0, partition)) for m, (name, partition) in marks.items()}
        members = self._ask(lambda node: erlang.replicas(node, sorted(set(queues.values()))))

        def one(name: str) -> Mapping[bytes, Where]:
            found = seek(self._ground.nodes[name], places.folders(name), marks, read=places.read, deadline=deadline)
            own = members.get(name, {})
            return {m: places.remarked(where, own.get(queues[m])) for m, where in found.items()}

        return dict(zip(self._names, self._each(one), strict=True))

    # -- brokers.base.MemoryAlarmed, TellsTime -------------------------------------------------------------------------

    def raise_memory_alarm(self, node: str) -> None:
        erlang.set_watermark(self._ground.nodes[node], "0.0")

    def clear_memory_alarm(self, node: str) -> None:
        if self._ground.nodes[node].state() == "running":
            erlang.set_watermark(self._ground.nodes[node], "")

    def memory_alarm(self, node: str) -> tuple[bool, str]:
        seen = erlang.memory_alarm(self._ground.nodes[node])
        return seen.on, (
            f"memory alarm {'on' if seen.on else 'off'}, {seen.used_mb:.0f} MB used, watermark {seen.limit_mb:.0f} MB, "
            f"{seen.blocked} of the cluster's {seen.connections} connections blocked"
        )

    def own_clock(self, node: str) -> tuple[float, float, str] | None:
        before = time.time()
        os_s, own_s = erlang.clocks(self._ground.nodes[node])
        after = time.time()
        now, error = (before + after) / 2, (after - before) / 2
        return os_s - now, error, f"os:system_time (erlang:system_time {own_s - now:+.3f} s)"

    def router(self, exchange_type: str) -> Router:
        return Router(self, exchange_type)

    def wiring(self) -> Wiring:
        return Wiring(self)

    def settings(self) -> Json:
        introduced = [admin.server(link.address) for link in self._ground.links_of("admin")]
        return {
            "broker": config.changed(self._names, self._settings),
            "environment": {
                k: v for k, v in config.environment("", "", self._settings).items()
                if k not in ("RABBITMQ_NODENAME", "BROKERPROOF_COOKIE")
            },
            "heartbeat_s": HEARTBEAT_S,
            "nodes": len(self._names),
            "server": introduced[0],
        }  # fmt: skip

    def save_logs(self, folder: Path) -> None:
        self._ground.save_logs(folder)

    def close(self) -> None:
        self._ground.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def start_nodes(self, image: str, progress: Callable[[str], None], equipment: Sequence[str] = ()) -> None:
        """Launches the nodes side by side and waits until a message went through each of them."""
        doing = f"starting rabbitmq {self.version}"

        def launch(name: str) -> None:
            self._ground.launch(
                NodeSpec(
                    name=name, image=image, entrypoint=["/bin/sh", "-c"], command=[config.START],
                    environment=config.environment(name, self._ground.name, self._settings),
                    files=config.files(self._names, self._settings), memory_mb=config.MEMORY_MB,
                    data=(config.DATA,),
                )
            )  # fmt: skip

        begin = time.monotonic()
        self._each(launch)
        progress(f"rabbitmq {self.version}: waiting for {len(self._names)} node(s)")

        def answering() -> bool:
            for name in self._names:
                self._ensure_running(name, doing)
            return all(link.greet(1.0).answered for link in self._ground.links_of("admin"))

        wait_until(
            answering, _READY_S, f"{doing}: the nodes of {self._ground.name!r} to answer", interval_s=0.1,
            last_state=self._last_lines,
        )  # fmt: skip
        self.create(Destination(name=PROBE_QUEUE, kind="queue"), PROBE_QUEUE)
        self.wait_healthy(_READY_S)
        progress(f"rabbitmq {self.version}: ready after {time.monotonic() - begin:.1f} s")

    def _ensure_running(self, name: str, doing: str) -> None:
        """The last lines of a node that exited are Erlang's own obituary; the cause is among its first errors."""
        node = self._ground.nodes[name]
        try:
            node.ensure_running(doing)
        except ProvisionError as exc:
            errors = [line for line in node.logs().splitlines() if "[error]" in line][:_ERRORS_MAX]
            raise ProvisionError(f"{exc}\n  its first errors:\n    " + "\n    ".join(errors)) from exc

    def _last_lines(self) -> str:
        return "\n".join(
            f"{name}: {line}" for name in self._names for line in self._ground.nodes[name].logs(tail=5).splitlines()
        )

    def _shape(self, destination: Destination, name: str) -> Shape:
        kind = destination.settings.get("x-queue-type", "quorum" if len(self._names) > 1 else "classic")
        defaults: dict[str, str | int] = {"x-queue-type": kind}
        if self.version.startswith("4.") and kind == "quorum":
            # 20 by default since 4.0: a storm of redeliveries would drop messages, which is a claim of its own.
            # https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
            defaults["x-delivery-limit"] = -1
        if destination.settings.get("node"):
            defaults[_HOME_ARGUMENT] = destination.settings["node"]
        return shape(destination.settings, name=name, prefix=name.removesuffix(destination.name), defaults=defaults)

    def _passes(self, timeout_s: float) -> None:
        """A message through the probe queue and back, by way of each node."""

        def passed(name: str) -> bool:
            with admin.channel(self._ground.link("admin", name).address) as ch:
                return admin.pass_through(ch, PROBE_QUEUE, _PASS_S)

        # One after the other: two consumers of one queue would take each other's probe.
        for name in self._names:
            wait_until(
                partial(passed, name), timeout_s, f"a message through {name} of {self._ground.name!r} and back",
                interval_s=0.2, retry_on=admin.NOT_YET,
            )  # fmt: skip

    def _ask(self, question: Callable[..., T]) -> dict[str, T]:
        """What each node answers, by name; nodes that do not answer are left out."""

        def one(name: str) -> list[T]:
            try:
                return [question(self._ground.nodes[name])]
            except HarnessError:
                return []

        return {name: answer[0] for name, answer in zip(self._names, self._each(one), strict=True) if answer}

    def _each(self, do: Callable[[str], T]) -> list[T]:
        with ThreadPoolExecutor(len(self._names)) as pool:
            return list(pool.map(do, self._names))


@dataclass(frozen=True, slots=True)
class _Trouble:
    """what: in a sentence, "" when all is well.  node: a restart of that one would help."""

    what: str
    node: str = ""


def _lagging(seen: Mapping[str, erlang.Replica], commit: int | None) -> str:
    """What is wrong with a quorum queue; commit: the least that every replica must have applied."""
    leaders = [replica for replica in seen.values() if replica.state == "leader"]
    if len(leaders) != 1:
        return f"{len(leaders)} leaders"
    if absent := leaders[0].nodes - {node for node, r in seen.items() if r.state in ("leader", "follower")}:
        return f"no replica in order on {', '.join(sorted(absent))}"
    if len({replica.term for replica in seen.values()}) > 1:
        return "replicas at different terms"
    least = leaders[0].commit if commit is None else commit
    return "" if all(replica.applied >= least for replica in seen.values()) else "a replica is behind"


def _states(seen: Mapping[str, erlang.Replica]) -> str:
    return ", ".join(f"{node} {r.state} at term {r.term} applied {r.applied}" for node, r in seen.items()) or "nothing"


def _may_vanish(wanted: Shape) -> bool:
    """Whether a message may be gone before it is consumed: the confirm alone is the proof then."""
    return any(key in wanted.arguments for key in ("x-message-ttl", "x-max-length", "x-max-length-bytes"))


class RabbitBroker(AdoptsRabbit):
    """``brokers.base.Broker``, ``brokers.base.Adopts``."""

    product = "rabbitmq"
    versions = ("4.0.5", "3.10.8", "3.8.9")
    topologies: Mapping[str, str] = TOPOLOGIES
    capabilities = frozenset(
        {
            "leader", "peers", "three_nodes", "confirm", "transactions", "several_consumers_per_lane", "exchanges",
            "mirrored", "consumer_timeout_of_a_queue",
        }
    )  # fmt: skip
    #: Classic mirrored queues are gone since 4.0. consumer_timeout is a queue's own (argument, policy) since 3.12, the node's before.
    #: Source: rabbitmq.com/docs/consumers, per-queue delivery timeouts.
    capability_versions: Mapping[str, str] = {
        "mirrored": "rabbitmq<4.0", "consumer_timeout_of_a_queue": "rabbitmq>=3.12",
    }  # fmt: skip
    live_settings: frozenset[str] = frozenset()

    def start(self, *, version: str, topology: str, settings: Json, name: str, run: str,
              progress: Callable[[str], None], equipment: Sequence[str] = ()) -> RabbitCluster:  # fmt: skip
        image = images.ensure("rabbitmq", version, progress).tag
        nodes = _NODES[topology]
        links = [LinkSpec(group, node, config.AMQP_PORT) for group in LINK_GROUPS for node in nodes]
        ground = Ground.open(name=name, run=run, nodes=nodes, links=links, opening=OPENING, equipment=equipment)
        try:
            cluster = RabbitCluster(ground, version=version, topology=topology, settings=settings)
            cluster.start_nodes(image, progress)
        except DeadlineError as exc:
            ground.close()
            raise ProvisionError(f"starting rabbitmq {version} ({topology}): {exc}") from exc
        except BaseException:
            ground.close()
            raise
        return cluster

    def attach(self, *, version: str, topology: str, settings: Json, name: str, run: str) -> RabbitCluster:
        ground = Ground.attach(name=name, run=run, opening=OPENING)
        return RabbitCluster(ground, version=version, topology=topology, settings=settings)


BROKER = RabbitBroker()
