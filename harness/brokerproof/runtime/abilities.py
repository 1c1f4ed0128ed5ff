"""What faults need of the machine that the engine runs on, besides the engine: each tried, once per process.

    packet filter       nftables in a container's network: cut links
    packet loss         nftables' random numbers: links that lose some packets
    traffic shaping     token buckets by destination on a container's network: slow links
    processor limits    the engine can take processor time from a container that runs
    memory limits       the engine can take memory from one

A fault names those it needs (``Fault.abilities``). Nothing that is made here outlives the look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import docker.errors

from brokerproof.errors import EnvironmentProblem, unknown
from brokerproof.runtime import recipes, sweep
from brokerproof.runtime.node import client, engine_errors

_FILTER = ["nft", "add table inet bp; add chain inet bp i { type filter hook input priority 0; }"]
_LOSE = ["nft", f"{_FILTER[1]}; add rule inet bp i numgen random mod 100 < 5 counter drop"]
_SHAPE = ["sh", "-c", "; ".join(("set -e", *(
    f"tc {what}" for what in (
        "qdisc add dev lo root handle 1: htb default 0",
        "class add dev lo parent 1: classid 1:1 htb rate 50kbps burst 3k",
        "qdisc add dev lo parent 1:1 bfifo limit 50000",
        "filter add dev lo parent 1: protocol ip prio 1 u32 match ip dst 127.0.0.2/32 flowid 1:1",
    )
)))]  # fmt: skip


def missing(name: str) -> str:
    """What is not there, with the next step, in a sentence; empty when it works or could not be tried yet. Raises
    UsageError for a name that is none."""
    if name not in ABILITIES:
        raise unknown("ability", name, ABILITIES)
    return _look(name) or ""


def tried(name: str) -> bool:
    """Whether it was tried; the image that it is tried in may not be here yet."""
    return _look(name) is not None


@lru_cache(maxsize=8)
def _look(name: str) -> str | None:
    try:
        return ABILITIES[name](name)
    except EnvironmentProblem as exc:
        return f"{name}: {exc}"


def _packet_filter(name: str) -> str | None:
    return _in_side(name, _FILTER, "the engine's kernel needs nf_tables: without it no partition between brokers")


def _packet_loss(name: str) -> str | None:
    return _in_side(name, _LOSE, "the engine's kernel needs nft_numgen: without it no link loses packets")


def _traffic_shaping(name: str) -> str | None:
    step = "the engine's kernel needs sch_htb and cls_u32 (`modprobe sch_htb cls_u32`): without them no slow link"
    return _in_side(name, _SHAPE, step)


def _processor_limits(name: str) -> str | None:
    return _engine_says(name, ("CpuCfsPeriod", "CpuCfsQuota"), "cpu")


def _memory_limits(name: str) -> str | None:
    return _engine_says(name, ("MemoryLimit",), "memory")


def _in_side(name: str, command: list[str], step: str) -> str | None:
    """Runs it in a container of the side image, whose network goes away with it."""
    tag = recipes.recipe_for("side", recipes.DEFAULTS["side"]).tag
    with engine_errors(f"trying {name} in a container"):
        try:
            client().containers.run(
                tag, command, remove=True, network_mode="none", cap_add=["NET_ADMIN"],
                labels=sweep.labels_of_a_moment(),
            )  # fmt: skip
        except docker.errors.ImageNotFound:
            return None
        except docker.errors.ContainerError as exc:
            seen = exc.stderr.decode(errors="replace").strip() if isinstance(exc.stderr, bytes) else str(exc)
            return f"{name}: in a container: {seen[-200:]}; next: {step}"
    return ""


def _engine_says(name: str, keys: tuple[str, ...], controller: str) -> str | None:
    with engine_errors("asking the engine what it can limit"):
        info = client().info()
    lacking = [key for key in keys if not info.get(key)]
    if not lacking:
        return ""
    return (
        f"{name}: the engine (cgroup v{info.get('CgroupVersion', '1')}, {info.get('CgroupDriver')}) says no to "
        f"{' and '.join(lacking)}; next: give it the {controller} controller; an engine without root needs it delegated"
    )


ABILITIES: Mapping[str, Callable[[str], str | None]] = {
    "packet filter": _packet_filter,
    "packet loss": _packet_loss,
    "traffic shaping": _traffic_shaping,
    "processor limits": _processor_limits,
    "memory limits": _memory_limits,
}
