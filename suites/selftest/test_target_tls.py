"""A RabbitMQ with TLS that we did not start: the certificate is checked, also through the proxy, and faults bite."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokerproof.brokers import tls
from brokerproof.brokers.base import LONGER_OCTETS
from brokerproof.runtime import images
from brokerproof.runtime.journal import Journal
from brokerproof.runtime.node import client as engine
from brokerproof.runtime.proxy import exchange
from brokerproof.target import load
from brokerproof.waiting import wait_until

CANARY = f"cAnary-{secrets.token_hex(12)}"
PORT = 19295
RULES = ("^bp-.*", r"^(bp-.*|amq\.default)$", "^bp-.*")


def test_a_client_hello_is_one_whole_record_and_the_longer_one_is_long() -> None:
    opening = tls.opening("rabbit.example")
    for hello in (opening.greeting, opening.longer):
        assert hello[0] == 22 and len(hello) == 5 + int.from_bytes(hello[3:5], "big")
        assert b"rabbit.example" in hello
    assert len(opening.longer) > LONGER_OCTETS > len(opening.greeting)


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        (b"", False), (b"\x16\x03\x03\x00", False), (b"\x16\x03\x03\x00\x05abcd", False), (b"\x16\x03\x03\x00\x04abcd", True),
        (b"\x15\x03\x03\x00\x02\x02\x28", False), (b"\x16\x03\x03\x00\x01a\x16\x03", True),
    ],
)  # fmt: skip
def test_an_alert_is_no_answer(answer: bytes, is_one: bool) -> None:
    assert tls.answered(answer) is is_one


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ca.pem of a RabbitMQ whose certificate is for rabbit.example, and for nothing else."""
    if shutil.which("openssl") is None:
        pytest.fail(
            "no openssl on this machine, which makes this test's certificates: apt-get install openssl", pytrace=False
        )
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rabbit.example", "-addext",
         "subjectAltName=DNS:rabbit.example", "-keyout", "key.pem", "-out", "ca.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    conf = "listeners.tcp = none\nlisteners.ssl.default = 5671\nlog.console = true\nssl_options.cacertfile = /etc/rabbitmq/ca.pem\n"
    conf += "ssl_options.certfile = /etc/rabbitmq/ca.pem\nssl_options.keyfile = /etc/rabbitmq/key.pem\nssl_options.verify = verify_none\n"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in (
            ("rabbitmq.conf", conf.encode()), *((n, (folder / n).read_bytes()) for n in ("ca.pem", "key.pem")),
        ):  # fmt: skip
            entry = tarfile.TarInfo(f"etc/rabbitmq/{name}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    container = engine().containers.create(
        images.ensure("rabbitmq", "4.0.5").tag, name=f"bp-target-tls-{os.getpid()}", mem_limit="1g",
        labels={"brokerproof-test": "target"}, cgroup_parent=os.environ.get("BROKERPROOF_TEST_CGROUP", ""),
        ports={"5671/tcp": ("127.0.0.1", PORT)},
    )  # fmt: skip
    try:
        container.put_archive("/", archive.getvalue())
        container.start()
        hello = tls.opening("rabbit.example")
        wait_until(
            lambda: exchange(("127.0.0.1", PORT), hello.longer, hello.whole, 2.0).answered, 180, "the RabbitMQ of somebody else",
            last_state=lambda: container.logs(tail=20).decode(),
        )  # fmt: skip
        for command in (
            ["await_startup"], ["add_vhost", "proof"], ["add_user", "proof", CANARY],
            ["set_permissions", "-p", "proof", "proof", *RULES], ["add_vhost", "cases"],
            ["set_permissions", "-p", "cases", "proof", ".*", ".*", ".*"],
        ):  # fmt: skip
            code, said = container.exec_run(["rabbitmqctl", *command], user="rabbitmq")
            assert code == 0, said
        yield folder
    finally:
        container.remove(force=True, v=True)


def finished(*arguments: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof", *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=400, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.container
def test_claims_are_decided_through_tls(
    secured: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    (tmp_path / "password").write_text(f"{CANARY}\n")
    (tmp_path / "password").chmod(0o600)
    named = 'server_name = "rabbit.example"\n'
    text = (
        f'product = "rabbitmq"\n[nodes.r1]\naddress = "127.0.0.1:{PORT}"\n[access]\nuser = "proof"\npassword_file = "password"\n'
        f'vhost = "proof"\n[tls]\nca_file = "{secured / "ca.pem"}"\n{named}'
    )
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(named, ""))
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 4 and "certificate" in said, "a name that the certificate does not have was taken"
    file.write_text(text)
    code, said = finished("target", "check", "mine.toml", cwd=tmp_path)
    assert code == 0 and "RabbitMQ 4.0.5" in said and "TLS" in said, said
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
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == []


@pytest.mark.container
def test_protocol_cases_are_decided_inside_tls(
    secured: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOF_CANARY", CANARY)
    file = tmp_path / "mine.toml"
    file.write_text(
        f'product = "rabbitmq"\n[nodes.r1]\naddress = "127.0.0.1:{PORT}"\n[access]\nuser = "proof"\npassword_env = "PROOF_CANARY"\n'
        f'vhost = "cases"\n[tls]\nca_file = "{secured / "ca.pem"}"\nserver_name = "rabbit.example"\n'
    )
    code, said = finished("conformance", "--target", "mine.toml", "--section", "A2", "--run-dir", "run", cwd=tmp_path)
    assert code == 0, said
    cases = json.loads((tmp_path / "run" / "results.json").read_text())["cases"]
    verdicts = Counter(c["verdict"] for c in cases)
    assert verdicts.total() - verdicts["SKIP"] > 10 and not {"HARNESS", "INCONCLUSIVE"} & set(verdicts), verdicts
    assert any("inside TLS" in c["observed"] for c in cases if c["condition"] == "cut")
    files = [f for f in (tmp_path / "run").rglob("*") if f.is_file()]
    assert [f for f in files if CANARY.encode() in f.read_bytes()] == [] and CANARY not in said
    assert Journal(load(file).key).left() == []
    code, kept = engine().containers.get(f"bp-target-tls-{os.getpid()}").exec_run(
        ["rabbitmqctl", "-q", "list_queues", "-p", "cases", "name", "--no-table-headers"], user="rabbitmq"
    )  # fmt: skip
    assert (code, kept.split()) == (0, [])
