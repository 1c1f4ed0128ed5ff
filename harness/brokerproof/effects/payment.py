"""``payment``: a whole flow: the front takes a payment up, the core works on its account, the ledger books it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from brokerproof.effects.base import DONE, SEEN, Message, Step, World, guard, no_step
from brokerproof.effects.sql import Duplicate, Locked, Sql


class NoAnswer(Exception):
    """The core did not answer within the deadline. The customer is told that the payment failed."""


@guard("payment")
@dataclass(frozen=True, slots=True)
class Payment:
    """The core locks the account, works for ``core_ms``, books, and lets go. It is slow at times: ``hiccup_ms`` more when it
    is first asked for a payment whose number can be divided by ``hiccup_every``.

    front: ``redis`` it marks in Redis what it takes up (SET NX), and answers whoever submits it again from there; the mark
    of a payment that failed is taken away. ``none``: it passes on whatever comes.
    accounts: payments share so many; 0: each has one of its own.
    deadline_ms: how long the front waits for the core's answer, 0: for ever; after that the payment has failed.
    late: ``called_off`` the deadline goes with the request, and a core that is late gives up, with nothing booked;
    ``goes_on`` only the front has a deadline, and the core works on whatever the front told the customer.

    The ledger itself refuses nothing: it shows what the flow lets through.

    Weakness: of ``redis`` (mark before effect): killed between the two, it never happens; and a Redis without its memory
    lets everything through again. Of ``none``: it happens as often as it is submitted. Of ``goes_on``: what failed may be
    booked, and is booked again when it is tried again.
    """

    front: Literal["redis", "none"] = "redis"
    core_ms: float = 0.0
    hiccup_ms: float = 0.0
    hiccup_every: int = 10
    accounts: int = 0
    deadline_ms: float = 0.0
    late: Literal["called_off", "goes_on"] = "called_off"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("sql", "redis") if self.front == "redis" else ("sql",)

    @property
    def steps(self) -> tuple[str, ...]:
        return ("marked", "locked", "booked") if self.front == "redis" else ("locked", "booked")

    def prepare(self, world: World) -> None:
        world.sql.create("accounts (id BIGINT PRIMARY KEY)")
        world.sql.create("ledger (payment BIGINT NOT NULL)")
        world.sql.create("asked (id BIGINT PRIMARY KEY)")
        world.sql.create("locks (waited_ms BIGINT NOT NULL, held_ms BIGINT NOT NULL)")

    def apply(self, message: Message, world: World, step: Step = no_step) -> str:
        mark = world.key("payment", message.id) if self.front == "redis" else ""
        if mark and not world.redis.set(mark, 1, nx=True):
            return SEEN
        if mark:
            step("marked")
        try:
            self._ask(message.id, world, step)
        except NoAnswer:
            if mark:
                world.redis.delete(mark)
            raise
        return DONE

    def _ask(self, payment: int, world: World, step: Step) -> None:
        """The front asks the core. Raises NoAnswer."""
        if not self.deadline_ms or self.late == "called_off":
            self._core(payment, world.sql, step, self.deadline_ms / 1000)
            return
        failed: list[BaseException] = []

        def core() -> None:
            own = world.another()
            try:
                self._core(payment, own.sql, step, 0.0)
            except BaseException as exc:
                failed.append(exc)
            finally:
                own.close()

        thread = threading.Thread(target=core, name=f"core, payment {payment}")
        thread.start()
        thread.join(self.deadline_ms / 1000)
        if thread.is_alive():
            world.in_hand.append(thread)
            raise NoAnswer(f"payment {payment}: no answer within {self.deadline_ms:g} ms")
        if failed:
            raise failed[0]

    def _core(self, payment: int, sql: Sql, step: Step, within_s: float) -> None:
        """Books the payment. within_s: after that it gives up, 0: never. Raises NoAnswer, with nothing booked."""
        begun = time.monotonic()
        works_s = (self.core_ms + self._hiccup_ms(payment, sql)) / 1000
        account = payment % self.accounts if self.accounts else payment
        with sql.transaction():
            # Looked up first: in MariaDB an INSERT IGNORE of a row that is there waits for whoever has locked it.
            if not sql.ask("SELECT id FROM accounts WHERE id = %s", account):
                sql.ensure("accounts", "id", account)
        asked = time.monotonic()
        locked = 0.0
        try:
            with sql.transaction():
                if within_s:
                    sql.patience(max(0.001, begun + within_s - time.monotonic()))
                sql.ask("SELECT id FROM accounts WHERE id = %s FOR UPDATE", account)
                locked = time.monotonic()
                step("locked")
                left_s = begun + within_s - locked if within_s else works_s
                time.sleep(max(0.0, min(works_s, left_s)))  # the work itself
                if works_s > left_s:
                    raise NoAnswer(f"payment {payment}: the core gave up after {within_s:g} s")
                sql.do("INSERT INTO ledger (payment) VALUES (%s)", payment)
        except Locked as exc:
            raise NoAnswer(f"payment {payment}: account {account} was locked for {within_s:g} s") from exc
        finally:
            over = time.monotonic()
            with sql.transaction():
                waited_s, held_s = (locked or over) - asked, over - locked if locked else 0.0
                row = "INSERT INTO locks (waited_ms, held_ms) VALUES (%s, %s)"
                sql.do(row, round(1000 * waited_s), round(1000 * held_s))
        step("booked")

    def _hiccup_ms(self, payment: int, sql: Sql) -> float:
        if self.hiccup_ms and payment % self.hiccup_every == 0:
            with suppress(Duplicate), sql.transaction():
                sql.do("INSERT INTO asked (id) VALUES (%s)", payment)
                return self.hiccup_ms
        return 0.0

    def shown(self, world: World) -> Mapping[int, int]:
        with world.sql.transaction():
            return dict(world.sql.ask("SELECT payment, count(*) FROM ledger GROUP BY payment"))

    def figures(self, world: World) -> Mapping[str, float]:
        """``lock_waits`` how often somebody asked for an account's lock; how long they waited for it, and had it."""
        with world.sql.transaction():
            ((asked, waited, most, held),) = world.sql.ask(
                "SELECT count(*), coalesce(sum(waited_ms), 0), coalesce(max(waited_ms), 0), coalesce(max(held_ms), 0) FROM locks"
            )
        return {
            "lock_waits": float(asked), "lock_wait_mean_ms": round(float(waited) / max(1, asked), 3),
            "lock_wait_max_ms": float(most), "lock_held_max_ms": float(held),
        }  # fmt: skip
