"""A second opinion: the definitions once more, with dicts, sets and loops, a row at a time. Slow and plain on purpose.

It shares nothing with the checkers but the words of the definitions. Histories are rows as ``storybook`` makes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]


class Reference:
    """What is found in rows, key by key, as sets of message numbers (or counts)."""

    def __init__(self, rows: Sequence[Row], lanes: Sequence[str], roles: Sequence[str]) -> None:
        self.lanes, self.roles = lanes, roles
        self.rows = rows = self.with_transactions(rows)
        self.sends: dict[int, list[Row]] = defaultdict(list)
        for r in rows:
            if r["f"] == "send" and r["msg"] >= 0:
                self.sends[r["msg"]].append(r)
        for m in self.sends:
            self.sends[m].sort(key=lambda r: r["start_ns"])  # stable: rows stand in order
        self.receives = [r for r in rows if r["f"] == "receive" and r["outcome"] == "ok" and r["msg"] >= 0]
        self.effects = [r for r in rows if r["f"] == "effect" and r["outcome"] == "ok" and r["msg"] >= 0]
        self.controls = [r for r in rows if r["f"] == "control"]

    def with_transactions(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows, with the sends of transactions taking their outcome."""

        def ended(f: str, *outcomes: str) -> set[tuple[int, int]]:
            return {(r["process"], r["batch"]) for r in rows if r["f"] == f and r["outcome"] in outcomes}

        every = ("ok", "fail", "info")
        self.transactions = ended("txn_begin", *every) | ended("txn_commit", *every) | ended("txn_abort", *every)
        self.aborted = ended("txn_abort", "ok") - ended("txn_commit", "ok", "info")
        committed = ended("txn_commit", "ok")
        out = []
        for r in rows:
            by = (r["process"], r["batch"])
            if r["f"] == "send" and r["batch"] >= 0 and by in self.transactions:
                if by in self.aborted:
                    r = {**r, "outcome": "fail"}
                elif by not in committed and r["outcome"] == "ok":
                    r = {**r, "outcome": "info"}
            out.append(r)
        return out

    # -- what is known of a message ------------------------------------------------------------------------------------

    def acked(self, m: int) -> bool:
        return any(r["outcome"] == "ok" for r in self.sends[m]) if m in self.sends else False

    def maybe(self, m: int) -> bool:
        return m in self.sends and not self.acked(m) and any(r["outcome"] == "info" for r in self.sends[m])

    def refused(self, m: int) -> bool:
        return m in self.sends and not self.acked(m) and not self.maybe(m)

    def lane(self, m: int) -> int:
        return next((r["lane"] for r in self.sends[m] if r["lane"] >= 0), -1)

    def log(self, lane: int) -> bool:
        if 0 <= lane < len(self.lanes):
            return self.lanes[lane] == "log"
        return any(
            r["f"] == "send" and r["outcome"] == "ok" and r["msg"] >= 0 and r["lane"] == lane and r["pos"] >= 0
            for r in self.rows
        )

    def says(self, lane: int, word: str) -> bool:
        return any(
            c["lane"] == lane and c["outcome"] == "ok" and c["error"].split(" ")[0] == word for c in self.controls
        )

    def drained(self, lane: int) -> bool:
        if not self.controls:
            return True
        if lane < 0:
            some = any(c["outcome"] == "ok" and c["error"].split(" ")[0] == "drained" for c in self.controls)
            used = {r["lane"] for m in self.sends for r in self.sends[m] if r["lane"] >= 0}
            return some and all(self.drained(x) or self.says(x, "definition_lost") for x in used)
        return self.says(lane, "drained")

    def misrouted_row(self, r: Row) -> bool:
        m = r["msg"]
        if m not in self.sends or r["lane"] < 0 or self.lane(m) < 0:
            return False
        if r["lane"] == self.lane(m):
            return False
        again = self.sends[m] if len(self.sends[m]) > 1 else []
        return all(s["lane"] not in (r["lane"], -1) for s in again)

    # -- classes -------------------------------------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        got = {r["msg"] for r in self.receives if not self.misrouted_row(r)}
        seen = {r["msg"] for r in self.receives}
        absent = {m for m in self.sends if self.acked(m) and m not in got}
        gone = {m for m in absent if self.says(self.lane(m), "definition_lost")}
        lost = {m for m in absent - gone if self.drained(self.lane(m))}
        out: dict[str, Any] = {
            "lost": lost,
            "undrained": absent - gone - lost,
            "phantom": seen - set(self.sends),
            "corrupted": sum(r["f"] == "receive" and r["outcome"] == "ok" and r["msg"] == -2 for r in self.rows),
            "misrouted": {r["msg"] for r in self.receives if self.misrouted_row(r)},
            "failed_but_seen": {m for m in seen if self.refused(m)},
            "recovered": {m for m in seen if self.maybe(m)},
            "given_up": {m for m in self.sends if not self.acked(m) and m not in seen and self.drained(self.lane(m))},
            "resent": {m for m, sends in self.sends.items() if len(sends) > 1},
            "duplicated": self.on_logs() | self.on_queues(),
            "redelivered": self.redelivered(),
            "reordered": self.reordered(),
            "effect_of_nobody": {e["msg"] for e in self.effects} - set(self.sends),
            "effect_duplicated": {
                e["msg"] for e in self.effects if sum(x["msg"] == e["msg"] for x in self.effects) > 1
            },
            "effect_out_of_order": self.effects_out_of_order(),
            "settled_but_lost": self.settled_but_lost(),
            "definition_lost": len({c["lane"] for c in self.controls if self.says(c["lane"], "definition_lost")}),
            "effect_lost": self.effect_lost(),
            "zombie_effect": self.zombies(),
            "commit_regressed": self.commits_back(),
            "commit_ahead_of_work": self.commits_ahead(),
            "aborted_read": self.aborted_read(seen),
            "precommitted_read": self.precommitted_read(),
            "g0": len(on_cycles(self.writes())),
            "g1c": len(on_cycles(self.reads())),
            "stale_read": self.stale_reads(),
            "late": self.late(seen),
            "send_skip": self.send_skips(),
        }
        out.update(self.logs())
        return out

    def on_logs(self) -> set[int]:
        places: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for r in self.rows:
            tells = r["f"] == "receive" or (r["f"] == "send" and r["outcome"] == "ok")
            if tells and r["msg"] >= 0 and r["pos"] >= 0 and self.log(r["lane"]):
                places[r["msg"]][r["lane"]].add(r["pos"])
        return {m for m, by in places.items() if any(len(p) > 1 for p in by.values())}

    def on_queues(self) -> set[int]:
        out = set()
        for m in {r["msg"] for r in self.receives}:
            for lane in {r["lane"] for r in self.receives if r["msg"] == m and not self.log(r["lane"])}:
                mine = sorted(
                    (r for r in self.receives if r["msg"] == m and r["lane"] == lane), key=lambda r: r["start_ns"]
                )
                settled = [
                    s["end_ns"] for s in self.rows
                    if s["f"] == "settle" and s["outcome"] == "ok" and s["msg"] == m and s["lane"] in (lane, -1)
                    and not s["error"]
                ]  # fmt: skip
                for r in mine[1:]:
                    if r["attempt"] == 0 or (settled and r["start_ns"] >= min(settled)):
                        out.add(m)
        return out

    def redelivered(self) -> set[int]:
        out = {r["msg"] for r in self.receives if r["attempt"] > 0}
        count: dict[tuple[int, ...], int] = defaultdict(int)
        for r in self.receives:
            by = (r["process"],) if self.log(r["lane"]) else ()
            count[r["msg"], r["lane"], *by] += 1
        return out | {place[0] for place, n in count.items() if n > 1}

    def reordered(self) -> set[int]:
        out = set()
        came: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for r in self.receives:
            m = r["msg"]
            if m not in self.sends or self.sends[m][0]["key"] < 0:
                continue
            group = came[r["process"], r["lane"], self.sends[m][0]["process"], self.sends[m][0]["key"]]
            if m in group:
                continue
            if any(other > m for other in group):
                out.add(m)
            group.append(m)
        return out

    def effects_out_of_order(self) -> set[int]:
        def stream(m: int) -> tuple[int, int] | None:
            if m not in self.sends or self.sends[m][0]["key"] < 0:
                return None
            process = self.sends[m][0]["process"]
            return (process % len(self.roles) if self.roles and process >= 0 else process, self.sends[m][0]["key"])

        return {
            e["msg"] for e in self.effects for later in self.effects
            if stream(e["msg"]) is not None and stream(e["msg"]) == stream(later["msg"])
            and later["msg"] > e["msg"] and e["start_ns"] > later["end_ns"]
        }  # fmt: skip

    def settled_but_lost(self) -> set[int]:
        rows = [r for r in self.rows if r["f"] == "effect"]
        if not rows:
            return set()
        n = len(self.roles)
        happened = {r["msg"] for r in rows if r["outcome"] in ("ok", "info")}
        out = set()
        settles = [
            s for s in self.rows
            if s["f"] == "settle" and s["outcome"] == "ok" and s["msg"] in self.sends and not s["error"]
        ]  # fmt: skip
        for s in settles:
            slot = s["process"] % n if s["process"] >= 0 else s["process"]
            reader = s["process"] >= 0 and self.roles[slot] == "reader"
            if not reader and s["msg"] not in happened:
                out.add(s["msg"])
        return out

    def slot(self, process: int) -> int:
        return process % len(self.roles) if self.roles and process >= 0 else process

    def is_reader(self, r: Row) -> bool:
        return r["process"] >= 0 and self.roles[self.slot(r["process"])] == "reader"

    def effect_lost(self) -> set[int]:
        if not any(r["f"] == "effect" for r in self.rows) or "consumer" not in self.roles:
            return set()
        settles = [r for r in self.rows if r["f"] == "settle" and r["msg"] >= 0]
        ok_settles = [r for r in settles if r["outcome"] == "ok" and not r["error"] and self.has_number(r["msg"])]
        worked = {r["lane"] for r in self.rows if r["f"] == "effect"}
        worked |= {r["lane"] for r in (*self.receives, *ok_settles) if not self.is_reader(r)}
        judged = {r["lane"] for sends in self.sends.values() for r in sends}
        judged -= {r["lane"] for r in self.receives if self.is_reader(r)} - worked
        done = {e["msg"] for e in self.effects}
        perhaps = {r["msg"] for r in self.rows if r["f"] == "effect" and r["outcome"] == "info"}
        settled = {r["msg"] for r in settles if not self.is_reader(r) and r["error"] != "REQUEUED"}
        out = set()
        for m in self.sends:
            lane = self.lane(m)
            if not self.acked(m) or m in done or m in perhaps or not (-1 in judged or lane in judged):
                continue
            if self.says(lane, "definition_lost") or not self.drained(lane):
                continue
            if m in settled or not any(self.beyond(r) for r in self.receives if r["msg"] == m and self.is_reader(r)):
                out.add(m)
        return out

    def has_number(self, m: int) -> bool:
        return any(r["msg"] == m for r in self.rows if r["f"] in ("send", "receive", "effect"))

    def beyond(self, r: Row) -> bool:
        """Whether what the reader found had not been passed by the consumers."""
        lane = r["lane"]
        if not self.log(lane):
            return True
        commits = [c["value"] for c in self.rows if c["f"] == "commit" and c["outcome"] == "ok" and c["lane"] == lane]
        came = [x["pos"] for x in self.receives if x["lane"] == lane and not self.is_reader(x)]
        reached = max(commits) - 1 if commits else max([*came, -1])
        return bool(r["pos"] > reached)

    def zombies(self) -> set[int]:
        out = set()
        for e in self.effects:
            lane = e["lane"] if e["lane"] >= 0 else (self.lane_of_first(e["msg"]))

            def last(f: str, before: int, process: int = e["process"], lane: int = lane) -> int:
                return max(
                    (r["end_ns"] for r in self.rows if r["f"] == f and r["outcome"] == "ok" and r["process"] == process
                     and r["lane"] in (lane, -1) and r["end_ns"] <= before),
                    default=-1,
                )  # fmt: skip

            if last("revoke", e["start_ns"] - 1) > last("assign", e["start_ns"]):
                out.add(e["msg"])
        return out

    def lane_of_first(self, m: int) -> int:
        return self.lane(m) if m in self.sends else -1

    def commits(self) -> dict[tuple[int, int], list[Row]]:
        out: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for r in self.rows:
            if r["f"] == "commit" and r["outcome"] == "ok" and r["value"] >= 0:
                out[self.slot(r["process"]), r["lane"]].append(r)
        return out

    def commits_back(self) -> int:
        count = 0
        for mine in self.commits().values():
            for n, r in enumerate(mine):
                over = any(x["end_ns"] < r["start_ns"] and x["value"] > r["value"] for x in mine)
                last = mine[n - 1] if n else r
                touching = n > 0 and last["process"] == r["process"] and r["start_ns"] >= last["end_ns"]
                count += over or (touching and r["value"] < last["value"])
        return count

    def commits_ahead(self) -> set[int]:
        holds, known = self.places()
        out = set()
        for (slot, lane), mine in self.commits().items():
            began: dict[int, int] = {}
            for r in self.rows:
                if r["f"] == "effect" and r["outcome"] != "fail" and r["msg"] >= 0 and self.slot(r["process"]) == slot:
                    began[r["msg"]] = min(began.get(r["msg"], r["start_ns"]), r["start_ns"])
            came = [
                r["pos"] for r in self.rows
                if r["f"] == "receive" and r["pos"] >= 0 and r["lane"] == lane and self.slot(r["process"]) == slot
            ]  # fmt: skip
            if not began or not came or not self.log(lane):
                continue
            for place in known:
                if place[0] != lane or place[1] < min(came) or not holds[place]:
                    continue
                m = holds[place][-1]
                covered = [c["end_ns"] for c in mine if c["value"] > place[1]]
                if covered and (m not in began or began[m] > min(covered)):
                    out.add(m)
        return out

    # -- transactions --------------------------------------------------------------------------------------------------

    def aborted_read(self, seen: set[int]) -> set[int]:
        return {
            m for m in seen if self.refused(m)
            and any(r["batch"] >= 0 and (r["process"], r["batch"]) in self.aborted for r in self.sends[m])
        }  # fmt: skip

    def precommitted_read(self) -> set[int]:
        out = set()
        for r in self.receives:
            by = (r["process"], r["batch"])
            if r["msg"] not in self.sends or r["batch"] < 0 or by not in self.transactions:
                continue
            first = self.sends[r["msg"]][0]
            if (first["process"], first["batch"]) != by:
                continue
            commits = [
                c["end_ns"] for c in self.rows
                if c["f"] == "txn_commit" and c["outcome"] == "ok" and (c["process"], c["batch"]) == by
            ]  # fmt: skip
            if not commits or r["end_ns"] < commits[0]:
                out.add(r["msg"])
        return out

    def writes(self) -> set[tuple[Any, Any]]:
        """(writer of a position, writer of the next one that a transaction wrote to)."""
        told = [
            (r["lane"], r["pos"], (r["process"], r["batch"])) for r in self.rows
            if r["f"] == "send" and r["outcome"] == "ok" and r["msg"] >= 0 and r["pos"] >= 0 and self.log(r["lane"])
            and r["batch"] >= 0 and (r["process"], r["batch"]) in self.transactions - self.aborted
        ]  # fmt: skip
        told.sort(key=lambda t: t[:2])
        return {(a[2], b[2]) for a, b in pairwise(told) if a[0] == b[0] and a[2] != b[2]}

    def reads(self) -> set[tuple[Any, Any]]:
        """(the transaction that sent a message, the one that received it)."""
        standing = self.transactions - self.aborted
        out = set()
        for r in self.receives:
            sends = [s for s in self.sends.get(r["msg"], ()) if s["outcome"] != "fail"]
            if len(sends) == 1 and sends[0]["batch"] >= 0 and r["batch"] >= 0:
                writer, reader = ((x["process"], x["batch"]) for x in (sends[0], r))
                if writer in standing and reader in standing and writer != reader:
                    out.add((writer, reader))
        return out

    def send_skips(self) -> set[int]:
        if not self.transactions:
            return set()
        _, known = self.places()
        by: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for r in self.rows:
            told = r["f"] == "send" and r["outcome"] == "ok" and r["msg"] >= 0 and r["pos"] >= 0
            if told and r["batch"] >= 0 and self.log(r["lane"]):
                by[r["lane"], r["process"], r["batch"]].append((r["pos"], r["msg"]))
        out = set()
        for (lane, *_), mine in by.items():
            for (low, _), (high, m) in pairwise(sorted(mine, key=lambda t: t[0])):
                if any(p[0] == lane and low < p[1] < high for p in known):
                    out.add(m)
        return out

    # -- time ----------------------------------------------------------------------------------------------------------

    def stale_reads(self) -> int:
        def key(e: Row) -> int:
            return int(e["key"] if e["key"] >= 0 or e["msg"] not in self.sends else self.sends[e["msg"]][0]["key"])

        effects = [r for r in self.rows if r["f"] == "effect" and r["outcome"] == "ok" and r["value"] >= 0]
        return sum(
            any(key(e) == r["key"] and r["lane"] in (-1, e["lane"]) and e["end_ns"] < r["start_ns"] and e["value"] > r["value"]
                for e in effects)
            for r in self.rows
            if r["f"] == "read" and r["outcome"] == "ok" and r["key"] >= 0 and r["value"] >= 0
        )  # fmt: skip

    def late(self, seen: set[int]) -> set[int]:
        heals = [r["start_ns"] for r in self.rows if r["f"] == "fault" and r["error"].split(" ")[0] == "heal"]
        if not heals:
            return set()
        early = {r["msg"] for r in self.receives if r["end_ns"] <= max(heals)}
        return {m for m in seen - early if m in self.sends and self.sends[m][0]["start_ns"] < max(heals)}

    # -- logs ----------------------------------------------------------------------------------------------------------

    def places(self) -> tuple[dict[tuple[int, int], list[int]], set[tuple[int, int]]]:
        """What lies in each position, what an acknowledgement says last; and the positions that nobody may pass over."""
        holds: dict[tuple[int, int], list[int]] = defaultdict(list)
        known: set[tuple[int, int]] = set()
        for r in sorted(self.rows, key=lambda r: bool(r["f"] == "send")):
            if r["pos"] < 0 or not self.log(r["lane"]):
                continue
            place = (r["lane"], r["pos"])
            if r["f"] == "send" and r["outcome"] == "ok" and r["msg"] >= 0:
                holds[place].append(r["msg"])
                known.add(place)
            elif r["f"] == "receive" and r["msg"] >= 0:
                holds[place].append(r["msg"])
                open_txn = any(s["batch"] >= 0 for s in self.sends.get(r["msg"], ()))
                if self.acked(r["msg"]) or (self.maybe(r["msg"]) and not open_txn):
                    known.add(place)
        return holds, known

    def logs(self) -> dict[str, Any]:
        lying, known = self.places()
        holds = {place: set(messages) for place, messages in lying.items()}
        skipped: set[int] = set()
        back: set[int] = set()
        at: dict[tuple[int, int], tuple[int, int]] = {}
        jumps = returns = 0
        for n, r in enumerate(self.rows):
            if r["f"] != "receive" or r["outcome"] != "ok" or r["pos"] < 0 or not self.log(r["lane"]):
                continue
            unit = (r["process"], r["lane"])
            if unit in at:
                since, before = at[unit]
                exempt = any(
                    x["f"] in ("assign", "revoke") and x["process"] == r["process"] for x in self.rows[since + 1 : n]
                )
                over = {p for p in known if p[0] == r["lane"] and before < p[1] < r["pos"]}
                if over and not exempt:
                    jumps += 1
                    skipped |= {m for p in over for m in holds[p]}
                if r["pos"] < before and not exempt:
                    returns += 1
                    if r["msg"] >= 0:
                        back.add(r["msg"])
            at[unit] = (n, r["pos"])
        lowest: dict[int, tuple[int, int]] = {}
        for place, messages in sorted(holds.items()):
            for m in messages:
                told = any(
                    s["outcome"] == "ok" and s["pos"] >= 0 and (s["lane"], s["pos"]) == place
                    for s in self.sends.get(m, ())
                )
                if told or self.maybe(m):
                    lowest.setdefault(m, place)
        late = set()
        for m, (lane, pos) in lowest.items():
            s = self.sends[m][0]
            if s["key"] < 0 or len(self.sends[m]) > 1:
                continue
            for other, (other_lane, other_pos) in lowest.items():
                o = self.sends[other][0]
                same = (o["process"], o["key"], other_lane) == (s["process"], s["key"], lane)
                if same and len(self.sends[other]) == 1 and other < m and other_pos > pos:
                    late.add(m)
        return {
            "inconsistent_positions": sum(len(m) > 1 for m in holds.values()),
            "poll_skip": skipped if jumps else set(),
            "poll_nonmonotonic": back if back or not returns else returns,
            "send_nonmonotonic": late,
        }


def on_cycles(edges: set[tuple[Any, Any]]) -> set[Any]:
    """The nodes from which a way leads back to themselves."""
    out = set()
    for start in {a for a, _ in edges}:
        reached: set[Any] = set()
        todo = [start]
        while todo:
            here = todo.pop()
            for a, b in edges:
                if a == here and b not in reached:
                    reached.add(b)
                    todo.append(b)
        if start in reached:
            out.add(start)
    return out
