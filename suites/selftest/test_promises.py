"""The promise table: every anomaly of every product has a word, every row a vendor's source, and can be reached."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from brokerproof.brokers.base import configurations, products
from brokerproof.checkers.base import keys
from brokerproof.faults.base import faults, plane
from brokerproof.finding import Count, Finding
from brokerproof.promises import (
    ALLOWED,
    BROKEN,
    CLASSES,
    DEFAULTS,
    ROWS,
    UNPROMISED,
    explain,
    fault_classes,
    promised,
    settings_of,
)

ANOMALIES = sorted(
    ({key for key, kind in keys().items() if kind == "anomaly"} - {"duplicated"})
    | {"duplicated/resend", "duplicated/broker"}
)
HOSTS = {
    "kafka": ("kafka.apache.org", "cwiki.apache.org", "github.com/confluentinc"),
    "rabbitmq": ("www.rabbitmq.com",),
    "rocketmq": ("rocketmq.apache.org",),
    "memory": ("brokerproof.brokers.memory",),
}
EVERY_CLASS = ("none", "link", "client", "node", "peers", "storage")


def word(product: str, anomaly: str, faults: tuple[str, ...] = ("none",), **settings: Any) -> str:
    known = {name.replace("_", "."): value for name, value in settings.items()}
    row = promised(product, anomaly, {**settings_of(product, {}), **known}, faults)
    assert row is not None
    return row.word


@pytest.mark.parametrize("product", products())
@pytest.mark.parametrize("anomaly", ANOMALIES)
def test_every_anomaly_has_a_word_under_every_class_of_fault(product: str, anomaly: str) -> None:
    for fault in EVERY_CLASS:
        assert word(product, anomaly, (fault,)) in (BROKEN, ALLOWED, UNPROMISED)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.product}-{r.anomalies[0]}-{ROWS.index(r)}")
def test_every_row_has_a_source_of_its_vendor_names_what_exists_and_is_reached(row: Any) -> None:
    # What the harness itself takes away from a broker is no vendor's to speak of.
    own = ("brokerproof.runtime.equipment.fsync_void",) if "fsync_void" in row.when else ()
    assert any(host in row.source for host in (*HOSTS[row.product], *own))
    assert set(row.anomalies) <= set(ANOMALIES)
    assert set(row.when) <= set(settings_of(row.product, {})), "a setting that no configuration has"
    assert set(row.faults) <= {*EVERY_CLASS, "*"}
    # Some configuration under some fault comes to this row and to no earlier one.
    names = sorted({name for r in ROWS if r.product == row.product for name in r.when})
    values = [
        # What the row itself asks for need not be searched for.
        row.when.get(n) or {settings_of(row.product, {})[n], "?", *(v for r in ROWS for v in r.when.get(n, ())[:1])}
        for n in names
    ]
    assert any(
        promised(row.product, anomaly, {**settings_of(row.product, {}), **dict(zip(names, choice, strict=True))}, (fault,)) is row
        for choice in itertools.product(*values) for fault in EVERY_CLASS for anomaly in row.anomalies
    )  # fmt: skip


def test_the_table_knows_every_product_and_every_fault() -> None:
    assert set(DEFAULTS) == set(products()) == {row.product for row in ROWS}
    assert {plane(name) for name in faults()} <= set(CLASSES)
    assert set(CLASSES.values()) - {"none"} <= set(EVERY_CLASS)


@pytest.mark.parametrize(("product", "anomaly", "settings", "faults", "expected"), [
    ("kafka", "lost", {"acks": "0"}, ("link",), ALLOWED),
    ("kafka", "lost", {"acks": "1"}, ("node",), ALLOWED),
    ("kafka", "lost", {"acks": "1"}, ("link",), BROKEN),
    ("kafka", "lost", {"acks": "all", "min.insync.replicas": "2"}, ("peers",), BROKEN),
    ("kafka", "lost", {"acks": "all", "min.insync.replicas": "1"}, ("node",), ALLOWED),
    ("kafka", "duplicated/resend", {"enable.idempotence": "true"}, ("link",), UNPROMISED),
    ("kafka", "duplicated/broker", {"enable.idempotence": "true"}, ("link",), BROKEN),
    ("kafka", "duplicated/broker", {"enable.idempotence": "false"}, ("link",), ALLOWED),
    ("kafka", "duplicated/broker", {"enable.idempotence": "false"}, ("none",), BROKEN),
    ("kafka", "duplicated/broker", {"acks": "1"}, ("link",), ALLOWED),
    ("kafka", "aborted_read", {"isolation.level": "read_uncommitted"}, ("none",), ALLOWED),
    ("kafka", "g1c", {"isolation.level": "read_committed"}, ("node",), BROKEN),
    ("kafka", "effect_out_of_order", {"group.protocol": "share"}, ("none",), UNPROMISED),
    ("kafka", "effect_lost", {"ack": "auto"}, ("client",), ALLOWED),
    ("kafka", "effect_lost", {"ack": "after"}, ("client",), BROKEN),
    ("rabbitmq", "lost", {"confirm": "false"}, ("link",), ALLOWED),
    ("rabbitmq", "lost", {"x-queue-type": "quorum"}, ("peers",), BROKEN),
    ("rabbitmq", "lost", {"x-queue-type": "classic"}, ("storage",), ALLOWED),
    ("rabbitmq", "lost", {"x-queue-type": "quorum", "fsync_void": "true"}, ("storage",), ALLOWED),
    ("rabbitmq", "lost", {"x-queue-type": "quorum", "fsync_void": "true"}, ("peers",), BROKEN),
    ("rabbitmq", "lost", {"x-queue-type": "classic"}, ("node",), BROKEN),
    ("rabbitmq", "definition_lost", {"durable": "false"}, ("node",), ALLOWED),
    ("rabbitmq", "definition_lost", {"durable": "false"}, ("link",), BROKEN),
    ("rabbitmq", "lost", {"delivery_mode": "1"}, ("node",), ALLOWED),
    ("rabbitmq", "lost", {"delivery_mode": "1", "x-queue-type": "quorum"}, ("node",), BROKEN),
    ("rabbitmq", "duplicated/broker", {}, ("node",), ALLOWED),     # a redelivery after a settle
    ("rabbitmq", "duplicated/broker", {}, ("none",), BROKEN),
    ("rabbitmq", "duplicated/resend", {}, ("link",), UNPROMISED),
    ("rabbitmq", "effect_lost", {"ack": "first"}, ("client",), ALLOWED),
    ("rabbitmq", "effect_out_of_order", {"receivers": "2"}, ("none",), UNPROMISED),
    ("rocketmq", "lost", {"send": "oneway"}, ("link",), ALLOWED),
    ("rocketmq", "lost", {"brokerrole": "async_master"}, ("peers", "storage"), ALLOWED),
    ("rocketmq", "lost", {"brokerrole": "sync_master"}, ("peers",), BROKEN),
    ("rocketmq", "lost", {"flushdisktype": "sync_flush", "brokerrole": "sync_master"}, ("storage",), BROKEN),
    ("rocketmq", "lost", {}, ("node",), ALLOWED),
    ("rocketmq", "lost", {}, ("link",), BROKEN),
    ("rocketmq", "effect_out_of_order", {"message.type": "fifo"}, ("node",), BROKEN),
    ("rocketmq", "duplicated/broker", {}, ("none",), UNPROMISED),
    ("memory", "lost", {"max-length": "50"}, ("none",), ALLOWED),
    ("memory", "lost", {}, ("node",), BROKEN),
])  # fmt: skip
def test_what_is_promised(
    product: str, anomaly: str, settings: dict[str, str], faults: tuple[str, ...], expected: str
) -> None:
    row = promised(product, anomaly, {**settings_of(product, {}), **settings}, faults)
    assert row is not None
    assert row.word == expected


@pytest.mark.parametrize("product", products())
def test_the_confirmed_configuration_promises_that_nothing_is_lost_when_a_link_fails(product: str) -> None:
    c = configurations(product)
    for sender, expected in ((c.confirmed, BROKEN), (c.unconfirmed, ALLOWED)):
        settings = settings_of(product, {"senders": [dict(sender)], "destinations": [dict(c.destination.settings)]})
        row = promised(product, "lost", settings, ("link",))
        assert row is not None
        assert row.word == expected


def test_classes_of_a_schedule() -> None:
    assert fault_classes([]) == ("none",)
    assert fault_classes([("noop", False)]) == ("none",)
    assert fault_classes([("partition", False), ("kill", True)]) == ("peers", "storage")
    assert fault_classes([("somebody's own", False)]) == ("node",)


def test_an_arm_is_explained_with_duplicates_in_two() -> None:
    def finding(**counts: Count) -> Finding:
        return Finding(anomalies=counts)

    arm = {"senders": [{"confirm": False}], "receivers": [{"ack": "after"}, {"ack": "after"}], "broker": {}}
    said = explain("memory", arm, ("link",), [
        finding(lost=Count(count=2), duplicated=Count(count=3, details={"resend": 2})), finding(lost=Count(count=1), phantom=Count()),
    ])  # fmt: skip
    assert [(s["anomaly"], s["count"], s["word"]) for s in said] == [
        ("duplicated/broker", 1, ALLOWED), ("duplicated/resend", 2, UNPROMISED), ("lost", 3, ALLOWED),
    ]  # fmt: skip
    assert settings_of("memory", arm)["receivers"] == "2"
    (other,) = explain("nats", {}, ("none",), [finding(lost=Count(count=1))])
    assert other["word"] == ""
    assert "no row" in other["because"]
