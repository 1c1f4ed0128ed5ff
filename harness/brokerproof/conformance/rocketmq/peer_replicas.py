"""A set of reference brokers that copy from a master: synchronous replication, the SyncStateSet, elections.

One sentence each. A message is copied at once to every replica that the master reaches. Without elections a SYNC_MASTER
answers 11 where its slave is gone and 12 where it does not answer. With elections the set of those in sync shrinks after
15 s, when the controller is reached; a master that does not reach a member of it answers 12; when a master is gone for
5 s the controller makes one of the set the master, in the next epoch, and the old one is cut to it when it comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_broker import Broker
from brokerproof.conformance.rocketmq.peer_entities import Refused
from brokerproof.wire.rocketmq import Stored

if TYPE_CHECKING:
    from brokerproof.conformance.rocketmq.reference import ReferencePlace

_ELECTION_S, _LEAVES_S = 5.0, 15.0
#: The answer to a send for which too few are in sync: a code that nothing else has.
_TOO_FEW = 2900


class Replicas:
    """nodes: of the set; the first is the master at first.  elects: whether another may take its place."""

    def __init__(
        self, place: ReferencePlace, nodes: Sequence[str], settings: Mapping[str, Any], *, elects: bool
    ) -> None:
        self._place, self._nodes, self._settings, self._elects = place, list(nodes), settings, elects
        self.name = nodes[0]
        self.master = nodes[0]
        self.epoch = 1
        self._in_sync = set(nodes)
        #: Replicas that lack something, and are made anew when they are reached.
        self._behind: set[str] = set()
        #: What was refused for too few in sync and is kept all the same: a mutant's.
        self._unseen: list[Stored] = []
        for node in nodes:
            broker = place.nodes[node]
            broker.admit = lambda node=node: self._admit(node)  # type: ignore[misc]  # bound early
            broker.copied = lambda message, node=node: self._copied(node, message)  # type: ignore[misc]  # bound early

    def _bug(self, name: str) -> bool:
        return self._place.bug == name

    def _broker(self, node: str) -> Broker:
        return self._place.nodes[node]

    def told(self) -> dict[str, Any]:
        """As the controller says it."""
        alive = self.master not in self._place.dead
        return {
            "masterBrokerId": self._id(self.master) if alive else 0, "masterEpoch": self.epoch,
            "inSyncReplicas": [{"brokerName": self.name, "brokerId": self._id(n)} for n in sorted(self._in_sync)],
        }  # fmt: skip

    def _id(self, node: str) -> int:
        return self._nodes.index(node) + 1

    # -- sends ---------------------------------------------------------------------------------------------------------

    def _reached(self, node: str) -> set[str]:
        return {n for n in self._nodes if n != node and self._place.reaches(node, n)}

    def _admit(self, node: str) -> None:
        """Raises Refused where fewer are in sync than demanded."""
        if self._elects and self._too_few() and self._place.bug not in ("stores_too_few", "stores_unseen"):
            if self._bug("too_few_unsaid"):
                raise Refused(codes.SYSTEM_ERROR, "something went wrong")
            code = {"too_few_general_code": codes.SYSTEM_ERROR, "too_few_timeout": codes.FLUSH_SLAVE_TIMEOUT}
            raise Refused(code.get(self._place.bug, _TOO_FEW), "in-sync replicas not enough")

    def _too_few(self) -> bool:
        return len(self._in_sync) < int(self._settings.get("minInSyncReplicas", 1))

    def _copied(self, node: str, message: Stored) -> int:
        """Copies it; the code of the answer."""
        reached = self._reached(node)
        for other in self._nodes:
            if other in reached and other not in self._behind and self._broker(other).slave:
                self._broker(other).follow(message)
            elif other != node:
                self._behind.add(other)
        if self._settings.get("flushDiskType") == "SYNC_FLUSH" and self._broker(node).config["syncFlushTimeout"] == "0":
            return codes.FLUSH_DISK_TIMEOUT
        if self._bug("acks_alone") or len(self._nodes) == 1:
            return codes.SUCCESS
        return self._answer(node, reached, message)

    def _answer(self, node: str, reached: set[str], message: Stored) -> int:
        if not self._elects:
            missing = set(self._nodes) - reached - {node}
            if self._settings.get("brokerRole") != "SYNC_MASTER" or not missing:
                return codes.SUCCESS
            gone = missing & self._place.dead or self._bug("stalled_code")
            return codes.SLAVE_NOT_AVAILABLE if gone else codes.FLUSH_SLAVE_TIMEOUT
        if self._bug("elected_silent") and self.epoch > 1:
            return codes.FLUSH_SLAVE_TIMEOUT
        if self._bug("acks_when_isolated"):
            return codes.SUCCESS
        if self._place.raft:
            enough = len(reached) + 1 > len(self._nodes) // 2 or self._bug("minority_acks")
            return codes.SUCCESS if enough else codes.FLUSH_SLAVE_TIMEOUT
        if self._too_few():
            if self._bug("stores_unseen"):
                self._unseen.append(self._broker(node).topics[message.topic].queues[message.queue].pop())
            return _TOO_FEW
        return codes.SUCCESS if self._in_sync - {node} <= reached and self.master == node else codes.FLUSH_SLAVE_TIMEOUT

    # -- elections -----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody died, came back, or reaches others than before."""
        for node in sorted(self._behind | set(self._nodes)):
            if node != self.master and self._place.reaches(self.master, node):
                self._catch_up(node)
        if not self._too_few():
            while self._unseen:
                message = self._unseen.pop()
                self._broker(self.master).topics[message.topic].queues[message.queue].append(message)
        if not self._elects:
            return
        self._place.timers.after(self._place.scale * _LEAVES_S, self._shrink)
        if not self._governs(self.master):
            self._place.timers.after(self._place.scale * _ELECTION_S, self._elect)

    def _governs(self, node: str) -> bool:
        """Whether the controller, or for DLedger a majority, reaches it."""
        if node in self._place.dead:
            return False
        if self._place.raft:
            return len(self._reached(node)) + 1 > len(self._nodes) // 2
        return not self._place.apart(node, self._place.name_servers[0])

    def _catch_up(self, node: str) -> None:
        broker, master = self._broker(node), self._broker(self.master)
        broker.slave = True
        if self._bug("old_master_stays") and self.epoch > 1:
            broker.slave, master.slave, self.master = False, True, node
            return
        if self._bug("keeps_own_tail"):
            return
        broker.cut_to(master)
        self._behind.discard(node)
        self._in_sync.add(node)

    def _shrink(self) -> None:
        """Who is not reached by a master that governs leaves the set."""
        if self._governs(self.master):
            self._in_sync = {self.master} | (self._reached(self.master) & self._in_sync)

    def _elect(self) -> None:
        if self._governs(self.master):
            return
        alive = [n for n in self._nodes if n != self.master and self._governs(n)]
        fit = [n for n in alive if n in self._in_sync]
        if self._bug("elects_anybody"):
            fit = [n for n in alive if n not in fit] or alive
        if not fit:
            return
        chosen = max(fit, key=lambda n: self._broker(n).end)
        self.master = chosen
        if not self._bug("epoch_stays"):
            self.epoch += 1
        broker = self._broker(chosen)
        if self._bug("loses_on_election"):
            for topic in broker.topics.values():
                for queue in topic.queues:
                    del queue[-1:]
        broker.slave = False
        broker.epochs[self.epoch] = broker.end
        self._in_sync = {chosen} | (self._reached(chosen) & self._in_sync)
        self.changed()
