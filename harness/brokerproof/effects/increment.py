"""``increment``: no guard at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, Message, SqlItems, Step, World, add_one, guard, no_step


@guard("increment")
@dataclass(frozen=True, slots=True)
class Increment(SqlItems):
    """``count = count + 1``, or Redis' ``HINCRBY``: the control of all the others.

    Weakness: it happens as often as the message comes.
    """

    store: Literal["sql", "redis"] = "sql"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.store,)

    @property
    def steps(self) -> tuple[str, ...]:
        return ("written", "committed") if self.store == "sql" else ("committed",)

    def prepare(self, world: World) -> None:
        if self.store == "sql":
            SqlItems.prepare(self, world)

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        if self.store == "sql":
            with world.sql.transaction():
                add_one(world.sql, message.target)
                step("written")
        else:
            world.redis.hincrby(world.key("items"), str(message.target), 1)
        step("committed")
        return DONE

    def shown(self, world: World) -> Mapping[int, int]:
        if self.store == "sql":
            return SqlItems.shown(self, world)
        return {int(item): int(count) for item, count in world.redis.hgetall(world.key("items")).items()}
