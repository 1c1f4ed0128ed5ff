"""What the engine tells of a limited container, under both versions of cgroups."""

from __future__ import annotations

from typing import Any

import pytest

from brokerproof.brokers.base import Limited, MemoryUse, Throttled
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import limits
from brokerproof.runtime.node import ContainerNode

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
