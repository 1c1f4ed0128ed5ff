"""``redis_seen_id``: the ids of what was done are in Redis, the effect is in an SQL database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, Message, SqlItems, Step, World, add_one, guard, no_step

_STEPS = {
    "effect_first": ("looked", "acted", "marked"),
    "mark_first": ("looked", "marked", "acted"),
    "setnx": ("marked", "acted"),
}


@guard("redis_seen_id")
@dataclass(frozen=True, slots=True)
class RedisSeenId(SqlItems):
    """order: ``effect_first`` and ``mark_first`` look first and mark later, ``setnx`` looks and marks in one command.

    Weakness: two systems without one transaction. ``effect_first`` (effect before mark): killed between the two, the effect
    happens twice. ``mark_first`` and ``setnx`` (mark before effect): killed between the two, it never happens. Both that
    look first are check-then-act: two consumers at once both find nothing. And Redis may lose its memory: what comes again
    after that happens again, whatever the order.
    """

    order: Literal["effect_first", "mark_first", "setnx"] = "setnx"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql", "redis")

    @property
    def steps(self) -> tuple[str, ...]:
        return _STEPS[self.order]

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        mark = world.key("seen", message.id)
        if self.order == "setnx":
            if not world.redis.set(mark, 1, nx=True):
                return SEEN
        else:
            seen = world.redis.exists(mark)
            step("looked")
            if seen:
                return SEEN
        if self.order == "mark_first":
            world.redis.set(mark, 1)
        if self.order != "effect_first":
            step("marked")
        with world.sql.transaction():
            add_one(world.sql, message.target)
        step("acted")
        if self.order == "effect_first":
            world.redis.set(mark, 1)
            step("marked")
        return DONE
