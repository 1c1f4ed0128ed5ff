"""Protocol cases on a broker that we did not start: here the reference peers, served on loopback for a while."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from brokerproof.adopting import Adoption
from brokerproof.brokers.base import Thing
from brokerproof.conformance.adopted import lacking
from brokerproof.conformance.amqp091.model import Broker
from brokerproof.conformance.amqp091.peer import Peer
from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.kafka import sasl
from brokerproof.conformance.kafka.peer.server import Peer as KafkaPeer
from brokerproof.conformance.protocols import on_target
from brokerproof.conformance.running import Conductor, Job, Target, jobs_of
from brokerproof.conformance.way import Pace
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.results import RunFolder
from brokerproof.runtime.journal import Journal
from brokerproof.suites import suites
from brokerproof.target import load

CANARY = f"cAnary-{secrets.token_hex(12)}"
CASES = {c.id: c for c in cases_of(suites() / "conformance")}


class Served:
    """A RabbitMQ of the reference peer's making, with the vhost ``proof``."""

    def __init__(self) -> None:
        self.broker = Broker(time.monotonic)
        self.broker.add_vhost("proof")
        self.broker.add_user("proof", CANARY)
        self.broker.set_permissions("proof", "proof")
        self.peer = Peer(self.broker, 1.0)

    def file(self, folder: Path, more: str = "", vhost: str = "proof") -> Path:
        file = folder / "mine.toml"
        file.write_text(
            f'product = "rabbitmq"\nversion = "4.0.5"\n[nodes.r1]\naddress = "127.0.0.1:{self.peer.address[1]}"\n'
            f'[access]\nuser = "proof"\npassword_env = "PROOF_CANARY"\nvhost = "{vhost}"\n{more}'
        )
        return file

    def queues(self) -> frozenset[str]:
        return self.broker.entities("proof").queues


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    made = Served()
    with closing(made.peer):
        yield made


class Home:
    """``running.Home``."""

    pool: Any = None

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.folder.create(seed=1, command="")
        self.said: list[str] = []

    def cluster(self, key: Any, cell: str) -> Any:
        return nullcontext()

    def say(self, cell: str, what: str) -> None:
        self.said.append(f"{cell}: {what}")


def decided(file: Path, folder: Path, *ids: str) -> dict[str, dict[str, Any]]:
    """Entries of these cases, by id."""
    target = load(file)
    adoption = Adoption(target, target.version)
    jobs: list[Job] = [job for job in jobs_of(CASES[id.partition("@")[0]] for id in ids) if job.id in ids]
    conductor = Conductor(
        Home(folder), Target(target.product, target.version, adoption), jobs, expected_in=folder, ledger_in=folder
    )
    try:
        return {job.slug: conductor.entry(job) for job in jobs}
    finally:
        conductor.close()


def test_cases_pass_and_nothing_is_left(served: Served, tmp_path: Path, state: Path) -> None:
    """From the command line; and the password is nowhere, whoever sends it."""
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", "conformance", "--target", str(served.file(tmp_path)), "--run-dir", "run",
         "--case", "A1.01", "--case", "A4.06", "--case", "A5.07", "--case", "A1.28", "--case", "A6.07",
         "--case", "A5.01"],
        cwd=tmp_path, text=True, capture_output=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    entries = {c["case"]: c for c in json.loads((tmp_path / "run" / "results.json").read_text())["cases"]}
    verdicts = {id: c["verdict"] for id, c in entries.items()}
    assert verdicts == {
        "A1.01": "PASS", "A1.01@slicer": "SKIP", "A4.06": "PASS", "A5.07": "PASS", "A6.07": "SKIP", "A1.28": "SKIP",
        "A5.01": "PASS",
    }  # fmt: skip
    assert "administration" in entries["A1.28"]["observed"] and "proxy" in entries["A1.01@slicer"]["observed"]
    assert all(c["as_expected"] for c in entries.values())
    page = json.loads((tmp_path / "run" / entries["A5.07"]["path"]).read_text())
    assert page["command"] == f"brokerproof conformance --target {tmp_path / 'mine.toml'} --case A5.07"
    assert "bp-" in page["wire"][-1]["decoded"] + "".join(e["decoded"] for e in page["wire"])
    assert served.queues() == frozenset() == served.broker.entities("proof").exchanges
    assert Journal(load(tmp_path / "mine.toml").key).left() == []
    for file in (*tmp_path.joinpath("run").rglob("*"), *state.rglob("*")):
        data = file.read_bytes() if file.is_file() else b""
        assert CANARY.encode() not in data and CANARY.encode().hex().encode() not in data, file
    assert CANARY not in said


