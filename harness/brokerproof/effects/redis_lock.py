"""``redis_lock``: a lock in Redis makes the second request wait; the effect is in an SQL database."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, STALE, Message, SqlItems, Step, World, add_one, guard, no_step
from brokerproof.effects.sql import Sql
from brokerproof.waiting import wait_until

#: Only who has the lock may release it: it may be another's by now.
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
#: How long a request waits for the lock, in times of its life.
_PATIENCE = 20


@guard("redis_lock")
@dataclass(frozen=True, slots=True)
class RedisLock(SqlItems):
    """The lock is for one id, whose item is its own. It is its holder's until it is released or ``life_ms`` are over
    (SET NX PX, redis.io).

    after: what the holder does about earlier holders. ``nothing``: it has the effect. ``look``: it looks whether the
    effect is there. ``fence``: it looks, and shows the database a token that rises from holder to holder, with the look
    and with the effect; the database refuses a token that is older than one it was shown. Shown with the effect only, a
    token does not help a newer holder that looked before an older one wrote.

    holds_ms: how long the holder works between its look and its effect.

    Weakness: of ``nothing``: a lock puts requests in a row and tells them apart by nothing, so the second goes on after
    the first and has the effect again. Of ``look``: the lock's life may be over before its holder's work is; one that is
    paused in between look and effect goes on as if it had the lock. Of all: the lock outlives a holder that is killed, and
    whoever comes next waits for the rest of its life.
    """

    after: Literal["nothing", "look", "fence"] = "look"
    life_ms: int = 5000
    holds_ms: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql", "redis")

    @property
    def steps(self) -> tuple[str, ...]:
        return ("locked", "acted", "released") if self.after == "nothing" else ("locked", "looked", "acted", "released")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        lock, holder = world.key("lock", message.id), uuid.uuid4().hex
        wait_until(
            lambda: world.redis.set(lock, holder, nx=True, px=self.life_ms), _PATIENCE * self.life_ms / 1000,
            f"the lock of message {message.id}", interval_s=0.005,
        )  # fmt: skip
        token = int(world.redis.incr(world.key("tokens"))) if self.after == "fence" else 0
        step("locked")
        happened = "" if self.after == "nothing" else self._look(message, world.sql, token)
        if self.after != "nothing":
            step("looked")
        if not happened:
            time.sleep(self.holds_ms / 1000)  # the work itself
            happened = self._act(message, world.sql, token)
            step("acted")
        world.redis.eval(_RELEASE, 1, lock, holder)
        step("released")
        return happened

    def _look(self, message: Message, sql: Sql, token: int) -> str:
        """Why there is nothing to do any more; empty where there is."""
        with sql.transaction():
            if self.after == "fence":
                sql.ensure("items", "id", message.id)
                if not sql.do("UPDATE items SET fence = %s WHERE id = %s AND fence < %s", token, message.id, token):
                    return STALE
            return SEEN if sql.ask("SELECT id FROM items WHERE id = %s AND count > 0", message.id) else ""

    def _act(self, message: Message, sql: Sql, token: int) -> str:
        with sql.transaction():
            if self.after == "fence":
                one = "UPDATE items SET count = count + 1 WHERE id = %s AND fence = %s"
                return DONE if sql.do(one, message.id, token) else STALE
            add_one(sql, message.id)
            return DONE
