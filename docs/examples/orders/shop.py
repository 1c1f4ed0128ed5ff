"""A small order service: takes orders, puts them into a queue, and a worker writes them into a database.

Two of its settings are what the tests beside it are about: whether it waits for the broker's confirm before it answers, and
whether the worker would notice that it has written an order before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pika
import psycopg


class Shop:
    """urls: of the broker's nodes, tried in turn.  confirm: an order is answered once the broker has confirmed it."""

    def __init__(self, urls: list[str], queue: str, *, confirm: bool) -> None:
        self._urls, self._queue, self._confirm = urls, queue, confirm
        self._channel: pika.adapters.blocking_connection.BlockingChannel | None = None

    def order(self, number: int) -> None:
        """Answers (returns) once the order is taken. Raises where it may not have been."""
        try:
            self._open().basic_publish(
                "", self._queue, str(number).encode(), pika.BasicProperties(delivery_mode=2), mandatory=self._confirm
            )  # fmt: skip
        except pika.exceptions.AMQPError:
            self.close()
            if self._confirm:
                raise
            # "It will be there": the answer of a service that does not wait.

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.connection.is_open:
            with contextlib.suppress(pika.exceptions.AMQPError):
                channel.connection.close()

    def _open(self) -> pika.adapters.blocking_connection.BlockingChannel:
        if self._channel is None:
            self._channel = pika.BlockingConnection([pika.URLParameters(url) for url in self._urls]).channel()
            self._channel.queue_declare(self._queue, durable=True)
            if self._confirm:
                self._channel.confirm_delivery()
        return self._channel


class Worker:
    """Writes orders into the table ``orders``, and acknowledges ten at a time. once: an order that is there already is not written again."""

    def __init__(self, urls: list[str], queue: str, connect: Callable[[], psycopg.Connection], *, once: bool) -> None:
        self._urls, self._queue, self._connect = urls, queue, connect
        self._insert = "INSERT INTO orders (number) VALUES (%s)"
        if once:
            self._insert += " ON CONFLICT DO NOTHING"
        with connect() as db:
            db.execute(f"CREATE TABLE orders (number BIGINT {'PRIMARY KEY' if once else 'NOT NULL'})")

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """A thread works until the block ends, and then until the queue is empty."""
        over = threading.Event()
        thread = threading.Thread(target=self._work, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _work(self, over: threading.Event) -> None:
        empty = False
        while not (over.is_set() and empty):
            empty = False
            # The broker, or the way to it, may be gone for a while: connect again, and take what comes again.
            with (
                contextlib.suppress(pika.exceptions.AMQPError, OSError),
                self._connect() as db,
                pika.BlockingConnection([pika.URLParameters(url) for url in self._urls]) as connection,
            ):
                channel = connection.channel()
                channel.queue_declare(self._queue, durable=True)
                channel.basic_qos(prefetch_count=20)
                for method, _, body in channel.consume(self._queue, inactivity_timeout=1.0):
                    if method is None:
                        channel.basic_ack(0, multiple=True)  # all that is left
                        empty = True
                        if over.is_set():
                            break
                        continue
                    empty = False
                    db.execute(self._insert, (int(body),))
                    db.commit()
                    if method.delivery_tag % 10 == 0:
                        channel.basic_ack(method.delivery_tag, multiple=True)
