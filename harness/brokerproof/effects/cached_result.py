"""``cached_result``: a flow of several parts, each of which keeps its result and gives it again when it is asked again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, Message, Step, World, guard, no_step
from brokerproof.effects.sql import Duplicate, Sql

#: An order is placed, its goods are taken from the stock, its coupon is used.
PARTS = ("order", "stock", "coupon")


@guard("cached_result")
@dataclass(frozen=True, slots=True)
class CachedResult:
    """Each part changes the world in one transaction with its stored result (unique by id and part), so a flow that was
    cut off goes on where it was, and what was done answers as it did the first time.

    results: ``kept`` as above; ``forgotten`` each part does its work whenever it is asked.

    The parts themselves refuse nothing: they put down what they did, and so show what the flow lets through. The flow as
    a whole is no transaction: until the message comes again, the world may show some parts of it only.

    Weakness: of ``forgotten``: what was done before the flow was cut off is done again.
    """

    results: Literal["kept", "forgotten"] = "kept"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql",)

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(f"{part} {what}" for part in PARTS for what in ("acted", "committed"))

    def prepare(self, world: World) -> None:
        columns = "id BIGINT NOT NULL, part VARCHAR(16) NOT NULL, {}, PRIMARY KEY (id, part)"
        world.sql.create("flow (id BIGINT NOT NULL, part VARCHAR(16) NOT NULL)")
        world.sql.create(f"results ({columns.format('answer VARCHAR(64) NOT NULL')})")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        answers = [self.answer(message, part, world.sql, step) for part in PARTS]
        # The flow is whose who ends it: two that were asked at once may each have done some of its parts.
        return DONE if answers[-1][1] else SEEN

    def answer(self, message: Message, part: str, sql: Sql, step: Step = no_step) -> tuple[str, bool]:
        """(the part's result, whether it was worked out now)."""
        kept = self.results == "kept"
        if kept and (stored := self._stored(message, part, sql)):
            return stored, False
        try:
            with sql.transaction():
                # An answer that is worked out again is another one.
                result = f"{part} of {message.id}: {uuid.uuid4().hex}"
                if kept:
                    sql.do("INSERT INTO results (id, part, answer) VALUES (%s, %s, %s)", message.id, part, result)
                sql.do("INSERT INTO flow (id, part) VALUES (%s, %s)", message.target, part)
                step(f"{part} acted")
        except Duplicate:  # somebody else has answered meanwhile
            return self._stored(message, part, sql), False
        step(f"{part} committed")
        return result, True

    def _stored(self, message: Message, part: str, sql: Sql) -> str:
        with sql.transaction():
            rows = sql.ask("SELECT answer FROM results WHERE id = %s AND part = %s", message.id, part)
        return str(rows[0][0]) if rows else ""

    def shown(self, world: World) -> Mapping[int, int]:
        """Once where every part is there once; a part that is there twice counts, a flow without all its parts does not."""
        with world.sql.transaction():
            rows = world.sql.ask(
                "SELECT id, max(times), count(*) FROM (SELECT id, part, count(*) AS times FROM flow GROUP BY id, part) "
                "AS parts GROUP BY id"
            )
        return {int(item): int(most) for item, most, parts in rows if parts == len(PARTS) or most > 1}
