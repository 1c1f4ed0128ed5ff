"""Runs on a broker that we did not start: whole flow, nothing left, and no credential anywhere."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokerproof.brokers.base import Thing, broker
from brokerproof.brokers.rabbitmq import admin, adopted
from brokerproof.runtime import sweep
from brokerproof.runtime.ground import Ground
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.node import client as engine
from brokerproof.target import Target, load
from brokerproof.waiting import wait_until

pytestmark = [pytest.mark.container]
#: Found nowhere else on the machine.
CANARY = f"cAnary-{secrets.token_hex(12)}"
RULES = ("^bp-.*", r"^(bp-.*|amq\.default)$", "^bp-.*")


@pytest.fixture(scope="module")
def rabbit() -> Iterator[int]:
    """The port of a RabbitMQ that lets ``proof`` in by the canary, and touch names under the prefix only."""
    run = f"target-{os.getpid()}"
    cluster = broker("rabbitmq").start(
        version="4.0.5",
        topology="single",
        settings={},
        name=f"bp-target-{os.getpid()}",
        run=run,
        progress=lambda _: None,
    )
    try:
        ground: Ground = cluster._ground  # type: ignore[attr-defined]  # whoever runs it has hands on it
        for command in (
            ["add_vhost", "proof"], ["add_user", "proof", CANARY], ["set_permissions", "-p", "proof", "proof", *RULES],
            ["add_vhost", "cases"], ["set_permissions", "-p", "cases", "proof", ".*", ".*", ".*"],
        ):  # fmt: skip
            code, said = ground.nodes["r1"].execute(["rabbitmqctl", *command], user="rabbitmq")
            assert code == 0, said
        yield int(ground.link("admin", "r1").address[1])
    finally:
        cluster.close()
        sweep.unregister(run)


@pytest.fixture
def mine(rabbit: int, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    file = tmp_path / "mine.toml"
    file.write_text(
        f'product = "rabbitmq"\n[nodes.r1]\naddress = "127.0.0.1:{rabbit}"\n'
        '[access]\nuser = "proof"\npassword_env = "PROOF_CANARY"\nvhost = "proof"\n'
    )
    return file


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(*arguments: str, cwd: Path, timeout_s: float = 300) -> tuple[int, str]:
    process = start(*arguments, cwd=cwd)
    said, _ = process.communicate(timeout=timeout_s)
    return process.returncode, said


def forms() -> list[bytes]:
    """The canary as it is, in hexadecimal, in Base64 (whatever stands before it), and as SASL's PLAIN has it."""
    raw = CANARY.encode()
    inner = [base64.b64encode(b"\0" * n + raw)[(4 * n + 2) // 3 + 1 : -4] for n in range(3)]
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), *inner]


def holds_canary(data: bytes) -> bool:
    return any(form in data for form in forms())


def there(target: Target, thing: Thing) -> bool:
    node = next(iter(target.nodes.values()))
    with admin.channel(node.address, adopted.direct(target)) as ch:
        return adopted.there(ch, thing)


def test_the_search_for_the_canary_finds_it() -> None:
    for data in (
        CANARY, CANARY.encode().hex(), *(base64.b64encode(b"x" * n + CANARY.encode() + b"yz").decode() for n in range(3)),
    ):  # fmt: skip
        assert holds_canary(f"… {data} …".encode())


def test_a_run_leaves_nothing_and_tells_no_credential(mine: Path, tmp_path: Path) -> None:
    seen_in_processes: list[str] = []
    made: set[Thing] = set()
    target, over = load(mine), threading.Event()
    journal = Journal(target.key)

    def watch() -> None:
        while not over.wait(0.2):
            made.update(journal.left())
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if holds_canary(file.read_bytes()):
                        seen_in_processes.append(str(file))
                except OSError:
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        code, said = finished(
            "run", "--target", "mine.toml", "--select", "producer/resend-duplicates", "--seed", "7", "--run-dir", "run",
            cwd=tmp_path,
        )  # fmt: skip
    finally:
        over.set()
        watching.join()
    assert code == 0, said
    assert "HOLDS" in said
    assert not holds_canary(said.encode())
    assert seen_in_processes == []
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert len(files) > 20
    assert [f for f in files if holds_canary(f.read_bytes())] == []
    register = [f for f in Path(os.environ["BROKERPROOF_STATE"]).rglob("*") if f.is_file()]
    assert [f for f in register if holds_canary(f.read_bytes())] == []
    assert {t.kind for t in made} == {"queue"} and len(made) >= 4  # a lane for each arm, and the probe's
    assert all(t.name.startswith("bp-") for t in made)
    assert [t for t in made if there(target, t)] == []
    assert journal.left() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_made_goes_after_an_interrupt_and_after_a_kill(
    how: signal.Signals, mine: Path, tmp_path: Path
) -> None:
    target = load(mine)
    journal = Journal(target.key)
    process = start("run", "--target", "mine.toml", "--select", "order/one-queue-one-consumer", cwd=tmp_path)
    try:
        wait_until(
            lambda: process.poll() is not None or any(t.name.endswith("-q") for t in journal.left()),
            180,
            "a lane of the run",
        )
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        lanes = journal.left()
        wait_until(lambda: all(there(target, t) for t in lanes), 30, "the lanes made")
        process.send_signal(how)
        said, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    if how == signal.SIGKILL:
        assert all(there(target, t) for t in lanes)
        wait_until(lambda: journal.left_by_the_dead(), 20, "the run to be known dead")
        code, would = finished("clean", "--target", "mine.toml", "--dry-run", cwd=tmp_path)
        assert code == 0 and all(t.name in would for t in lanes)
        code, cleaned = finished("clean", "--target", "mine.toml", cwd=tmp_path)
        assert code == 0 and all(f"removed {t.kind} {t.name}" in cleaned for t in lanes)
        finished("clean", cwd=tmp_path)  # its proxy
    else:
        assert "interrupted" in said
    assert [t for t in lanes if there(target, t)] == []
    assert journal.left() == []


