"""Runs on a Kafka that we did not start, with SASL, and proxies that its listeners tell."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import confluent_kafka.admin as kafka_admin
import pytest

from brokerproof.brokers.kafka import adopted, ask, config, settings
from brokerproof.brokers.kafka.access import client, of, properties
from brokerproof.errors import UsageError
from brokerproof.runtime import images
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.node import client as engine
from brokerproof.target import Target, load
from brokerproof.waiting import wait_until

CANARY = f"cAnary-{secrets.token_hex(12)}"
#: Where the broker's own listener is published; those of ours are where the snippet says.
PORT = 19294
FILE = f"""\
product = "kafka"
version = "4.3.1"
[nodes.k1]
address = "127.0.0.1:{PORT}"
[access]
user = "proof"
password_env = "PROOF_CANARY"
mechanism = "PLAIN"
"""


@dataclass
class Told:
    """As much of a ``Job`` as says how it is let in."""

    endpoint: object


def written(tmp_path: Path, text: str = FILE) -> Target:
    (tmp_path / "mine.toml").write_text(text)
    return load(tmp_path / "mine.toml")


def test_an_endpoint_says_where_the_password_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    endpoint = of(written(tmp_path))
    assert endpoint["client"]["security.protocol"] == "sasl_plaintext"
    assert CANARY not in repr(endpoint)
    assert client(endpoint)["sasl.password"] == CANARY
    job = Told(endpoint)
    config = {"acks": "all", **client(endpoint), "on_delivery": print}
    assert settings.tellable(job, config) == {"acks": "all"}  # type: ignore[arg-type]  # it asks for the endpoint only


def test_a_client_properties_file_is_read_where_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text(f"# ours\nsasl.password={CANARY}\nbootstrap.servers=elsewhere:1\n\nsecurity.protocol = sasl_ssl\n")
    text = FILE.partition("[access]")[0] + '[kafka]\nclient_properties = "client.properties"\n'
    endpoint = of(written(tmp_path, text))
    assert CANARY not in repr(endpoint)
    assert client(endpoint) == {"sasl.password": CANARY, "security.protocol": "sasl_ssl"}
    file.write_text(f'sasl.jaas.config=org.example.Module required password="{CANARY}";')
    with pytest.raises(UsageError, match="of Java's client") as raised:
        properties(file)
    assert CANARY not in str(raised.value)


def test_brokers_are_known_by_the_address_that_they_tell(tmp_path: Path) -> None:
    one = written(tmp_path)
    assert adopted.names_of(one, {7: ("elsewhere", 1)}) == {7: "k1"}
    two = written(tmp_path, FILE.replace("[access]", '[nodes.k2]\naddress = "b:2"\n[access]'))
    assert adopted.names_of(two, {1: ("127.0.0.1", PORT), 2: ("b", 2), 3: ("c", 3)}) == {1: "k1", 2: "k2"}


def test_without_a_version_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Kafka tells clients no version"):
        adopted.AdoptsKafka().version_of(written(tmp_path, FILE.replace('version = "4.3.1"\n', "")))


def with_snippet(tmp_path: Path) -> tuple[dict[str, str], str]:
    """What the snippet of ``target check`` adds to the broker's properties, and to the target file."""
    lines = adopted.snippet(written(tmp_path)).splitlines()
    cut = lines.index("target file:")
    return (
        dict(line.strip().split("=", 1) for line in lines[1:cut]), "\n".join(line.strip() for line in lines[cut + 1 :]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka with SASL PLAIN, whose listeners have what the snippet adds; the text of the target file that goes with it."""
    added, proxies = with_snippet(tmp_path_factory.mktemp("snippet"))
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_proof="{CANARY}";'
    names = ["CLIENTS", "PROOFPRODUCER", "PROOFCONSUMER"]
    props = {
        "process.roles": "broker,controller", "node.id": "1", "controller.quorum.voters": "1@127.0.0.1:9093",
        "listeners": f"CLIENTS://:9092,INSIDE://:9094,CONTROLLERS://:9093,{added['listeners']}",
        "advertised.listeners": f"CLIENTS://127.0.0.1:{PORT},INSIDE://127.0.0.1:9094,{added['advertised.listeners']}",
        "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLERS:PLAINTEXT,"
        + added["listener.security.protocol.map"],
        "inter.broker.listener.name": "INSIDE", "controller.listener.names": "CONTROLLERS", "log.dirs": config.DATA,
        "sasl.enabled.mechanisms": "PLAIN", "listener.name.clients.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.clients.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        **{f"listener.name.{n.lower()}.plain.sasl.jaas.config": jaas for n in names},
        "offsets.topic.replication.factor": "1", "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1", "auto.create.topics.enable": "false",
    }  # fmt: skip
    text = "".join(f"{key}={value}\n" for key, value in props.items())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in config.files("4.3.1", text, "target", 384).items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
    container = engine().containers.create(
        images.ensure("kafka", "4.3.1").tag, ["/bin/sh", config.START], entrypoint="", name=f"bp-target-kafka-{os.getpid()}",
        mem_limit="1g", labels={"brokerproof-test": "target"},
        cgroup_parent=os.environ.get("BROKERPROOF_TEST_CGROUP", ""),
        ports={"9092/tcp": ("127.0.0.1", PORT), "19091/tcp": ("127.0.0.1", 19091), "19092/tcp": ("127.0.0.1", 19092)},
    )  # fmt: skip
    try:
        container.put_archive("/", archive.getvalue())
        container.start()
        wait_until(
            lambda: bool(ask.features(("127.0.0.1", PORT), 2.0)), 180, "the Kafka of somebody else", retry_on=(ask.NoAnswer, OSError),
            last_state=lambda: container.logs(tail=20).decode(),
        )  # fmt: skip
        yield FILE.replace("[access]", f"{proxies}\n[access]")
    finally:
        container.remove(force=True, v=True)


def finished(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.container
def test_what_the_snippet_sets_lets_links_be_broken(
    kafka: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    target = written(tmp_path, kafka)
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 0, said
    assert "links of producer: its listener tells clients our proxies" in said
    assert "creates, writes to, reads and deletes topics bp-" in said
    code, said = finished(
        "run",
        "--target",
        "mine.toml",
        "--select",
        "producer/resend-duplicates",
        "--seed",
        "7",
        "--run-dir",
        "run",
        cwd=tmp_path,
    )
    assert code == 0 and "HOLDS" in said, said
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert len(files) > 20
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == [] and CANARY not in said
    known = adopted.metadata(adopted.admin_of(target, [f"127.0.0.1:{PORT}"]), target)
    assert [name for name in known.topics if name.startswith("bp-")] == []
    assert Journal(target.key).left() == []


@pytest.mark.container
def test_listeners_that_tell_other_addresses_are_seen(
    kafka: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    written(tmp_path, kafka.replace("port = 19191", "port = 19195"))
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "clients of group producer are told 127.0.0.1:19191" in said
    assert "advertised.listeners=PROOFPRODUCER://127.0.0.1:19191" in said
    written(tmp_path)
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 0 and "no link can be broken" in said
    monkeypatch.setenv("PROOF_CANARY", "wrong")
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "check user, password and mechanism" in said


@pytest.mark.container
def test_protocol_cases_are_let_in_by_scram_and_leave_nothing(
    kafka: str, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    at = [f"127.0.0.1:{PORT}"]
    how = kafka_admin.ScramCredentialInfo(kafka_admin.ScramMechanism.SCRAM_SHA_512, 4096)
    by_plain = adopted.admin_of(written(tmp_path, FILE), at)
    made = by_plain.alter_user_scram_credentials(
        [kafka_admin.UserScramCredentialUpsertion("scrammed", how, CANARY.encode())]
    )
    made["scrammed"].result(30)
    target = written(tmp_path, FILE.replace('"proof"', '"scrammed"').replace('"PLAIN"', '"SCRAM-SHA-512"'))
    code, said = finished(
        "conformance", "--target", "mine.toml", "--section", "K2", "--section", "K5", "--run-dir", "run", cwd=tmp_path
    )
    assert code == 0, said
    cases = json.loads((tmp_path / "run" / "results.json").read_text())["cases"]
    verdicts = Counter(c["verdict"] for c in cases)
    assert verdicts["PASS"] > 8 and not {"HARNESS", "INCONCLUSIVE"} & set(verdicts), verdicts
    pages = [json.loads((tmp_path / "run" / c["path"]).read_text())["wire"] for c in cases if c["verdict"] == "PASS"]
    assert all(any(e["note"] == "not logged: SCRAM-SHA-512 as 'scrammed'" for e in wire) for wire in pages)
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == [] and CANARY not in said
    known = adopted.metadata(adopted.admin_of(target, at), target)
    assert [name for name in known.topics if name.startswith("bp-")] == []
    groups = adopted.admin_of(target, at).list_consumer_groups().result(30).valid
    assert [g.group_id for g in groups if g.group_id.startswith("bp-")] == []
    assert Journal(target.key).left() == []
