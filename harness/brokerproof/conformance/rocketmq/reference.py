"""The reference ground: name servers, brokers and a gRPC proxy in this process, and mutants that each get one thing wrong.

Every case has peers of its own, with the case's settings. Their seconds are ``SCALE`` of ours.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from brokerproof.brokers.rocketmq.access import Access
from brokerproof.brokers.rocketmq.configuration import LAYOUTS
from brokerproof.conformance.case import Case
from brokerproof.conformance.rocketmq.after import unlike_before
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_names import BEAT_S, NameServer
from brokerproof.conformance.rocketmq.peer_proxy import ReferenceProxy
from brokerproof.conformance.rocketmq.peer_replicas import Replicas
from brokerproof.conformance.rocketmq.peer_sockets import Timers
from brokerproof.conformance.rocketmq.place import Address
from brokerproof.conformance.rocketmq.scene import Remote, RocketmqScene
from brokerproof.conformance.scene import Scene
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import unknown

SCALE = 0.04
#: Where idle connections are ended (after 120 s). Elsewhere a case may be waiting in our time, with others idle.
_IDLE_CASES = ("R1.08",)
VERSION = "5.5.0"

MUTANTS: Mapping[str, str] = {
    "trailing_octets": "two octets more than its length after the answer to a heartbeat",
    "json_only": "refuses the compact header",
    "keeps_after_bad_frame": "reads on after a frame that cannot be",
    "keeps_large_frames": "has the octets of a frame that is too large set aside for ever, and closes",
    "keeps_half_frames": "holds a connection that ended in the middle of a frame",
    "answers_half_frames": "answers what came of a frame when its connection ends",
    "unknown_wrong_code": "an unknown request code gets 1",
    "unknown_unanswered": "an unknown request code gets no answer",
    "wrong_opaque": "now and then an answer bears the opaque of another request",
    "answers_oneway": "answers oneway requests",
    "trips_over_unknown": "refuses a request with an unknown field",
    "missing_field_defaults": "makes up fields that are missing",
    "closes_on_missing_field": "closes on a request that lacks a field",
    "slow_idle": "ends idle connections after twice the time",
    "slow_expiry": "forgets silent members after twice the time",
    "overload_unanswered": "does not answer a send that it has no room for",
    "overload_wrong_code": "refuses a send that it has no room for with 1",
    "wrong_route_code": "an unknown topic's route gets 1",
    "empty_route": "an unknown topic's route is an empty success",
    "keeps_dead_routes": "keeps the routes of brokers that are gone",
    "forgets_early": "forgets a broker 95 s after its last registration",
    "forgets_late": "forgets a broker 160 s after its last registration",
    "slow_beat": "its broker registers every 90 s",
    "skips_offsets": "leaves out an offset",
    "batch_counts_one": "loses a message of a batch",
    "wrong_topic_code": "a send to an unknown topic gets 1",
    "makes_topics": "makes the topic of a send that it refuses",
    "any_name": "takes any name of a topic or group",
    "takes_oversize": "takes messages of any size",
    "ignores_perm": "ignores a topic's permissions",
    "other_defaults": "flushes synchronously by default",
    "recall_does_nothing": "answers a recall and delivers all the same",
    "recall_takes_all": "a recall takes along all that is due",
    "recall_forbidden": "says that it does not recall, and delivers",
    "recall_loses": "says that it does not recall, and does not deliver",
    "recall_unsaid": "refuses a recall without a word, and delivers",
    "recall_hurries": "says that it does not recall, and delivers at once",
    "wrong_pull_code": "answers 20 at the end of a queue",
    "offset_outside": "answers 19 outside a queue, and does not say where it begins and ends",
    "never_suspends": "answers a pull at the end at once",
    "sleeps_through": "answers a suspended pull only when its time is over",
    "never_makes_groups": "refuses every group that nobody made",
    "never_makes_topics": "refuses a send to a topic that nobody made",
    "makes_groups": "makes groups that it must not make",
    "exact_tags": "filters tags by their text",
    "unfiltered": "accepts an SQL expression and delivers everything",
    "reads_any_expression": "takes an expression that cannot be parsed",
    "shares_nothing": "gives every member all queues",
    "retries_broadcast": "what a broadcasting member had when it went comes again",
    "keeps_broadcast_offsets": "keeps offsets of broadcasting groups",
    "same_level": "every retry at level 3",
    "not_counted": "does not count deliveries of what was sent back",
    "retries_for_ever": "never moves what was sent back to the dead letters",
    "no_dead_letters": "drops what should be in the dead letters",
    "locks_for_all": "gives a lock to everybody who asks",
    "long_lease": "keeps a dead client's lock for three minutes",
    "order_lapses": "delivers the next message of a queue while the last is out, once the other queues have nothing",
    "order_ignored": "delivers the next message of a queue while the last is out",
    "nobody_told": "tells no member of others that come and go",
    "offset_zero": "answers 0 where a group has no offset",
    "forgets_offsets": "a restart loses the groups' offsets",
    "search_before": "a search by time gives the offset before",
    "reset_forgotten": "answers a reset and does nothing",
    "pops_many": "more than 32 can be popped",
    "stays_visible": "popped messages stay visible",
    "never_again": "a popped message that is not acknowledged never comes again",
    "acks_nothing": "answers an acknowledgement and forgets it",
    "any_handle": "takes any receipt handle",
    "handle_stays": "a handle stays good after ChangeInvisibleDuration",
    "level_not_capped": "a level above 18 is not treated as 18",
    "delivers_early": "delivers delayed messages after a third of the time",
    "loses_delayed": "never delivers delayed messages",
    "no_ceiling": "takes any delivery time",
    "low_ceiling": "its ceiling of delivery times is half of what it should be",
    "half_shows_late": "half messages that nobody has decided are visible after 4 s",
    "ends_untold": "does not say where a queue ends",
    "half_visible": "half messages are visible at once",
    "commits_twice": "a commit makes a message visible twice",
    "rollback_commits": "a rollback makes the message visible",
    "checks_too_soon": "checks before the timeout",
    "checks_too_often": "checks twice more than the maximum",
    "uneven_checks": "checks at less than half the interval",
    "never_checks": "never checks",
    "keeps_undecided": "keeps what was never decided in a topic of its own",
    "commits_undecided": "delivers what was never decided",
    "commits_for_anybody": "commits for another group or at another offset",
    "slave_commits": "a slave ends transactions",
    "no_newer_kinds": "has no priority topics",
    "no_priorities": "ignores priorities",
    "lite_mixed": "delivers messages of every lite topic",
    "needs_no_client_id": "serves calls without a client id",
    "wrong_not_found": "an unknown topic gets 40401",
    "any_endpoints": "takes any endpoints",
    "takes_client_settings": "answers settings with the client's own",
    "strangers_wait": "leaves a receive of a client that sent no settings without an answer",
    "serves_strangers": "serves a client that sent no settings",
    "no_limits": "has no limits for sends",
    "any_type": "takes messages of another type than the topic's",
    "any_limits": "has no limits for receives",
    "empty_is_not_found": "a receive that brings nothing ends with 40401",
    "empty_is_an_rpc_error": "a receive that brings nothing ends with a gRPC error",
    "attempts_stay": "does not count delivery attempts",
    "retries_more": "delivers once more than the retry policy says",
    "no_recovery": "puts undecided transactions to no producer",
    "answers_unknown_rpc": "answers methods that there are not",
    "name_servers_talk": "name servers keep connections to each other",
    "acks_alone": "a synchronous master answers success without its slave",
    "stores_too_few": "stores a message that it refuses for too few in sync",
    "too_few_general_code": "refuses for too few in sync with 1, and says why",
    "too_few_unsaid": "refuses for too few in sync with 1, and does not say why",
    "too_few_timeout": "refuses for too few in sync with 12 for ever",
    "stores_unseen": "stores what it refuses for too few in sync, and shows it when enough are there again",
    "elects_anybody": "elects whoever is alive, in sync or not",
    "epoch_stays": "the epoch does not rise with a new master",
    "old_master_stays": "the old master comes back as the master",
    "keeps_own_tail": "the old master keeps what it had beyond the new epoch",
    "acks_when_isolated": "a master that nobody reaches acknowledges all the same",
    "elected_silent": "a master that was elected acknowledges nothing",
    "loses_on_election": "an election loses the last message",
    "minority_acks": "a leader without a majority answers success",
    "stalled_code": "a stalled slave is 11, not 12",
    "loose_tags": "the proxy leaves the filtering of equal hashes to its clients",
}


class ReferencePlace:
    """``place.Place`` in this process."""

    access: Access = None

    def __init__(self, topology: str, settings: Mapping[str, Any], bug: str, scale: float, idle_s: float) -> None:
        layout = LAYOUTS[topology]
        self.brokers: Sequence[str] = layout.brokers
        self.name_servers: Sequence[str] = layout.name_servers
        self.broker_name = layout.sets[0][0]
        self.scale, self.bug = scale, bug
        self.raft = layout.raft
        self.timers = Timers()
        self.servers = {name: NameServer(name, scale=scale, bug=bug, idle_s=idle_s) for name in self.name_servers}
        self.nodes: dict[str, Broker] = {}
        self.dead: set[str] = set()
        self._cuts: set[frozenset[str]] = set()
        self._proxies: list[ReferenceProxy] = []
        for nodes in layout.sets:
            for node in nodes:
                self.nodes[node] = Broker(
                    node, nodes[0], scale=scale, bug=bug, settings=settings, timers=self.timers, idle_s=idle_s,
                    routes=lambda node=node: self._register(node),  # type: ignore[misc]  # bound early
                )  # fmt: skip
                self.nodes[node].slave = node != nodes[0]
        self.replicas = [
            Replicas(self, nodes, settings, elects=layout.controller or layout.raft) for nodes in layout.sets
        ]
        for server in self.servers.values():
            server.sync_state = lambda: {r.name: r.told() for r in self.replicas}
        for node in self.nodes:
            self._beat(node)

    def address(self, node: str) -> Address:
        server = self.servers[node].server if node in self.servers else self.nodes[node].server
        return "127.0.0.1", server.port

    def proxy(self) -> Address:
        if not self._proxies:
            self._proxies.append(ReferenceProxy(self.nodes[self.master()], lambda: self.nodes[self.master()]))
        return "127.0.0.1", self._proxies[0].port

    def master(self) -> str:
        return self.replicas[0].master

    def kill(self, node: str) -> None:
        self.dead.add(node)
        self.nodes[node].server.stop()
        for server in self.servers.values():
            if not self.apart(node, server.node):
                server.drop(node)
        self._changed()

    def stop(self, node: str) -> None:
        self.kill(node)

    def start(self, node: str) -> None:
        if node in self.dead:
            self.dead.discard(node)
            self._changed()
            self.nodes[node].restart()
            self._register(node)

    def cut(self, left: Sequence[str], right: Sequence[str]) -> None:
        self._cuts |= {frozenset((a, b)) for a in left for b in right}
        self._changed()

    def heal(self) -> None:
        self._cuts.clear()
        self._changed()

    def _changed(self) -> None:
        for replicas in self.replicas:
            replicas.changed()

    def reaches(self, one: str, other: str) -> bool:
        return one not in self.dead and other not in self.dead and not self.apart(one, other)

    def controller(self) -> Address:
        return self.address(self.name_servers[0])

    def connected(self, one: str, other: str) -> bool:
        return self.bug == "name_servers_talk"

    def apart(self, one: str, other: str) -> bool:
        """Whether nothing goes between them."""
        return frozenset((one, other)) in self._cuts

    def slow_disk(self, node: str) -> bool:
        return False

    def quick_disk(self, node: str) -> None:
        """Nothing to heal."""

    def memory(self, node: str) -> float:
        server = self.servers[node].server if node in self.servers else self.nodes[node].server
        return server.kept / 2**20

    def registrations(self, name_server: str, broker: str, since: float) -> list[float]:
        return [at for at, node in self.servers[name_server].beats if node == broker and at >= since]

    def wait_healthy(self, timeout_s: float) -> None:
        """There is nothing to wait for: what is started is there."""

    def slice(self) -> None:
        """Every octet in a TCP segment of its own, from now on."""
        for sockets in [*(b.server for b in self.nodes.values()), *(n.server for n in self.servers.values())]:
            sockets.slices = True

    def close(self) -> None:
        self.timers.stop()
        for proxy in self._proxies:
            proxy.close()
        for sockets in [*(b.server for b in self.nodes.values()), *(n.server for n in self.servers.values())]:
            sockets.stop()

    def _register(self, node: str) -> None:
        for server in self.servers.values():
            if node in self.nodes and node not in self.dead and not self.apart(node, server.node):
                server.register(self.nodes[node])

    def _beat(self, node: str) -> None:
        self._register(node)
        every = BEAT_S * (3 if self.bug == "slow_beat" else 1)
        self.timers.after(self.scale * every * 0.9, lambda: self._beat(node))


class ReferenceGround:
    """``scene.Ground`` in this process."""

    product, version = "rocketmq", VERSION

    def __init__(self, mutant: str) -> None:
        self.mutant = mutant
        self._bystanders: dict[int, Remote] = {}

    @contextlib.contextmanager
    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> Iterator[Scene]:
        idle_s = SCALE * (240 if self.mutant == "slow_idle" else 120) if case.id in _IDLE_CASES else 600.0
        place = ReferencePlace(
            case.topology, case.settings_of(variant, self.product, self.version), self.mutant, SCALE, idle_s
        )
        if condition == "slicer":
            place.slice()
        name = f"{case.id.replace('.', '')}{variant[:8]}-{secrets.token_hex(3)}"
        scene = RocketmqScene(
            case, place=place, variant=variant, condition=condition, product=self.product, version=self.version,
            name=name, log=log, scale=SCALE, stop=stop,
        )  # fmt: skip
        # Waiting for what does not come lasts a second of ours each time.
        scene.deadline = time.monotonic() + max(20.0, case.limit_s * SCALE * 5)
        if case.watched(condition):
            self._bystanders[id(scene)] = scene.spared("bystander")
        try:
            yield scene
        finally:
            self._bystanders.pop(id(scene), None)
            scene.close()
            place.close()

    def after(self, scene: Scene) -> str:
        assert isinstance(scene, RocketmqScene)
        return unlike_before(scene, self._bystanders.get(id(scene)))

    def close(self) -> None:
        """Every scene has closed what was its own."""


def on_reference(mutant: str = "") -> ReferenceGround:
    """Raises UsageError for a mutant that there is not."""
    if mutant and mutant not in MUTANTS:
        raise unknown("mutant of the RocketMQ reference peer", mutant, MUTANTS)
    return ReferenceGround(mutant)