def test_protocol_cases_leave_nothing_and_tell_no_credential(mine: Path, tmp_path: Path) -> None:
    """In the vhost that they want for themselves, as a user who may do everything in it."""
    mine.write_text(mine.read_text().replace('vhost = "proof"', 'vhost = "cases"'))
    code, said = finished(
        "conformance", "--target", "mine.toml", "--section", "A1", "--section", "A4", "--run-dir", "run", cwd=tmp_path
    )
    assert code == 0, said
    verdicts = Counter(c["verdict"] for c in json.loads((tmp_path / "run" / "results.json").read_text())["cases"])
    assert verdicts["PASS"] > 20 and not {"HARNESS", "INCONCLUSIVE"} & set(verdicts), verdicts
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert [f for f in files if holds_canary(f.read_bytes())] == [] and not holds_canary(said.encode())
    assert Journal(load(mine).key).left() == []
    container = engine().containers.get(f"bp-target-{os.getpid()}-r1")
    for what, own in (("list_queues", ""), ("list_exchanges", "amq.")):
        code, kept = container.exec_run(
            ["rabbitmqctl", "-q", what, "-p", "cases", "name", "--no-table-headers"], user="rabbitmq"
        )
        assert code == 0 and all(name.startswith(own) and own for name in kept.decode().split()), kept


def test_what_others_have_under_our_name_is_not_touched(mine: Path, tmp_path: Path) -> None:
    """The same seed names the same queue: here somebody else has made it before."""
    target = load(mine)
    node = next(iter(target.nodes.values()))
    from brokerproof.plan import Destination, Plan, Workload

    load_ = Workload(destinations=(Destination(name="q", kind="queue"),), senders=())
    trial = "order.one-queue-one-consumer-rabbitmq-4.0.5-treatment-0"
    name = Plan(
        product="rabbitmq", version="4.0.5", topology="x", workload=load_, seed=7, trial=trial
    ).destination_name(0)
    with admin.channel(node.address, adopted.direct(target)) as ch:
        ch.queue_declare(name, durable=True)
        ch.basic_publish("", name, b"theirs")
    code, said = finished(
        "run", "--target", "mine.toml", "--select", "order/one-queue-one-consumer", "--seed", "7", cwd=tmp_path
    )
    # Another connection: on one that is silent all the while the broker misses heartbeats.
    with admin.channel(node.address, adopted.direct(target)) as ch:
        try:
            assert code == 4 and "somebody's data" in said.replace("\n", " ")
            assert ch.queue_declare(name, passive=True).method.message_count == 1
        finally:
            ch.queue_delete(name)


def test_check_tells_version_permissions_and_faults(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 0, said
    assert "RabbitMQ 4.0.5" in said and "publishes to and consumes bp-…" in said and "black_hole" in said
    other = tmp_path / "other.toml"
    other.write_text(mine.read_text() + '[names]\nprefix = "other-"\n')
    code, said = finished("target", "check", "other.toml", cwd=tmp_path)
    assert code == 4 and "rabbitmqctl set_permissions -p proof proof '^other-.*'" in said
    other.write_text(mine.read_text().replace('vhost = "proof"', 'vhost = "none"'))
    code, said = finished("target", "check", "other.toml", cwd=tmp_path)
    assert code == 4 and "rabbitmqctl add_vhost none" in said
    monkeypatch.setenv("PROOF_CANARY", f"{CANARY}-not")
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "check user and password" in said and not holds_canary(said.encode())


def test_nodes_are_broken_only_where_that_is_allowed(mine: Path, tmp_path: Path) -> None:
    container = f"bp-target-{os.getpid()}-r1"
    mine.write_text(
        mine.read_text().replace(
            "[access]", f'kill = "docker kill {container}"\nstart = "docker start {container}"\n[access]'
        )
    )

    def started() -> str:
        return str(engine().containers.get(container).attrs["State"]["StartedAt"])

    before = started()
    code, said = finished("run", "--target", "mine.toml", "--select", "faults/kill", "--run-dir", "no", cwd=tmp_path)
    assert code == 0, said
    (cell,) = json.loads((tmp_path / "no" / "results.json").read_text())["claims"]
    assert cell["verdict"] == "UNSUPPORTED" and "--allow-destructive" in cell["reason"]
    assert started() == before
    code, said = finished(
        "run",
        "--target",
        "mine.toml",
        "--allow-destructive",
        "--select",
        "faults/kill",
        "--run-dir",
        "yes",
        cwd=tmp_path,
    )
    assert code == 0, said
    (cell,) = json.loads((tmp_path / "yes" / "results.json").read_text())["claims"]
    assert [f["evidence"] for f in cell["treatment"]["faults"]] == ["took_effect"]
    assert "--allow-destructive" in cell["command"]
    assert started() != before
