"""A node's clock that can be moved: the record, what is read back, and the library in a container."""

from __future__ import annotations

import contextlib
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from brokerproof.brokers.base import Clocked
from brokerproof.brokers.rocketmq import remoting
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import clockwork, equipment, recipes, registry
from brokerproof.runtime.equipment import clock
from brokerproof.runtime.node import LABEL_MEMORY, LABEL_RUN, ContainerNode, NodeSpec, client
from brokerproof.waiting import wait_until

SPEC = NodeSpec(name="n1", image="image", command=[], environment={"LD_PRELOAD": "/other.so"}, data=("/data",))


def test_the_record_is_what_the_library_reads() -> None:
    assert struct.unpack("=5q", clockwork.record(7, -1.5, 0.25)) == (7, 7, -1_500_000_000, 250_000_000, 7)
    assert struct.unpack("=5q", clockwork.TRUE) == (0, 0, 0, 0, 0)


def test_what_is_read_back_lies_between_two_looks_at_the_true_time() -> None:
    seen = clockwork.ahead("100.000\n400.500\n101.000\n")
    assert (seen.ahead_s, seen.error_s, seen.at_s) == (300.0, 0.5, 100.5)
    with pytest.raises(ValueError, match="could not convert"):
        clockwork.ahead("sh: date: not found")


def test_an_equipped_node_loads_the_library_after_what_it_loads_already(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(clock, "_library", lambda tag: b"library")
    monkeypatch.setattr(clock, "_moves", lambda image, library, run: tried.append(image))
    spec, options = equipment.kind("clock").equip(SPEC, cluster="c", run="r")
    assert spec.environment["LD_PRELOAD"] == f"/other.so:{clockwork.LIBRARY}"
    assert spec.environment[clockwork.VARIABLE] in spec.files
    assert spec.files[clockwork.LIBRARY] == b"library"
    assert (options, tried) == ({}, ["image"])
    assert not SPEC.files


@pytest.mark.parametrize(("here", "registry_answers", "root", "lacks"), [
    (True, False, False, False), (False, True, False, False), (False, False, True, False), (False, False, False, True),
])  # fmt: skip
def test_the_clock_is_missing_where_its_library_can_neither_be_found_nor_built(
    here: bool, registry_answers: bool, root: bool, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "client", lambda: None)
    monkeypatch.setattr(registry, "image_named", lambda client, tag: "image" if here else None)
    monkeypatch.setattr(registry, "answers", lambda: registry_answers)
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    said = equipment.kind("clock").missing()
    assert bool(said) is lacks
    assert not lacks or "cannot be built" in said


def test_without_an_engine_the_clock_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_answers() -> None:
        raise EnvironmentProblem("none answers")

    monkeypatch.setattr(clock, "client", none_answers)
    assert equipment.kind("clock").missing() == "equipment clock: none answers"


@pytest.mark.parametrize(
    ("runtime", "seconds"),
    [("[ 0 days, 0 hours, 2 minutes, 30 seconds ]", 150.5), ("[ 0 days, 0 hours, -4 minutes, -50 seconds ]", -290.5)],
)
def test_rocketmq_tells_its_time_of_day(runtime: str, seconds: float) -> None:
    assert remoting.time_of_day({"bootTimestamp": "1000000", "runtime": runtime}) == 1000 + seconds


# -- in a container ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def equipped(command: list[str]) -> Iterator[ContainerNode]:
    """A container of the Debian that images are built on, equipped with a clock."""
    name = f"bpclock-{uuid.uuid4().hex[:6]}"
    image = recipes.recipe_for("base", "bookworm").tag
    spec, _ = equipment.kind("clock").equip(
        NodeSpec(name="n1", image=image, command=command, data=("/d",)), cluster=name, run=name
    )
    labels = {LABEL_RUN: name, LABEL_MEMORY: "512"}
    environment: dict[str, Any] = dict(spec.environment)
    container = client().containers.create(image, command, name=f"{name}-n1", environment=environment, labels=labels)
    try:
        files = {path.lstrip("/"): c if isinstance(c, bytes) else c.encode() for path, c in spec.files.items()}
        container.put_archive("/", recipes.archive(files).read())
        container.start()
        yield ContainerNode(cluster=name, name="n1", address="")
    finally:
        container.remove(force=True)


@pytest.mark.container
def test_a_moved_clock_is_seen_by_running_and_by_new_processes() -> None:
    # perl asks for the time with time(2), waits with select(2), and runs all the while.
    with equipped(
        ["perl", "-e", "$| = 1; while (1) { print time, qq(\\n); select(undef, undef, undef, 0.1) }"]
    ) as node:
        assert isinstance(node, Clocked)
        assert node.clock_moves()

        def process_sees(ahead_s: float) -> None:
            def near() -> bool:
                stamp, _, shown = node.logs(tail=1).strip().partition(" ")
                code, true = node.execute(["date", "-u", "-d", stamp, "+%s"])
                return code == 0 and abs(int(shown) - int(true) - ahead_s) <= 1.5

            wait_until(near, 5, f"the running process {ahead_s:+} s ahead")

        for jump_s in (3600.0, -3600.0, 0.0):
            node.move_clock(jump_s)
            ahead_s, error_s = node.clock_ahead()
            assert abs(ahead_s - jump_s) <= error_s + 0.05
            process_sees(jump_s)
        node.move_clock(0.0, 1.0)
        first, _ = node.clock_ahead()
        wait_until(lambda: node.clock_ahead()[0] > first + 0.5, 5, "the clock to gain")
        node.kill()
        node.move_clock(-7200.0)
        node.start()
        ahead_s, error_s = node.clock_ahead()
        assert abs(ahead_s + 7200) <= error_s + 0.05


@pytest.mark.container
def test_an_image_whose_processes_do_not_load_the_library_is_refused() -> None:
    image = recipes.recipe_for("base", "bookworm").tag
    with pytest.raises(EnvironmentProblem, match=r"do not load the clock library \(it needs glibc\)"):
        clock._moves(image, b"no library", "bpclock")
