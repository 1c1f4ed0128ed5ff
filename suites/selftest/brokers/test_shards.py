"""Workers in memory behind one consumer."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest

from brokerproof.brokers.shards import Shards
from brokerproof.errors import PlanError
from brokerproof.waiting import wait_until


def test_by_key_each_worker_keeps_the_order_of_its_keys_and_in_turn_they_share_every_key() -> None:
    for by, workers_of_a_key in (("key", 1), ("turn", 2)):
        seen: dict[int, list[int]] = defaultdict(list)
        workers: dict[int, set[int]] = defaultdict(set)

        def work(n: int, seen: dict[int, list[int]] = seen, workers: dict[int, set[int]] = workers) -> None:
            seen[n % 3].append(n)
            workers[n % 3].add(threading.get_ident())

        shards: Shards[int] = Shards({"shards": 2, "shard_by": by}, work)
        for n in range(300):
            shards.put(n, n % 3)
        assert shards.in_hand == 300
        shards.close()
        assert sorted(n for n, _ in shards.done()) == list(range(300))
        assert shards.in_hand == 0
        assert {len(ids) for ids in workers.values()} == {workers_of_a_key}
        if by == "key":
            assert all(mine == sorted(mine) for mine in seen.values())


def test_work_that_fails_is_told_and_the_worker_goes_on() -> None:
    def work(n: int) -> None:
        if n == 1:
            raise ValueError("no")

    shards: Shards[int] = Shards({"shards": 1}, work)
    for n in range(3):
        shards.put(n, -1)
    shards.close()
    assert [(n, type(failed).__name__) for n, failed in shards.done()] == [
        (0, "NoneType"),
        (1, "ValueError"),
        (2, "NoneType"),
    ]


def test_a_killed_client_takes_its_workers_along() -> None:
    class Killed(BaseException):
        pass

    done: list[int] = []

    def work(n: int) -> None:
        if n == 1:
            raise Killed
        done.append(n)

    shards: Shards[int] = Shards({"shards": 1}, work)
    for n in range(3):
        shards.put(n, -1)
    wait_until(lambda: not any(t.is_alive() for t in shards._threads), 5, "the worker to end")
    assert done == [0]


@pytest.mark.parametrize("settings", [{"shards": 0}, {"shards": 2, "shard_by": "chance"}])
def test_wrong_settings_say_what_is_expected(settings: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="expected at least one, by one of key, turn"):
        Shards(settings, lambda _: None)
