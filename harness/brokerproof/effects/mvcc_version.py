"""``mvcc_version``: the update names the version that its producer read."""

from __future__ import annotations

from dataclasses import dataclass

from brokerproof.effects.base import DONE, STALE, Message, SqlItems, Step, World, guard, no_step


@guard("mvcc_version")
@dataclass(frozen=True, slots=True)
class MvccVersion(SqlItems):
    """``UPDATE … WHERE id = … AND version = …``: each version of an item succeeds once, so a repeated message finds its
    version gone.

    It tells a repeated message from another one that was made from the same version by nothing: both are ``stale``. The
    second of two producers that read the same version has no effect, and has to read again and send anew.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql",)

    @property
    def steps(self) -> tuple[str, ...]:
        return ("written", "committed")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        sql = world.sql
        with sql.transaction():
            sql.ensure("items", "id", message.target)  # the item is older than any message about it
        with sql.transaction():
            changed = sql.do(
                "UPDATE items SET count = count + 1, version = version + 1 WHERE id = %s AND version = %s",
                message.target, message.version,
            )  # fmt: skip
            step("written")
        step("committed")
        return DONE if changed else STALE
