"""What the nodes of each topology are started with."""

from __future__ import annotations

import pytest

from brokerproof.brokers.rocketmq.configuration import LAYOUTS, broker_settings, name_server_settings, proxy_settings

ADDRESSES = {"b1": "10.0.0.10", "b2": "10.0.0.11", "m1": "10.0.0.12", "s1": "10.0.0.13", "ns": "10.0.0.20",
             "ns2": "10.0.0.21", "b3": "10.0.0.14"}  # fmt: skip


@pytest.mark.parametrize("topology", LAYOUTS)
def test_every_broker_has_a_set_and_knows_every_name_server(topology: str) -> None:
    layout = LAYOUTS[topology]
    for node in layout.brokers:
        made = broker_settings(topology, node, ADDRESSES, {})
        assert node in layout.set_of(node) and made["brokerName"] == layout.set_of(node)[0]
        assert made["namesrvAddr"].split(";") == [f"{ADDRESSES[name]}:9876" for name in layout.name_servers]
        assert made["brokerIP1"] == ADDRESSES[node]
    assert proxy_settings(topology, ADDRESSES, {})["namesrvAddr"].count(":9876") == len(layout.name_servers)


def test_without_a_controller_roles_are_given() -> None:
    master, slave = (broker_settings("master-slave", node, ADDRESSES, {}) for node in ("m1", "s1"))
    assert (master["brokerId"], slave["brokerId"], slave["brokerRole"]) == (0, 1, "SLAVE")
    assert "brokerRole" not in master
    both = [broker_settings("two-masters", node, ADDRESSES, {}) for node in ("b1", "b2")]
    assert [(b["brokerName"], b["brokerId"]) for b in both] == [("b1", 0), ("b2", 0)], "a set each"


def test_a_controller_gives_roles_itself() -> None:
    for node in ("b1", "b2"):
        made = broker_settings("controller", node, ADDRESSES, {})
        assert made["brokerName"] == "b1" and made["enableControllerMode"] is True
        assert made["controllerAddr"] == "10.0.0.20:9878"
        assert "brokerId" not in made and "brokerRole" not in made
    server = name_server_settings("controller", "ns", ADDRESSES, {})
    assert server["enableControllerInNamesrv"] is True and server["controllerDLegerPeers"] == "n0-10.0.0.20:9878"
    assert "enableControllerInNamesrv" not in name_server_settings("two-masters", "ns2", ADDRESSES, {})


def test_a_dledger_group_knows_its_members() -> None:
    made = broker_settings("dledger", "b2", ADDRESSES, {})
    assert made["enableDLegerCommitLog"] is True and made["dLegerSelfId"] == "n1" and made["dLegerGroup"] == "b1"
    assert made["dLegerPeers"] == "n0-10.0.0.10:40911;n1-10.0.0.11:40911;n2-10.0.0.14:40911"
    assert "brokerId" not in made and "brokerRole" not in made


def test_settings_of_one_node_reach_that_node_alone() -> None:
    settings = {"b2.registerNameServerPeriod": 10_000, "ns2.listenBacklog": 7, "flushDiskType": "SYNC_FLUSH"}
    first, second = (broker_settings("two-masters", node, ADDRESSES, settings) for node in ("b1", "b2"))
    assert second["registerNameServerPeriod"] == 10_000 and "registerNameServerPeriod" not in first
    assert first["flushDiskType"] == second["flushDiskType"] == "SYNC_FLUSH"
    assert name_server_settings("two-masters", "ns2", ADDRESSES, settings)["listenBacklog"] == 7
    assert "listenBacklog" not in name_server_settings("two-masters", "ns", ADDRESSES, settings)


@pytest.mark.parametrize(
    ("topology", "registered", "complete"),
    [
        ("single", {"b1": 0}, True),
        ("single", {}, False),
        ("master-slave", {"m1": 0, "s1": 1}, True),
        ("master-slave", {"m1": 0}, False),
        ("master-slave", {"m1": 1, "s1": 0}, False),
        ("controller", {"b1": 2, "b2": 0}, True),
        ("controller", {"b1": 0, "b2": 2}, True),
        ("controller", {"b1": 1, "b2": 2}, False),
        ("controller", {"b1": 0, "b2": 0}, False),
        ("controller-three", {"b1": 2, "b2": 0, "b3": 3}, True),
        ("dledger", {"b1": 1, "b2": 0, "b3": 3}, True),
        ("dledger", {"b1": 1, "b2": 2, "b3": 3}, False),
        ("two-masters", {"b1": 0, "b2": 0}, True),
        ("two-masters", {"b1": 0}, False),
    ],
)
def test_a_cluster_is_complete_when_each_set_has_its_master(
    topology: str, registered: dict[str, int], complete: bool
) -> None:
    assert LAYOUTS[topology].complete(registered) is complete
