"""Each guard against real databases, without a broker: repeated, killed between any two steps, raced at any step.

The truth is read by this process, over connections of its own. What is not listed as a weakness has one effect.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from guard_process import Crew

from brokerproof.effects.base import DONE, SEEN, STALE, Guard, Message, World, guards, make
from brokerproof.effects.cached_result import PARTS, CachedResult
from brokerproof.effects.payment import NoAnswer
from brokerproof.effects.store import Store
from brokerproof.errors import PlanError, UsageError
from brokerproof.runtime import stores, sweep
from brokerproof.waiting import wait_until

#: A consumer that says nothing for so long waits for a lock of the database; where a double is expected, it gets longer.
BLOCKED_S, SURELY_BLOCKED_S = 0.5, 8.0
_LOCK = {"life_ms": 300}
#: Guard and settings -> scenario -> how often the effect happens there; once in all that is not listed.
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, int]]] = {
    "increment": (
        "increment", {}, {"twice": 2, "killed committed": 2, "raced written": 2, "raced committed": 2},
    ),
    "increment in Redis": (
        "increment", {"store": "redis"}, {"twice": 2, "killed committed": 2, "raced committed": 2},
    ),
    "assignment": ("assignment", {}, {}),
    "mvcc_version": ("mvcc_version", {}, {}),
    "dedup_table": ("dedup_table", {}, {}),
    "dedup_table mark_first": ("dedup_table", {"order": "mark_first"}, {"killed marked": 0}),
    "dedup_table effect_first": (
        "dedup_table", {"order": "effect_first"}, {"killed acted": 2, "raced looked": 2, "raced acted": 2},
    ),
    "dedup_table unindexed": ("dedup_table", {"order": "unindexed"}, {"raced looked": 2, "raced acted": 2}),
    "redis_set SET": ("redis_set", {"command": "SET"}, {}),
    "redis_set SADD": ("redis_set", {"command": "SADD"}, {}),
    "redis_seen_id effect_first": (
        "redis_seen_id", {"order": "effect_first"}, {"killed acted": 2, "raced looked": 2, "raced acted": 2},
    ),
    "redis_seen_id mark_first": ("redis_seen_id", {"order": "mark_first"}, {"killed marked": 0, "raced looked": 2}),
    "redis_seen_id setnx": ("redis_seen_id", {"order": "setnx"}, {"killed marked": 0}),
    "redis_lock nothing": (
        "redis_lock", {"after": "nothing", **_LOCK},
        {"twice": 2, "killed acted": 2, "killed released": 2, "raced locked": 2, "raced acted": 2, "raced released": 2},
    ),
    "redis_lock look": ("redis_lock", {"after": "look", **_LOCK}, {"raced looked": 2}),
    "redis_lock fence": ("redis_lock", {"after": "fence", **_LOCK}, {}),
    "cached_result": ("cached_result", {}, {}),
    "cached_result forgotten": (
        "cached_result", {"results": "forgotten"},
        {"twice": 2, **{f"killed {step}": 2 for step in CachedResult().steps[1:]},
         **{f"raced {step}": 2 for step in CachedResult().steps}},
    ),
    "payment": ("payment", {}, {"killed marked": 0, "killed locked": 0}),
    "payment without a mark": (
        "payment", {"front": "none"}, {"twice": 2, "killed booked": 2, "raced locked": 2, "raced booked": 2},
    ),
}  # fmt: skip
#: Those whose weakness needs no second consumer and no kill: Redis without its memory, an older message that comes later.
_FORGETFUL = ("redis_set", "redis_seen_id")
_numbers = itertools.count(1)


def fresh() -> Message:
    return Message(next(_numbers))


def test_guards_are_found_by_the_folder() -> None:
    assert {name for name, _, _ in VARIANTS.values()} == set(guards())
    with pytest.raises(UsageError, match="did you mean 'redis_lock'"):
        make("redis_locks")
    with pytest.raises(UsageError, match="known: after, holds_ms, life_ms"):
        make("redis_lock", {"befor": 1})


@pytest.mark.parametrize("name", guards())
def test_a_weakness_is_named(name: str) -> None:
    weak = any(times for guard, _, times in VARIANTS.values() if guard == name) or name in _FORGETFUL
    assert ("Weakness:" in (type(make(name)).__doc__ or "")) == weak


def test_a_world_without_the_database_says_so() -> None:
    redis = Store(product="redis", host="127.0.0.1", port=1, password="secret")
    with pytest.raises(PlanError, match="needs postgresql or mariadb, and the world has redis"):
        make("increment").apply(fresh(), World([redis]))
    assert "secret" not in repr(redis)


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, stores.Stand]]:
    run = f"selftest-effects-{os.getpid()}"
    made: dict[str, stores.Stand] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKERPROOF_STATE", str(tmp_path_factory.mktemp("state")))
        try:
            for product in ("postgresql", "mariadb", "redis"):
                made[product] = stores.start(product, run=run, name=f"bp-{run}")
            keeps = ["--appendonly", "yes"]
            made["redis that keeps"] = stores.start("redis", run=run, name=f"bp-{run}-keeps", arguments=keeps)
            yield made
        finally:
            for stand in made.values():
                stand.close()
            left = sweep.leftovers(run)
            sweep.unregister(run)
    assert {item.kind for item in left} <= {"file"}


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def databases(request: pytest.FixtureRequest, stands: Mapping[str, stores.Stand]) -> list[Store]:
    return [stands[request.param].store, stands["redis"].store]


@pytest.fixture
def world(databases: list[Store]) -> Iterator[World]:
    """The test's own connections."""
    world = World(databases)
    for name in guards():
        make(name).prepare(world)
    yield world
    world.close()


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.container
def test_repeated(variant: str, crew: Crew, databases: list[Store], world: World) -> None:
    name, options, times = VARIANTS[variant]
    guard, message = make(name, options), fresh()
    first = crew.send(databases, name, options, message)
    assert (first.ends(), tuple(first.steps)) == (DONE, guard.steps)
    assert guard.shown(world).get(message.id, 0) == 1
    assert crew.send(databases, name, options, message).ends() in (DONE, SEEN, STALE)
    assert guard.shown(world).get(message.id, 0) == times.get("twice", 1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.container
def test_killed_at_each_step_and_delivered_again(
    variant: str, crew: Crew, databases: list[Store], world: World
) -> None:
    name, options, times = VARIANTS[variant]
    guard, seen = make(name, options), {}
    for step in guard.steps:
        message = fresh()
        assert crew.send(databases, name, options, message, die_at=step).ends() == "exit code -9"
        assert crew.send(databases, name, options, message).ends() in (DONE, SEEN, STALE)
        seen[f"killed {step}"] = guard.shown(world).get(message.id, 0)
    assert seen == {f"killed {step}": times.get(f"killed {step}", 1) for step in guard.steps}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.container
def test_raced_at_each_step(variant: str, crew: Crew, databases: list[Store], world: World) -> None:
    """One consumer is held at a step while another does all it can with the same message, then it goes on."""
    name, options, times = VARIANTS[variant]
    guard, seen = make(name, options), {}
    for step in guard.steps:
        message = fresh()
        one = crew.send(databases, name, options, message, hold_at=step)
        one.comes_to(step)
        other = crew.send(databases, name, options, message, place=1)
        patience_s = SURELY_BLOCKED_S if f"raced {step}" in times else BLOCKED_S + options.get("life_ms", 0) / 1000
        while other.hears(patience_s):
            pass
        one.goes_on()
        assert {one.ends(), other.ends()} <= {DONE, SEEN, STALE}
        seen[f"raced {step}"] = guard.shown(world).get(message.id, 0)
    assert seen == {f"raced {step}": times.get(f"raced {step}", 1) for step in guard.steps}


@pytest.mark.container
def test_two_holders_of_one_lock_and_the_fence(crew: Crew, databases: list[Store], world: World) -> None:
    """Both have looked before either acts; the older one acts first, and is refused."""
    message, options = fresh(), {"after": "fence", **_LOCK}
    older = crew.send(databases, "redis_lock", options, message, hold_at="looked")
    older.comes_to("looked")
    newer = crew.send(databases, "redis_lock", options, message, place=1, hold_at="looked")
    newer.comes_to("looked")
    older.goes_on()
    assert older.ends() == STALE
    newer.goes_on()
    assert newer.ends() == DONE
    assert make("redis_lock", options).shown(world)[message.id] == 1


class Held:
    """The core of whoever comes first stands still when it has locked the account, until it may go on."""

    def __init__(self) -> None:
        self.locked, self._goes_on = threading.Event(), threading.Event()

    def step(self, name: str) -> None:
        if name == "locked" and not self.locked.is_set():
            self.locked.set()
            assert self._goes_on.wait(60)

    def goes_on(self) -> None:
        self._goes_on.set()


@pytest.mark.container
def test_a_payment_that_was_called_off_is_booked_once_when_it_is_tried_again(world: World) -> None:
    """The core is slow when it is first asked."""
    payment = Message(10 * next(_numbers))
    with pytest.raises(NoAnswer, match=f"payment {payment.id}:"):
        make("payment", {"hiccup_ms": 1500.0, "deadline_ms": 700.0}).apply(payment, world)
    # The hiccup belongs to the payment's first time, and is over; a deadline would only be one for this machine.
    guard = make("payment", {"hiccup_ms": 1500.0})
    assert guard.apply(payment, world) == DONE
    assert guard.shown(world)[payment.id] == 1
    assert guard.apply(payment, world) == SEEN


@pytest.mark.container
def test_a_payment_that_is_told_to_have_failed_and_goes_on_is_booked_all_the_same(world: World) -> None:
    """And twice when it is tried again."""
    payment, held = fresh(), Held()
    guard = make("payment", {"deadline_ms": 700.0, "late": "goes_on"})
    with pytest.raises(NoAnswer, match=f"payment {payment.id}:"):
        guard.apply(payment, world, held.step)
    wait_until(held.locked.is_set, 30, "the core to have locked the account", interval_s=0.01)
    with pytest.raises(NoAnswer, match=f"payment {payment.id}:"):  # its account is still locked
        guard.apply(payment, world)
    held.goes_on()
    world.close()  # waits for the core
    assert guard.shown(world)[payment.id] == 2
    assert make("payment", {"late": "goes_on"}).apply(payment, world) == DONE


@pytest.mark.container
def test_who_waits_for_the_lock_of_an_account_is_called_off_too(databases: list[Store], world: World) -> None:
    one, other, held = World(databases), World(databases), Held()
    slow = make("payment", {"front": "none", "accounts": 1})
    holder = threading.Thread(target=slow.apply, args=(fresh(), one, held.step))
    before = slow.figures(world)  # type: ignore[attr-defined]  # it measures
    holder.start()
    wait_until(held.locked.is_set, 30, "the account to be locked", interval_s=0.01)
    late = fresh()
    # MariaDB waits for a lock in whole seconds. What it takes to come to the lock counts too, and may be long on a busy machine.
    with pytest.raises(NoAnswer, match="account 0 was locked"):
        make("payment", {"front": "none", "accounts": 1, "deadline_ms": 2000.0}).apply(late, other)
    held.goes_on()
    holder.join()
    assert late.id not in slow.shown(world)
    after = slow.figures(world)  # type: ignore[attr-defined]  # it measures
    assert after["lock_waits"] - before["lock_waits"] == 2
    assert after["lock_held_max_ms"] >= after["lock_wait_max_ms"] >= 500
    one.close()
    other.close()


@pytest.mark.container
def test_the_second_of_two_producers_with_one_version_has_no_effect(world: World) -> None:
    guard = make("mvcc_version")
    one, other = Message(next(_numbers), item=1_000_001), Message(next(_numbers), item=1_000_001)
    assert [guard.apply(m, world) for m in (one, other, one)] == [DONE, STALE, STALE]
    assert guard.shown(world)[1_000_001] == 1
    read_again = Message(other.id, item=1_000_001, version=1)
    assert (guard.apply(read_again, world), guard.shown(world)[1_000_001]) == (DONE, 2)


@pytest.mark.container
def test_an_older_value_comes_back_with_set_and_not_with_sadd(world: World) -> None:
    older, newer = Message(next(_numbers), item=1_000_002), Message(next(_numbers), item=1_000_002)
    for command, shows in (("SET", {older.id}), ("SADD", {older.id, newer.id})):
        guard = make("redis_set", {"command": command})
        for message in (older, newer, older):
            guard.apply(message, world)
        assert {older.id, newer.id} & set(guard.shown(world)) == shows


@pytest.mark.container
def test_a_repeated_request_gets_the_same_answer_and_does_nothing(world: World) -> None:
    guard, message = CachedResult(), fresh()
    for part in PARTS:  # at each step of the flow, what was done before is asked again
        earlier = PARTS[: PARTS.index(part)]
        known = {p: guard.answer(message, p, world.sql)[0] for p in earlier}
        answer, worked = guard.answer(message, part, world.sql)
        assert (guard.answer(message, part, world.sql), worked) == ((answer, False), True)
        assert {p: guard.answer(message, p, world.sql)[0] for p in earlier} == known
    assert (guard.apply(message, world), guard.shown(world)[message.id]) == (SEEN, 1)


@pytest.mark.parametrize(("redis", "keeps"), [("redis", False), ("redis that keeps", True)])
@pytest.mark.container
def test_redis_killed_and_started_again(
    redis: str, keeps: bool, stands: Mapping[str, stores.Stand]
) -> None:  # fmt: skip
    """Without persistence what came before comes to pass again; what is only in Redis is gone."""
    stand, message = stands[redis], fresh()
    databases = [stands["postgresql"].store, stand.store]
    seen_id = {order: make("redis_seen_id", {"order": order}) for order in ("effect_first", "mark_first", "setnx")}
    tried: dict[str, tuple[Guard, Message]] = {order: (guard, fresh()) for order, guard in seen_id.items()}
    tried["SET"] = (make("redis_set"), message)
    tried["lock"] = (make("redis_lock", {"after": "fence"}), fresh())
    before, after = World(databases), World(databases)
    for guard, m in tried.values():
        guard.prepare(before)
        assert guard.apply(m, before) == DONE
    before.close()
    stand.node.kill()
    stand.node.start()
    stand.wait_ready()
    assert tried["SET"][0].shown(after).get(message.id, 0) == (1 if keeps else 0)
    happened = {what: guard.apply(m, after) for what, (guard, m) in tried.items()}
    shows = {what: guard.shown(after).get(m.id, 0) for what, (guard, m) in tried.items()}
    after.close()
    again = 1 if keeps else 2
    # The lock's tokens begin anew as well: the database has seen a newer one, and nothing happens.
    assert shows == {"effect_first": again, "mark_first": again, "setnx": again, "SET": 1, "lock": 1}, happened
    assert happened["lock"] == (SEEN if keeps else STALE)


@pytest.mark.container
def test_what_a_killed_harness_leaves_is_found(state: Path) -> None:
    run = f"selftest-effects-left-{os.getpid()}"
    stand = stores.start("redis", run=run, name=f"bp-{run}")
    try:
        assert stand.node.container_name in {item.name for item in sweep.leftovers(run) if item.kind == "container"}
        assert stand.store.password not in " ".join(stand.node.container().attrs["Args"])
    finally:
        assert {item.kind for item in sweep.clean(run)} == {"container", "file"}
    assert not sweep.leftovers(run)
