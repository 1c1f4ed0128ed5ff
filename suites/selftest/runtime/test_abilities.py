"""What the machine cannot do is named, with the fault that needs it and the next step; answers of the engine are faked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import docker.errors
import pytest

from brokerproof import listing, run
from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.experiment import Experiment
from brokerproof.faults import base
from brokerproof.plan import Destination, Injection, Receiver, Sender, Workload
from brokerproof.runtime import abilities, equipment


class Engine:
    """Says what it can limit, and runs what it is told to, or not."""

    def __init__(self, *, fails: BaseException | None = None, **info: Any) -> None:
        self.containers, self._fails, self._info = self, fails, info

    def info(self) -> dict[str, Any]:
        return {"CpuCfsPeriod": True, "CpuCfsQuota": True, "MemoryLimit": True, **self._info}

    def run(self, image: str, command: list[str], **_: Any) -> bytes:
        if self._fails is not None:
            raise self._fails
        return b""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def use(**settings: Any) -> None:
        abilities._look.cache_clear()
        monkeypatch.setattr(abilities, "client", lambda: Engine(**settings))

    class Had:
        def missing(self) -> str:
            return ""

    monkeypatch.setattr(equipment, "kind", lambda name: Had())
    yield use
    abilities._look.cache_clear()


def failed(command: str, why: bytes) -> docker.errors.ContainerError:
    return docker.errors.ContainerError("c", 1, command, "side", why)  # type: ignore[no-untyped-call]  # has no types


def test_a_machine_that_can_do_all_of_it_says_so(engine: Callable[..., None]) -> None:
    engine()
    assert [abilities.missing(name) for name in abilities.ABILITIES] == [""] * 5
    (check,) = listing.abilities()
    assert (check.name, check.status) == ("faults", "ok")


def test_a_fault_that_cannot_be_done_is_listed_with_what_is_missing(engine: Callable[..., None]) -> None:
    engine(CpuCfsQuota=False, CgroupVersion="2", CgroupDriver="systemd")
    (check,) = listing.abilities()
    assert (check.name, check.status) == ("fault cpu_starve", "warning")
    assert "cgroup v2, systemd) says no to CpuCfsQuota" in check.seen
    assert "cpu controller" in check.next_step


@pytest.mark.parametrize("name", ["packet filter", "packet loss", "traffic shaping"])
def test_what_the_kernel_says_is_quoted(name: str, engine: Callable[..., None]) -> None:
    engine(fails=failed("nft", b"Operation not supported"))
    assert abilities.missing(name).startswith(f"{name}: in a container: Operation not supported; next: ")


@pytest.mark.container
@pytest.mark.parametrize("broken", ["_FILTER", "_LOSE", "_SHAPE"])
def test_a_command_that_the_kernel_refuses_is_missing(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"_FILTER": "packet filter", "_LOSE": "packet loss", "_SHAPE": "traffic shaping"}[broken]
    abilities._look.cache_clear()
    monkeypatch.setattr(abilities, broken, [word.replace("add", "bad", 1) for word in getattr(abilities, broken)])
    assert abilities.missing(name).startswith(f"{name}: in a container: ")
    abilities._look.cache_clear()


def test_without_the_side_image_it_is_not_tried_and_not_missing(engine: Callable[..., None]) -> None:
    engine(fails=docker.errors.ImageNotFound("side"))  # type: ignore[no-untyped-call]  # has no types
    assert abilities.missing("packet filter") == ""
    assert not abilities.tried("packet filter")


def test_without_an_engine_the_engine_is_what_is_missing(
    engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_answers() -> None:
        raise EnvironmentProblem("none answers")

    engine()
    monkeypatch.setattr(abilities, "client", none_answers)
    assert abilities.missing("memory limits") == "memory limits: none answers"


def test_an_ability_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown ability 'nft'"):
        abilities.missing("nft")


def experiment(fault: str, needs: tuple[str, ...] = ()) -> Experiment:
    load = Workload(destinations=(Destination(name="q", kind="queue"),), senders=(Sender(),), receivers=(Receiver(),))
    return Experiment(
        topology="cluster", treatment=load, control=load, equipment=needs,
        schedule=(Injection(fault=fault, target="leader", at_s=1, for_s=1),),
    )  # fmt: skip


def test_a_cell_whose_fault_cannot_be_done_is_unsupported_with_the_missing_thing(engine: Callable[..., None]) -> None:
    engine(fails=failed("nft", b"no"), MemoryLimit=False)
    assert "packet filter: in a container: no" in run.lacking(experiment("partition"), "kafka")
    assert "memory limits: the engine" in run.lacking(experiment("memory_pressure"), "kafka")
    assert run.lacking(experiment("kill"), "kafka") == ""


def test_a_variant_that_a_version_lacks_is_unsupported_there_alone() -> None:
    asks = replace(experiment("kill"), schedule=(), needs=("consumer_timeout_of_a_queue",))
    assert run.lacking(asks, "rabbitmq", version="3.10.8") == "rabbitmq 3.10.8 has no consumer_timeout_of_a_queue"
    assert run.lacking(asks, "rabbitmq") == ""


def test_equipment_that_is_missing_is_said_once(engine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        def missing(self) -> str:
            return "equipment clock: no image"

    engine()
    monkeypatch.setattr(equipment, "kind", lambda name: Lacking())
    assert run.lacking(experiment("clock_jump", ("clock",)), "kafka") == "equipment clock: no image"
    assert base.missing("clock_skew") == "equipment clock: no image"
