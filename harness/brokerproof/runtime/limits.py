"""What the kernel counts of a container whose processor or memory the engine limits: the engine's own numbers, read.

They come from the container's control group by way of the engine, alike under cgroup v1 and v2; no process inside is
needed, which would wait for the very processor, and live in the very memory. Pure: nothing here speaks to an engine.
Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerStats
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brokerproof.brokers.base import MemoryUse, Throttled
from brokerproof.errors import EnvironmentProblem

#: The period that a share of the processor is given per; the kernel's default.
PERIOD_US = 100_000
_MB = 1 << 20


def throttled(stats: Mapping[str, Any], name: str) -> Throttled:
    """Raises EnvironmentProblem where the engine counts nothing: the container is down, or may not be limited."""
    counted = stats.get("cpu_stats", {}).get("throttling_data")
    if counted is None or "system_cpu_usage" not in stats["cpu_stats"]:
        raise EnvironmentProblem(
            f"the engine does not tell how {name!r} is throttled: it is down, or has no cpu cgroup"
        )
    return Throttled(int(counted["periods"]), int(counted["throttled_periods"]), counted["throttled_time"] / 1e6)


def memory(stats: Mapping[str, Any], configured_mb: float, name: str) -> MemoryUse:
    """Raises EnvironmentProblem as ``throttled`` does."""
    told = stats.get("memory_stats", {})
    counted = told.get("stats", {})
    # v2 has no sums for what lies below: there is one group per container. ``rss`` of v1 is ``anon`` of v2.
    own = counted.get("total_rss", counted.get("anon"))
    faults = counted.get("total_pgmajfault", counted.get("pgmajfault"))
    if own is None or faults is None:
        raise EnvironmentProblem(
            f"the engine does not tell the memory of {name!r}: it is down, or has no memory cgroup"
        )
    return MemoryUse(
        used_mb=told["usage"] / _MB, own_mb=own / _MB, limit_mb=told["limit"] / _MB, configured_mb=configured_mb,
        major_faults=int(faults),
    )  # fmt: skip
