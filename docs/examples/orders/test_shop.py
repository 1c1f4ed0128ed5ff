"""What the order service promises, and the proof that the tests would notice if it did not.

pytest docs/examples/orders
"""

from __future__ import annotations

import contextlib
import time
from functools import partial

import pika
import psycopg
import pytest
from shop import Shop, Worker

from brokerproof.own import experiment

pytestmark = pytest.mark.container


def database(store):
    return psycopg.connect(
        host=store.host, port=store.port, user="postgres", password=store.password, dbname="postgres",
        options=f"-c search_path={store.space}",
    )  # fmt: skip


def take_orders(shop, history, count):
    for number in range(count):
        with contextlib.suppress(pika.exceptions.AMQPError), history.sending(number):
            shop.order(number)
        time.sleep(0.01)


@experiment(
    "shop/answered-orders-are-written", sentence="An order that was answered is written, though the broker is killed.",
    control="the shop answers without waiting for the broker's confirm", never=("lost",),
)  # fmt: skip
def test_answered_orders_are_written(arm, rabbitmq, effects, history, faults):
    shop = Shop(rabbitmq.urls, rabbitmq.name("orders"), confirm=arm.of(treatment=True, control=False))
    connect = partial(database, effects.store("postgresql"))
    worker = Worker(rabbitmq.unbroken.urls, rabbitmq.name("orders"), connect, once=True)
    with contextlib.closing(shop), worker.at_work():
        faults.at(1.0, "kill", target="all", for_s=2.0)
        take_orders(shop, history, 300)
        faults.over()
    with connect() as db:
        history.world(number for (number,) in db.execute("SELECT number FROM orders"))


@experiment(
    "shop/orders-are-written-once", sentence="An order is written once, though the worker's connection breaks.",
    control="the worker writes whatever it is given", never=("effect_duplicated",),
)  # fmt: skip
def test_orders_are_written_once(arm, rabbitmq, effects, history, faults):
    shop = Shop(rabbitmq.unbroken.urls, rabbitmq.name("orders"), confirm=True)
    connect = partial(database, effects.store("postgresql"))
    worker = Worker(rabbitmq.urls, rabbitmq.name("orders"), connect, once=arm.of(treatment=True, control=False))
    with contextlib.closing(shop), worker.at_work():
        faults.at(1.0, "reset", for_s=2.0)
        take_orders(shop, history, 300)
        faults.over()
    with connect() as db:
        history.world(number for (number,) in db.execute("SELECT number FROM orders"))