def test_a_dry_run_and_a_list_connect_to_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('product = "kafka"\nversion = "4.3.1"\n[nodes.k1]\naddress = "192.0.2.1:9092"\n')

    def told(*arguments: str) -> str:
        command = [sys.executable, "-m", "brokerproof", "conformance", "--target", str(file), "--section", "K2"]
        return subprocess.run([*command, *arguments], text=True, capture_output=True, check=True).stdout

    dry, listed = told("--dry-run"), told("--list")
    assert "bp-<16 hex digits>" in dry and "nothing was done" in dry and "300 requests/s" in dry
    assert "left out K2.03: others on the broker would feel it" in dry
    assert "case     K2.01 " in listed and "case     K2.03 " not in listed
    tagged = told("--list", "--tag", "no-cluster")
    assert "K2.03" in dry and "K2.03" not in tagged and "case     K2.01 " in tagged
    assert told("--dry-run", "--variant", "none-such").count("cases    0 ") == 1


def test_a_vhost_that_others_may_be_in_is_refused(served: Served, tmp_path: Path, state: Path) -> None:
    target = load(served.file(tmp_path, vhost="/"))
    with pytest.raises(UsageError, match="a vhost of their own"):
        on_target(Adoption(target, "4.0.5"), "run")


def test_a_user_who_may_not_do_what_cases_do_is_told_before(served: Served, tmp_path: Path, state: Path) -> None:
    served.broker.set_permissions("proof", "proof", configure="^bp-.*")
    target = load(served.file(tmp_path))
    with pytest.raises(UsageError, match=r"rabbitmqctl set_permissions -p proof proof"):
        on_target(Adoption(target, "4.0.5"), "run")
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", "conformance", "--target", str(tmp_path / "mine.toml"), "--case", "A4.06"],
        cwd=tmp_path, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "set_permissions" in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_cluster_of_several_kafka_brokers_is_refused(tmp_path: Path, state: Path) -> None:
    with closing(KafkaPeer(nodes=3, settings={}, scale=1.0, mutant="")) as peer:
        file = tmp_path / "mine.toml"
        file.write_text(
            f'product = "kafka"\nversion = "4.3.1"\n[nodes.k1]\naddress = "127.0.0.1:{peer.addresses[1][1]}"\n'
        )
        with pytest.raises(UsageError, match="spoken to one broker, and this cluster has 3"):
            on_target(Adoption(load(file), "4.3.1"), "run")


def test_a_name_without_the_prefix_is_not_made(served: Served, tmp_path: Path, state: Path) -> None:
    """A4.15 names two exchanges itself; before it can be made the case ends."""
    ids = [c.id for c in CASES.values() if c.slug == "amqp091/alternate-exchange"]
    found = decided(served.file(tmp_path), tmp_path / "run", *ids)
    assert [e["verdict"] for e in found.values()] == ["SKIP"] * len(found) and found
    assert all("without the target's prefix" in e["observed"] for e in found.values())
    assert served.queues() == frozenset()


def test_what_a_killed_run_left_is_known_by_name(served: Served, tmp_path: Path, state: Path) -> None:
    target = load(served.file(tmp_path))
    ground = on_target(Adoption(target, "4.0.5"), "gone-run")
    with ground.scene(CASES["A5.07"], variant="", condition="", log=WireLog(), stop=lambda: False) as scene:
        amqp: Any = scene
        amqp.connect().channel().queue()
        (queue,) = served.queues()
        left = Journal(target.key).left(lambda run: run == "gone-run")
        assert Thing("queue", queue) in left
    assert served.queues() == frozenset()


def test_what_is_looked_for_and_removed_keeps_the_pace(
    served: Served, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Pace] = []
    monkeypatch.setattr(Pace, "__call__", lambda self: turns.append(self))
    target = load(served.file(tmp_path))
    ground = on_target(Adoption(target, "4.0.5"), "a-run")
    with ground.scene(CASES["A5.07"], variant="", condition="", log=WireLog(), stop=lambda: False) as scene:
        amqp: Any = scene
        amqp.connect().channel().queue()
        things, before = Journal(target.key).left(), len(turns)
        assert amqp.admin.entities("proof").queues == served.queues() and things
        assert len(turns) == before + len(things)
    assert len(turns) >= before + 2 * len(things) and served.queues() == frozenset()


