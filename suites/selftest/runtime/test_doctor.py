"""The doctor looks at everything, in time, and survives whatever it finds."""

from __future__ import annotations

import threading
import time

import pytest

from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import doctor, engine


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_answers(**_: object) -> None:
        raise EnvironmentProblem("none answers")

    monkeypatch.setattr(engine, "connect", none_answers)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_engine_is_what_is_missing_and_the_rest_is_still_looked_at() -> None:
    checks = {check.name: check for check in doctor.diagnose()}
    assert checks["engine"].status == "missing"
    assert checks["engine"].next_step
    assert checks["python"].status == "ok"
    assert {"library pika", "disk", "memory", "cores", "root", "loop devices", "mkfs.ext4", "chromium"} <= set(checks)
    assert not any(
        name.startswith(("image", "registry", "leftovers", "packet filter", "processor limits")) for name in checks
    )


@pytest.mark.usefixtures("no_engine")
def test_whatever_is_not_well_has_a_next_step() -> None:
    assert all(check.next_step for check in doctor.diagnose() if check.status != "ok")


@pytest.mark.parametrize(
    ("cores", "load", "status"), [(2, 3.9, "ok"), (2, 4.1, "warning"), (8, 4.1, "ok"), (1, 0.1, "warning")]
)
def test_a_machine_on_which_others_are_at_work_is_told(
    monkeypatch: pytest.MonkeyPatch, cores: int, load: float, status: str
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    (seen,) = doctor._cores()
    assert seen.status == status and f"load {load}" in seen.seen and bool(seen.next_step) == (status == "warning")


def test_a_look_that_fails_is_a_warning_and_the_others_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor.Check]:
        raise RuntimeError("sysfs is not what it was")

    monkeypatch.setattr(doctor, "_LOOKS", {"memory": broken, "python": doctor._python})
    memory, python = doctor.diagnose()
    assert (memory.name, memory.status) == ("memory", "warning")
    assert "sysfs is not what it was" in memory.seen
    assert python.status == "ok"


def test_a_look_that_hangs_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hangs() -> list[doctor.Check]:
        released.wait(30)
        return []

    monkeypatch.setattr(doctor, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(doctor, "_LOOKS", {"registry": hangs, "python": doctor._python})
    began = time.monotonic()
    registry, python = doctor.diagnose()
    released.set()
    assert time.monotonic() - began < 5
    assert (registry.name, registry.status) == ("registry", "warning")
    assert python.status == "ok"


def test_a_missing_library_is_missing_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIBRARIES", ("a-library-that-nobody-wrote",))
    (check,) = doctor._libraries()
    assert check.status == "missing" and "ci/setup" in check.next_step


def test_little_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DISK_MIN_GB", 10**9)
    (check,) = doctor._disk()
    assert check.status == "warning" and "free" in check.next_step


def test_looks_of_other_parts_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LOOKS", {"python": doctor._python})
    found = doctor.diagnose({"faults": lambda: [doctor.Check("fault partition", "warning", "no nft", "modprobe")]})
    assert [check.name for check in found] == ["python", "fault partition"]
