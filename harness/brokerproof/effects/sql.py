"""One connection to PostgreSQL or MariaDB, and the few words in which they differ.

Both drivers write a value as ``%s``; a transaction begins with the first statement, at the product's own level of
isolation (PostgreSQL: read committed, MariaDB: repeatable read).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from brokerproof.effects.store import CONNECT_S, Store


class Duplicate(Exception):
    """A unique index has that value already. The transaction is to be rolled back."""


class Locked(Exception):
    """Somebody else had a lock for longer than one was ready to wait. The transaction is to be rolled back."""


class Sql:
    """A connection in the store's space."""

    def __init__(self, store: Store) -> None:
        self.product = store.product
        self._connection: Any
        self._duplicate: type[Exception]
        self._locked: tuple[type[Exception], int]
        if store.product == "postgresql":
            import psycopg

            self._connection = psycopg.connect(
                host=store.host, port=store.port, user="postgres", password=store.password, dbname="postgres",
                connect_timeout=CONNECT_S, options=f"-c search_path={store.space}",
            )  # fmt: skip
            self._duplicate = psycopg.errors.UniqueViolation
            self._locked = (psycopg.errors.LockNotAvailable, 0)
            own = f"CREATE SCHEMA IF NOT EXISTS {store.space}"
        else:
            import pymysql

            self._connection = pymysql.connect(
                host=store.host, port=store.port, user="brokerproof", password=store.password,
                connect_timeout=CONNECT_S,
            )  # fmt: skip
            self._duplicate = pymysql.err.IntegrityError  # the tables have no other constraint to break
            self._locked = (pymysql.err.OperationalError, 1205)  # ER_LOCK_WAIT_TIMEOUT
            own = f"CREATE DATABASE IF NOT EXISTS {store.space}"
        self._space, self._own = store.space, own
        if store.product == "mariadb":
            self.do(own)
            self.do(f"USE {store.space}")

    def make_space(self) -> None:
        """The store's schema or database is there."""
        with self.transaction():
            self.do(self._own)

    def create(self, table: str) -> None:
        """``name (columns)``, unless it is there. For one process at a time: PostgreSQL has races between two."""
        with self.transaction():
            self.do(self._own)
            self.do(f"CREATE TABLE IF NOT EXISTS {table}")

    def do(self, statement: str, *values: object) -> int:
        """How many rows it changed. Raises Duplicate."""
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(statement, values or None)
            except self._duplicate as exc:
                raise Duplicate(str(exc)) from exc
            return int(cursor.rowcount)

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows. Raises Locked."""
        with self._connection.cursor() as cursor:
            try:
                cursor.execute(statement, values or None)
            except self._locked[0] as exc:
                if self._locked[1] in (0, *exc.args[:1]):
                    raise Locked(str(exc)) from exc
                raise
            return list(cursor.fetchall())

    def patience(self, at_most_s: float) -> None:
        """How long this transaction waits for any one lock; MariaDB: the connection, in whole seconds, at least one."""
        if self.product == "postgresql":
            self.do(f"SET LOCAL lock_timeout = {max(1, round(at_most_s * 1000))}")
        else:
            self.do(f"SET SESSION innodb_lock_wait_timeout = {math.ceil(at_most_s)}")

    def ensure(self, table: str, column: str, value: int) -> None:
        """A row with that value of a unique column is there, with defaults in the others."""
        if self.product == "postgresql":
            self.do(f"INSERT INTO {table} ({column}) VALUES (%s) ON CONFLICT DO NOTHING", value)
        else:
            self.do(f"INSERT IGNORE INTO {table} ({column}) VALUES (%s)", value)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits at the end, rolls back on an error."""
        try:
            yield
            self._connection.commit()
        except BaseException:
            with suppress(Exception):  # the connection may be what failed
                self._connection.rollback()
            raise

    def close(self) -> None:
        with suppress(Exception):
            self._connection.close()
