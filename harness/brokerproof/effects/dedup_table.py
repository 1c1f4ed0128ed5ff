"""``dedup_table``: the ids of what was done, in a table of the same database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, Message, SqlItems, Step, World, add_one, guard, no_step
from brokerproof.effects.sql import Duplicate, Sql

_STEPS = {
    "together": ("marked", "acted", "committed"),
    "mark_first": ("marked", "acted"),
    "effect_first": ("looked", "acted", "marked"),
    "unindexed": ("looked", "acted", "committed"),
}


@guard("dedup_table")
@dataclass(frozen=True, slots=True)
class DedupTable(SqlItems):
    """order: ``together`` the id is inserted under a unique index in the transaction of the effect: who comes second waits
    for the first, then fails on the index, or does it all where the first was rolled back.

    Weakness: of the other orders, which are known to be bad. ``mark_first`` (mark before effect, each in a transaction of
    its own): killed between the two, the effect never happens. ``effect_first`` (effect before mark): killed between the
    two, it happens twice; so it does for two consumers at once. ``unindexed``: the id is looked up in a log without a
    unique index, even if in the transaction of the effect: check-then-act, two consumers at once both find nothing.
    """

    order: Literal["together", "mark_first", "effect_first", "unindexed"] = "together"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql",)

    @property
    def steps(self) -> tuple[str, ...]:
        return _STEPS[self.order]

    def prepare(self, world: World) -> None:
        SqlItems.prepare(self, world)
        world.sql.create("seen (id BIGINT PRIMARY KEY)")
        world.sql.create("log (id BIGINT NOT NULL)")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        try:
            return getattr(self, f"_{self.order}")(message, world.sql, step)  # type: ignore[no-any-return]
        except Duplicate:
            return SEEN

    def _together(self, message: Message, sql: Sql, step: Step) -> str:
        with sql.transaction():
            sql.do("INSERT INTO seen (id) VALUES (%s)", message.id)
            step("marked")
            add_one(sql, message.target)
            step("acted")
        step("committed")
        return DONE

    def _mark_first(self, message: Message, sql: Sql, step: Step) -> str:
        with sql.transaction():
            sql.do("INSERT INTO seen (id) VALUES (%s)", message.id)
        step("marked")
        with sql.transaction():
            add_one(sql, message.target)
        step("acted")
        return DONE

    def _effect_first(self, message: Message, sql: Sql, step: Step) -> str:
        with sql.transaction():
            seen = sql.ask("SELECT id FROM seen WHERE id = %s", message.id)
        step("looked")
        if seen:
            return SEEN
        with sql.transaction():
            add_one(sql, message.target)
        step("acted")
        with sql.transaction():
            sql.do("INSERT INTO seen (id) VALUES (%s)", message.id)
        step("marked")
        return DONE

    def _unindexed(self, message: Message, sql: Sql, step: Step) -> str:
        with sql.transaction():
            seen = sql.ask("SELECT id FROM log WHERE id = %s", message.id)
            step("looked")
            if seen:
                return SEEN
            sql.do("INSERT INTO log (id) VALUES (%s)", message.id)
            add_one(sql, message.target)
            step("acted")
        step("committed")
        return DONE
