"""What a guard is: a way to have the effect of a message once, however often the message comes.

    world = World([Store(...), ...])             the databases, each through a connection of this process
    guard = make("dedup_table", {"order": "together"})
    guard.prepare(world)                         tables; once for each space
    guard.apply(message, world, step)            what a consumer does with a message; says what happened
    guard.shown(world)                           message -> how often the world shows its effect: the truth

A guard names its *steps*: ``step(name)`` is called when each is over, so a consumer can be stopped or killed between any
two of them. Guards are modules of this package; the file's name is the guard's.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from brokerproof.effects.sql import Sql
from brokerproof.effects.store import Store
from brokerproof.errors import PlanError, unknown

#: Modules of this package that are no guards.
_OTHERS = ("base", "sql", "store")
#: Products that speak SQL.
SQL = ("postgresql", "mariadb")
#: What happened: the effect now; nothing, since it was there before; nothing, since somebody else came first.
DONE, SEEN, STALE = "done", "seen", "stale"


@dataclass(frozen=True, slots=True)
class Message:
    """id: the business id, unique for each thing that is to happen once.  item: what it changes, -1: an item of its own.

    version: of the item, as its producer read it.
    """

    id: int
    item: int = -1
    version: int = 0

    @property
    def target(self) -> int:
        return self.id if self.item < 0 else self.item


class World:
    """The databases that a process works on; a connection is made when it is first asked for."""

    def __init__(self, stores: Iterable[Store]) -> None:
        self._stores = tuple(stores)
        self._sql: Sql | None = None
        self._redis: Any = None
        #: Work that somebody has asked for and does not wait for.
        self.in_hand: list[threading.Thread] = []

    def another(self) -> World:
        """The same databases, through connections of its own: for another thread."""
        return World(self._stores)

    @property
    def sql(self) -> Sql:
        """Raises PlanError where the world has no SQL database."""
        if self._sql is None:
            self._sql = Sql(self._store(*SQL))
        return self._sql

    @property
    def redis(self) -> Any:
        """A client of redis-py. Raises PlanError where the world has no Redis."""
        if self._redis is None:
            self._redis = self._store("redis").redis()
        return self._redis

    def connect(self, needs: Iterable[str]) -> None:
        """Makes the connections that a guard is going to ask for. Raises PlanError, and what the driver raises."""
        for need in needs:
            self.sql if need == "sql" else self.redis.ping()

    def key(self, *parts: object) -> str:
        """A key of Redis in the world's own space."""
        return ":".join(map(str, (self._store("redis").space, *parts)))

    def close(self) -> None:
        """Waits for what is in hand, then ends the connections."""
        while self.in_hand:
            self.in_hand.pop().join()
        if self._sql is not None:
            self._sql.close()
        if self._redis is not None:
            self._redis.close()
        self._sql = self._redis = None

    def _store(self, *products: str) -> Store:
        for store in self._stores:
            if store.product in products:
                return store
        have = ", ".join(s.product for s in self._stores) or "nothing"
        raise PlanError(f"the guard needs {' or '.join(products)}, and the world has {have}; name one in the plan")


Step = Callable[[str], None]


def no_step(name: str) -> None:
    """Nobody wants to know."""


class Guard(Protocol):
    """needs: ``sql``, ``redis`` or both.  steps: in order, as ``apply`` calls them.

    The docstring names the weakness, after "Weakness:"; a guard whose docstring names none has one effect whatever
    happens, and the tests hold it to that.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def steps(self) -> tuple[str, ...]: ...
    def prepare(self, world: World) -> None: ...
    def apply(self, message: Message, world: World, step: Step = no_step) -> str: ...
    def shown(self, world: World) -> Mapping[int, int]: ...


@runtime_checkable
class Measures(Protocol):
    """A guard that can tell more of what happened than its effects."""

    def figures(self, world: World) -> Mapping[str, float]:
        """Name, with the unit in it -> value, of the whole trial."""


class SqlItems:
    """What guards whose effect is in an SQL database have in common: items that are counted up.

    An item is there before the first message about it, as a row with ``count`` 0.
    """

    def prepare(self, world: World) -> None:
        world.sql.create(
            "items (id BIGINT PRIMARY KEY, count BIGINT NOT NULL DEFAULT 0, version BIGINT NOT NULL DEFAULT 0, "
            "fence BIGINT NOT NULL DEFAULT 0)"
        )

    def shown(self, world: World) -> Mapping[int, int]:
        with world.sql.transaction():
            return dict(world.sql.ask("SELECT id, count FROM items WHERE count <> 0"))


def add_one(sql: Sql, item: int) -> None:
    """``count = count + 1``: the effect that shows how often it happened. Inside the caller's transaction."""
    sql.ensure("items", "id", item)
    sql.do("UPDATE items SET count = count + 1 WHERE id = %s", item)


G = TypeVar("G", bound=type)
_REGISTRY: dict[str, type] = {}


def guard(name: str) -> Callable[[G], G]:
    """Registers a guard class under its public name, which is its module's name too."""

    def register(cls: G) -> G:
        _REGISTRY[name] = cls
        return cls

    return register


def guards() -> tuple[str, ...]:
    """The names there are: the modules of this package."""
    here = [str(Path(__file__).parent)]
    return tuple(sorted(m.name for m in pkgutil.iter_modules(here) if m.name not in _OTHERS))


def make(name: str, options: Mapping[str, Any] | None = None) -> Guard:
    """The guard of that name with these settings. Raises UsageError for an unknown name or setting."""
    if name not in guards():
        raise unknown("guard", name, guards())
    importlib.import_module(f"brokerproof.effects.{name}")
    cls = _REGISTRY[name]
    have = sorted(cls.__dataclass_fields__)  # type: ignore[attr-defined]  # every guard is a dataclass
    for option in options or {}:
        if option not in have:
            raise unknown(f"setting of guard {name}", option, have)
    made: Guard = cls(**dict(options or {}))
    return made
