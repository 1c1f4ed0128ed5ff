"""What the engine tells of a limited container, under both versions of cgroups."""

from __future__ import annotations

from typing import Any

import docker.errors
import pytest

from brokerproof.brokers.base import Limited, MemoryUse, Throttled
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import limits
from brokerproof.runtime.node import LABEL_MEMORY, ContainerNode

MB = 1 << 20
CPU: dict[str, Any] = {
    "system_cpu_usage": 1,
    "throttling_data": {"periods": 21, "throttled_periods": 20, "throttled_time": 1_806_268_560},
}


def test_throttled_periods_and_time() -> None:
    assert limits.throttled({"cpu_stats": CPU}, "n") == Throttled(21, 20, 1806.26856)


@pytest.mark.parametrize("stats", [{}, {"cpu_stats": {}}, {"cpu_stats": {"throttling_data": CPU["throttling_data"]}}])
def test_a_container_that_is_down_has_no_counters(stats: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentProblem, match="does not tell how 'n' is throttled"):
        limits.throttled(stats, "n")


@pytest.mark.parametrize(
    "counted",
    [
        {"total_rss": 280 * MB, "total_pgmajfault": 19, "rss": 1, "pgmajfault": 1},  # v1
        {"anon": 280 * MB, "pgmajfault": 19, "file": 20 * MB},  # v2
    ],
)
def test_memory_of_both_versions(counted: dict[str, int]) -> None:
    stats = {"memory_stats": {"usage": 300 * MB, "limit": 304 * MB, "stats": counted}}
    assert limits.memory(stats, 1024.0, "n") == MemoryUse(300.0, 280.0, 304.0, 1024.0, 19)


@pytest.mark.parametrize("stats", [{}, {"memory_stats": {}}, {"memory_stats": {"usage": 1, "limit": 2, "stats": {}}}])
def test_memory_that_is_not_told(stats: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentProblem, match="does not tell the memory of 'n'"):
        limits.memory(stats, 1024.0, "n")


def test_a_containers_node_can_be_limited() -> None:
    assert isinstance(ContainerNode(cluster="c", name="n", address=""), Limited)


class Container:
    """Uses 76 MB, 56 of them its own; the kernel cannot take back what lies below ``floor_mb``."""

    def __init__(self, floor_mb: int) -> None:
        self.labels, self.floor_mb, self.limits = {LABEL_MEMORY: "1024"}, floor_mb, [""]

    def update(self, *, mem_limit: str, memswap_limit: str) -> None:
        assert mem_limit == memswap_limit
        if int(mem_limit.removesuffix("m")) < self.floor_mb:
            raise docker.errors.APIError("unable to set memory limit")
        self.limits.append(mem_limit)


def limited(monkeypatch: pytest.MonkeyPatch, floor_mb: int) -> tuple[ContainerNode, Container]:
    node, container = ContainerNode(cluster="c", name="n", address=""), Container(floor_mb)
    monkeypatch.setattr(node, "container", lambda: container)
    monkeypatch.setattr(node, "memory", lambda: MemoryUse(76.0, 56.0, 1024.0, 1024.0, 0))
    return node, container


@pytest.mark.parametrize(("floor_mb", "limit"), [(0, "64m"), (69, "70m"), (76, "76m")])
def test_memory_is_limited_to_the_least_that_the_kernel_takes(
    floor_mb: int, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, container = limited(monkeypatch, floor_mb)
    node.limit_memory(8)
    assert container.limits[-1] == limit
    node.limit_memory(None)
    assert container.limits[-1] == "1024m"


def test_a_limit_that_is_refused_up_to_what_is_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    node, container = limited(monkeypatch, 90)
    with pytest.raises(EnvironmentProblem, match=r"uses 76 MB: refused from 64 MB on.*unable to set memory limit"):
        node.limit_memory(8)
    assert container.limits == [""]


class Freezing:
    """Freezes at the so-manieth time."""

    def __init__(self, at: int, says: str) -> None:
        self.left, self.says = at, says

    def pause(self) -> None:
        self.left -= 1
        if self.left:
            raise docker.errors.APIError(self.says)


def test_a_node_that_does_not_freeze_at_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node, container = ContainerNode(cluster="c", name="n", address=""), Freezing(3, "OCI runtime: unable to freeze")
    monkeypatch.setattr(node, "container", lambda: container)
    node.pause()
    assert container.left == 0


def test_a_node_that_cannot_be_paused_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    node, container = ContainerNode(cluster="c", name="n", address=""), Freezing(3, "no such container")
    monkeypatch.setattr(node, "container", lambda: container)
    with pytest.raises(EnvironmentProblem, match="no such container"):
        node.pause()
    assert container.left == 2
