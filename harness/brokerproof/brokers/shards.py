"""Worker threads behind one consumer: it takes messages from the broker, and shares them out in memory.

    broker -> one consumer -> queue of worker 0 -> work
                           -> queue of worker 1 -> work

Each worker takes its messages in the order in which they came. The consumer alone talks to the broker: what the workers
have done it learns from ``done``, and acknowledges. Receiver settings: ``shards`` (how many workers; none: the consumer
works itself) and ``shard_by`` ("key": equal keys, equal worker; "turn": the workers in turn).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from brokerproof.errors import PlanError

Item = TypeVar("Item")
_BY = ("key", "turn")


class Shards(Generic[Item]):
    """work: does the work on one item; what it raises is told with the item."""

    def __init__(self, settings: Mapping[str, Any], work: Callable[[Item], None]) -> None:
        count, by = int(settings["shards"]), str(settings.get("shard_by", "key"))
        if count < 1 or by not in _BY:
            raise PlanError(f"{count} shards by {by!r}: expected at least one, by one of {', '.join(_BY)}")
        self._by_key = by == "key"
        self._work = work
        self._taken = 0
        self._done: queue.SimpleQueue[tuple[Item, Exception | None]] = queue.SimpleQueue()
        self._queues: list[queue.SimpleQueue[Item | None]] = [queue.SimpleQueue() for _ in range(count)]
        self._threads = [threading.Thread(target=self._run, args=(q,), daemon=True) for q in self._queues]
        for thread in self._threads:
            thread.start()
        #: How many are not done yet, or done and not asked for.
        self.in_hand = 0

    def put(self, item: Item, key: int) -> None:
        by = key if self._by_key and key >= 0 else self._taken
        self._taken += 1
        self.in_hand += 1
        self._queues[by % len(self._queues)].put(item)

    def done(self) -> list[tuple[Item, Exception | None]]:
        """What was finished since the last call, in the order in which it was, with what the work raised."""
        out = []
        while not self._done.empty():
            out.append(self._done.get())
        self.in_hand -= len(out)
        return out

    def close(self) -> None:
        """Waits until everything that was put is worked off."""
        for waiting in self._queues:
            waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, waiting: queue.SimpleQueue[Item | None]) -> None:
        while (item := waiting.get()) is not None:
            try:
                self._work(item)
            except Exception as exc:
                self._done.put((item, exc))
            except BaseException:
                return  # a client that is a thread was killed: its workers end with it
            else:
                self._done.put((item, None))
