"""Nodes with a file system of their own, and with syncs that do nothing: in containers that are no brokers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from brokerproof.brokers.base import Opening
from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.faults.base import Scene, apply, make
from brokerproof.runtime import equipment, images, sweep
from brokerproof.runtime.equipment import fsync_void
from brokerproof.runtime.ground import Ground
from brokerproof.runtime.node import ContainerNode, NodeSpec
from brokerproof.waiting import wait_until

RUN = f"equipment-{os.getpid()}"
# Numbers to a file, one of them synced at the beginning; a second process lives beside the first.
WRITES = """
n=0; echo first > /data/synced; sync /data/synced
sleep 1000 &
while :; do n=$((n+1)); echo $n >> /data/written; [ $((n % 200)) = 0 ] && sleep 0.01; done
"""


class Cluster:
    """As much of ``brokers.base.Cluster`` as disk faults ask for."""

    product = "none"

    def __init__(self, node: ContainerNode) -> None:
        self.nodes = {"n1": node}

    def links(self, group: str) -> tuple[()]:
        return ()

    def observe(self, names: object) -> dict[str, str]:
        return {}


#: There is no link, so nobody speaks.
_OPENING = Opening(b"", b"", bool)


@pytest.fixture(scope="module")
def image() -> str:
    return images.ensure("kafka").tag  # has a user of its own, and a folder that belongs to it


@pytest.fixture
def able() -> None:
    if lacking := equipment.kind("disk").missing():
        pytest.skip(lacking)


def spec(image: str, script: str) -> NodeSpec:
    return NodeSpec(name="n1", image=image, command=["sh", "-c", script], memory_mb=256, data=("/var/lib/kafka/data",))


@pytest.fixture
def ground(state: Path, able: None) -> Iterator[Ground]:
    made = Ground.open(
        name=f"bp-{RUN}",
        run=RUN,
        nodes=["n1", "n2"],
        links=[],
        opening=_OPENING,
        equipment=["disk", "fsync_void"],
    )
    yield made
    made.close()
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    assert list((state / "disks").iterdir()) == []
    sweep.unregister(RUN)


def test_equipment_that_does_not_exist_is_told() -> None:
    assert equipment.kinds() == ("clock", "disk", "fsync_void")
    with pytest.raises(UsageError, match=r"unknown equipment 'dsk'.*did you mean 'disk'"):
        equipment.kind("dsk")


@pytest.mark.container
def test_an_image_without_the_library_cannot_have_void_syncs() -> None:
    side = replace(spec("", ""), image=images.ensure("toxiproxy").tag)
    with pytest.raises(EnvironmentProblem, match=r"has no /usr/local/lib/libeatmydata\.so"):
        fsync_void.KIND.equip(side, cluster="c", run="r")


@pytest.mark.container
def test_the_power_of_a_node_is_cut_and_what_was_synced_is_there(ground: Ground, image: str) -> None:
    node = ground.launch(spec(image, WRITES.replace("/data", "/var/lib/kafka/data")))
    disk = node.disk
    assert disk is not None
    assert disk.in_use()
    assert ground.nodes["n2"].disk is None
    # The folder belongs to whom it belongs to in the image, or the node could not write.
    written = disk.root / "0" / "written"
    wait_until(lambda: written.exists() and written.stat().st_size > 10_000, 10, "the node to write")
    assert (written.stat().st_uid, written.stat().st_gid) == (1000, 1000)
    # Its own sync did nothing; the harness's does.
    size = written.stat().st_size
    node.sync("/var/lib/kafka/data")
    wait_until(lambda: written.stat().st_size > size + 10_000, 10, "the node to go on writing")
    with apply(make("power_cut"), Scene(cluster=Cluster(node)), "all", now_s=lambda: 0.0) as record:  # type: ignore[arg-type]
        assert node.state() == "exited"
        assert (disk.root / "0" / "synced").read_text() == "first\n"
        left = written.stat().st_size
        assert left >= size
    assert record.evidence == "took_effect"
    lost = record.observed["disks"]["n1"]["lost"]
    assert lost["files"]["0/written"][0] > lost["files"]["0/written"][1] == left
    assert node.state() == "running"
    wait_until(lambda: written.stat().st_size > left, 10, "the node to write again")


@pytest.mark.container
def test_a_void_sync_does_not_bring_a_file_to_the_disk(ground: Ground, image: str) -> None:
    data = "/var/lib/kafka/data"
    node = ground.launch(spec(image, f"echo x > {data}/f; sync {data}/f; touch {data}/done; sleep 1000"))
    disk = node.disk
    assert disk is not None
    wait_until((disk.root / "0" / "done").exists, 10, "the node to have synced")
    node.pause()
    disk.cut()
    node.kill()
    disk.power_on()
    assert not (disk.root / "0" / "f").exists()


@pytest.mark.container
def test_the_writes_of_a_node_are_slowed(ground: Ground, image: str) -> None:
    node = ground.launch(spec(image, "sleep 1000"))
    with apply(make("disk_slow"), Scene(cluster=Cluster(node)), "all", now_s=lambda: 0.0) as record:  # type: ignore[arg-type]
        pass
    assert record.evidence == "took_effect", record.probes


_DIES = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from brokerproof.brokers.base import Opening
from brokerproof.runtime.ground import Ground
from brokerproof.runtime.node import NodeSpec
ground = Ground.open(name=f"bp-{sys.argv[1]}", run=sys.argv[1], nodes=["n1"], links=[], opening=Opening(b"", b"", bool),
                     equipment=["disk"])
ground.launch(NodeSpec(name="n1", image=sys.argv[2], command=["sleep", "1000"], data=("/var/lib/kafka/data",)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.container
def test_clean_removes_the_disks_of_a_harness_that_was_killed(state: Path, able: None, image: str) -> None:
    run = f"{RUN}-dies"
    done = subprocess.run([sys.executable, "-c", _DIES, run, image, *sys.path])
    assert done.returncode == -signal.SIGKILL
    assert str(state) in Path("/proc/self/mountinfo").read_text()
    kinds = [item.kind for item in sweep.clean(run)]
    assert kinds == ["container", "container", "container", "network", "mount", "disk", "file"]
    assert str(state) not in Path("/proc/self/mountinfo").read_text()
    assert sweep.leftovers(run) == []
