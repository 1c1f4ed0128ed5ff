"""``assignment``: the effect is a value, not a change of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from brokerproof.effects.base import DONE, SEEN, Message, SqlItems, Step, World, guard, no_step

#: What the item is set to.
VALUE = 10


@guard("assignment")
@dataclass(frozen=True, slots=True)
class Assignment(SqlItems):
    """``count = 10`` may run any number of times: the world shows it once.

    It is no guard where the new value depends on the old one, or where messages assign different values to one item: a
    message that comes again later undoes what came after it (``redis_set`` shows that).
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql",)

    @property
    def steps(self) -> tuple[str, ...]:
        return ("written", "committed")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        with world.sql.transaction():
            world.sql.ensure("items", "id", message.target)
            # The condition changes nothing about what is there afterwards; it tells whether anything was changed.
            statement = "UPDATE items SET count = %s WHERE id = %s AND count <> %s"
            changed = world.sql.do(statement, VALUE, message.target, VALUE)
            step("written")
        step("committed")
        return DONE if changed else SEEN

    def shown(self, world: World) -> Mapping[int, int]:
        """An item that is neither 0 nor what was assigned shows as often as it says, which no assignment does."""
        return {item: 1 if count == VALUE else count for item, count in SqlItems.shown(self, world).items()}
