"""The transaction coordinator of the peer. Markers are written a little after EndTxn is answered, as in a broker.

Source: KIP-98, KIP-360, KIP-588, KIP-890.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from brokerproof.conformance.kafka.peer.cluster import Cluster
from brokerproof.wire.kafka import records
from brokerproof.wire.kafka.errors import WireError
from brokerproof.wire.kafka.frames import Request
from brokerproof.wire.kafka.schema import Fields

OLD_EPOCH, TXN_STATE, BAD_PID, BAD_TIMEOUT, CONCURRENT, FENCED = 47, 48, 49, 50, 51, 90
_MARKERS_MS = 100.0
#: From these versions on a Produce adds its partition by itself, and EndTxn raises the epoch (transaction.version 2).
_ADDS, _RAISES = 12, 5


@dataclass(slots=True)
class Transaction:
    """due_ms: when the markers are written."""

    pid: int
    epoch: int
    timeout_ms: float
    state: Literal["empty", "ongoing", "ending", "committed", "aborted"] = "empty"
    began_ms: float = 0.0
    due_ms: float = 0.0
    commit: bool = False
    parts: set[tuple[str, int]] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)


class Transactions:
    """ended: told (group, producer id, commit) for each group whose offsets were in a transaction."""

    def __init__(self, cluster: Cluster, ended: Callable[[str, int, bool], None]) -> None:
        self._c, self._ended = cluster, ended
        self._known: dict[str, Transaction] = {}
        self._pids = itertools.count(4000)

    # -- APIs ----------------------------------------------------------------------------------------------------------

    def on_init_producer_id(self, request: Request, node: int) -> Fields:
        id, timeout = request.fields["transactional_id"], float(request.fields["transaction_timeout"])
        if id is None:
            return {"error_code": 0, "producer_id": next(self._pids), "producer_epoch": 0}
        if timeout > float(self._c.config["transaction.max.timeout.ms"]):
            return {"error_code": BAD_TIMEOUT}
        known = self._known.get(id)
        if known is None:
            known = self._known[id] = Transaction(next(self._pids), -1, timeout)
        if known.state == "ongoing" and not self._c.wrong("init-leaves-open"):
            known.epoch += 1
            self._end(known, commit=False)
        if known.state == "ending":
            return {"error_code": CONCURRENT}
        if not self._c.wrong("same-epoch") or known.epoch < 0:
            known.epoch += 1
        known.timeout_ms = timeout
        if not self._c.wrong("init-leaves-open"):
            known.state = "empty"
        return {"error_code": 0, "producer_id": known.pid, "producer_epoch": known.epoch}

    def on_add_partitions_to_txn(self, request: Request, node: int) -> Fields:
        fields = request.fields
        if "v3_and_below_transactional_id" not in fields:
            told = [{"transactional_id": t["transactional_id"], "topic_results": []} for t in fields["transactions"]]
            return {"error_code": 0, "results_by_transaction": told}
        old = "v3_and_below_"
        known, code = self._of({k: fields[old + k] for k in ("transactional_id", "producer_id", "producer_epoch")})
        if known is not None and not code:
            self._begin(known)
            known.parts |= {(t["name"], p) for t in fields[f"{old}topics"] for p in t["partitions"]}
        results = [
            {"name": t["name"], "results_by_partition": [
                {"partition_index": p, "partition_error_code": code} for p in t["partitions"]
            ]} for t in fields[f"{old}topics"]
        ]  # fmt: skip
        return {"results_by_topic_v3_and_below": results}

    def on_add_offsets_to_txn(self, request: Request, node: int) -> Fields:
        known, code = self._of(request.fields)
        if known is not None and not code:
            self._begin(known)
            known.groups.add(request.fields["group_id"])
        return {"error_code": code}

    def on_end_txn(self, request: Request, node: int) -> Fields:
        commit = request.fields["committed"]
        known, code = self._of(request.fields)
        if known is None or code:
            return {"error_code": code}
        if known.state == "ongoing":
            self._end(known, commit=commit)
        elif known.state != ("committed" if commit else "aborted"):
            return {"error_code": 0 if self._c.wrong("any-end") else TXN_STATE}
        raised = request.version >= _RAISES and not self._c.wrong("epoch-not-raised")
        if raised:
            known.epoch += 1
        return {"error_code": 0, "producer_id": known.pid, "producer_epoch": known.epoch}

    # -- what others ask -----------------------------------------------------------------------------------------------

    def may_produce(self, request: Request, topic: str, index: int, data: bytes) -> int:
        """The error code for a batch of a transactional producer; 0 where it may be appended."""
        try:
            found = records.batches(data)
        except WireError:
            return 0  # the log says what is wrong with it
        if not found or not found[0].transactional:
            return 0
        batch, known = found[0], self._known.get(request.fields["transactional_id"] or "")
        if self._c.wrong("late-write"):
            return 0
        if known is None or known.pid != batch.producer_id:
            return BAD_PID
        if batch.producer_epoch != known.epoch:
            return OLD_EPOCH
        if known.state == "ending":
            return CONCURRENT
        if request.version >= _ADDS and not self._c.wrong("produce-adds-nothing"):
            self._begin(known)
            known.parts.add((topic, index))
        return 0 if known.state == "ongoing" and (topic, index) in known.parts else TXN_STATE

    def valid(self, fields: Fields) -> int:
        """The error code for a call of a producer with its transactional id, id and epoch."""
        return self._of(fields)[1]

    def tick(self) -> None:
        now = self._c.now_ms()
        for known in self._known.values():
            if known.state == "ending" and now >= known.due_ms:
                self._complete(known)
            elif (
                known.state == "ongoing"
                and now - known.began_ms > known.timeout_ms
                and not self._c.wrong("never-times-out")
            ):
                known.epoch += 1
                self._end(known, commit=False)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _of(self, fields: Any) -> tuple[Transaction | None, int]:
        known = self._known.get(fields["transactional_id"])
        if known is None or known.pid != fields["producer_id"]:
            return known, BAD_PID
        if fields["producer_epoch"] != known.epoch and not self._c.wrong("any-epoch"):
            return known, FENCED
        return known, CONCURRENT if known.state == "ending" else 0

    def _begin(self, known: Transaction) -> None:
        if known.state != "ongoing":
            known.state, known.began_ms = "ongoing", self._c.now_ms()

    def _end(self, known: Transaction, *, commit: bool) -> None:
        known.state, known.commit, known.due_ms = "ending", commit, self._c.now_ms() + _MARKERS_MS
        if self._c.wrong("ends-at-once"):
            self._complete(known)

    def _complete(self, known: Transaction) -> None:
        for name, index in known.parts:
            if name in self._c.topics:
                part = self._c.topics[name].partitions[index]
                commit = known.commit or self._c.wrong("abort-commits")
                part.log.mark(records.COMMIT if commit else records.ABORT, known.pid, known.epoch, part.epoch)
                part.ends[part.leader] = part.log.end
        for group in known.groups:
            self._ended(group, known.pid, known.commit)
        known.state = "committed" if known.commit else "aborted"
        known.parts.clear()
        known.groups.clear()
        self._c.changed.notify_all()