def test_a_certificate_that_is_none_is_said(served: Served, tmp_path: Path, state: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    target = load(served.file(tmp_path, more='[tls]\nca_file = "ca.pem"\n'))
    with pytest.raises(UsageError, match="expected PEM files"):
        on_target(Adoption(target, "4.0.5"), "run")


def test_kafkas_cases_run_where_brokers_say_that_they_are(tmp_path: Path, state: Path) -> None:
    peer = KafkaPeer(nodes=1, settings={}, scale=1.0, mutant="")
    with closing(peer):
        file = tmp_path / "mine.toml"
        file.write_text(
            f'product = "kafka"\nversion = "4.3.1"\n[nodes.k1]\naddress = "127.0.0.1:{peer.addresses[1][1]}"\n'
        )
        found = decided(file, tmp_path / "run", "K1.01", "K2.01", "K5.05", "K2.03")
        assert {id: e["verdict"] for id, e in found.items()} == {
            "K1.01": "SKIP", "K2.01": "PASS", "K5.05": "PASS", "K2.03": "SKIP",
        }  # fmt: skip
        made = {
            e["decoded"] for id in found for e in pages(tmp_path / "run", found[id]) if "create_topics" in e["decoded"]
        }
        assert made and all("'bp-" in text for text in made if "'topics': [{" in text)
        assert peer.cluster.topics == {}
    assert Journal(load(file).key).left() == []


def pages(run: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
    wire: list[dict[str, Any]] = json.loads((run / entry["path"]).read_text())["wire"]
    return wire


def test_scram_is_that_of_the_rfc() -> None:
    """RFC 7677, section 3."""
    nonce = "rOprNGfwEbeRWgbNEkqO"
    both = f"{nonce}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    answers = [f"r={both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="]

    def talk(*came: str) -> list[str]:
        sent, left = [], list(came)

        def send(message: bytes) -> bytes:
            sent.append(message.decode())
            return left.pop(0).encode()

        sasl.exchanged("SCRAM-SHA-256", "user", "pencil", send, nonce)
        return sent

    assert talk(*answers) == [
        f"n,,n=user,r={nonce}", f"c=biws,r={both},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    ]  # fmt: skip
    with pytest.raises(EnvironmentProblem, match="did not prove"):
        talk(answers[0], "v=AAAA")
    with pytest.raises(EnvironmentProblem, match="nonce"):
        talk(f"r=another,{answers[0].partition(',')[2]}")
    with pytest.raises(UsageError, match="mechanism"):
        sasl.exchanged("GSSAPI", "user", "pencil", lambda message: message)


def test_a_log_hides_what_it_is_told_to_hide() -> None:
    log = WireLog()
    log.hides = ("it's",)
    log.add(
        ">",
        "frame",
        b"\0me\0it's",
        decoded=f"response={chr(0)}me{chr(0)}it's {b'it' + bytes([39]) + b's'!r}",
        note=repr("it's\n"),
    )
    (entry,) = log.entries()
    assert bytes.fromhex(entry["hex"]) == b"\0me\0****" and entry["octets"] == 8
    assert "it" not in entry["decoded"].replace("***", "") and "it" not in entry["note"]


def test_what_lets_a_link_in_is_not_in_the_log_and_what_others_say_is() -> None:
    log = WireLog()
    with log.unlogged("a", "SCRAM-SHA-256 as 'me'"):
        log.add(">", "frame", b"n,,n=me,r=nonce", conn="a", decoded="nonce")
        log.add(">", "frame", b"of b", conn="b")
    log.add(">", "frame", b"after", conn="a")
    assert [e["note"] or bytes.fromhex(e["hex"]) for e in log.entries()] == [
        "not logged: SCRAM-SHA-256 as 'me'", b"of b", b"after",
    ]  # fmt: skip


def test_the_pace_is_of_all_together() -> None:
    pace, began = Pace(200), time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: pace(), range(41)))
    assert time.monotonic() - began >= 40 / 200


@pytest.mark.parametrize(
    ("id", "says"),
    [
        ("A6.07", "others on the broker"),
        ("A7.17", "consumer_timeout"),
        ("A5.14", "does not use it"),
        ("K1.06", "administration too"),
        ("A1.01", ""),
    ],
)
def test_what_a_target_does_not_give_is_said_before(id: str, says: str, served: Served, tmp_path: Path) -> None:
    found: Case = CASES[id]
    adoption = Adoption(load(served.file(tmp_path)), "4.0.5")
    reason = lacking(adoption, found, next(iter(found.variants)), "")
    assert says in reason if says else reason == ""
    assert "proxy" in lacking(adoption, CASES["A1.01"], "", "slicer")
