"""A second opinion: the definitions once more, with dicts, sets and loops, a row at a time. Slow and plain on purpose.

It shares nothing with the checkers but the words of the definitions. Histories are rows as ``storybook`` makes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


class Reference:
    """What is found in rows, key by key, as sets of message numbers (or counts)."""

    def __init__(self, rows: Sequence[Row], lanes: Sequence[str], roles: Sequence[str]) -> None:
        self.rows, self.lanes, self.roles = rows, lanes, roles
        self.sends: dict[int, list[Row]] = defaultdict(list)
        for r in rows:
            if r["f"] == "send" and r["msg"] >= 0:
                self.sends[r["msg"]].append(r)
        for m in self.sends:
            self.sends[m].sort(key=lambda r: r["start_ns"])  # stable: rows stand in order
        self.receives = [r for r in rows if r["f"] == "receive" and r["outcome"] == "ok" and r["msg"] >= 0]
        self.effects = [r for r in rows if r["f"] == "effect" and r["outcome"] == "ok" and r["msg"] >= 0]
        self.controls = [r for r in rows if r["f"] == "control"]

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

    def logs(self) -> dict[str, Any]:
        holds: dict[tuple[int, int], set[int]] = defaultdict(set)
        known: set[tuple[int, int]] = set()
        for r in self.rows:
            if r["pos"] < 0 or not self.log(r["lane"]):
                continue
            place = (r["lane"], r["pos"])
            if r["f"] == "send" and r["outcome"] == "ok" and r["msg"] >= 0:
                holds[place].add(r["msg"])
                known.add(place)
            elif r["f"] == "receive" and r["msg"] >= 0:
                holds[place].add(r["msg"])
                open_txn = any(s["batch"] >= 0 for s in self.sends.get(r["msg"], ()))
                if self.acked(r["msg"]) or (self.maybe(r["msg"]) and not open_txn):
                    known.add(place)
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
