"""``redis_set``: an effect in Redis that is idempotent by nature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, Message, Step, World, guard, no_step


@guard("redis_set")
@dataclass(frozen=True, slots=True)
class RedisSet:
    """command: ``SET`` the item's value becomes the message's id; ``SADD`` the id joins a set.

    Weakness: ``SET`` is idempotent and not commutative: an older message that comes again after a newer one about the
    same item brings the old value back. With either command Redis may lose its memory: killed, it comes back without what
    was not on disk, and the effect is gone with it.
    """

    command: Literal["SET", "SADD"] = "SET"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("redis",)

    @property
    def steps(self) -> tuple[str, ...]:
        return ("written",)

    def prepare(self, world: World) -> None:
        """Redis makes keys as they are written."""

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        if self.command == "SET":
            changed = world.redis.set(world.key("item", message.target), message.id, get=True) != str(message.id)
        else:
            changed = world.redis.sadd(world.key("set"), message.id) == 1
        step("written")
        return DONE if changed else SEEN

    def shown(self, world: World) -> Mapping[int, int]:
        redis = world.redis
        if self.command == "SADD":
            return {int(member): 1 for member in redis.smembers(world.key("set"))}
        keys = list(redis.scan_iter(match=world.key("item", "*"), count=1000))
        return {int(value): 1 for value in redis.mget(keys)} if keys else {}
