"""Target files: what they say, what they refuse, and where credentials are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from brokerproof.credentials import reveal, told, wipe
from brokerproof.errors import EnvironmentProblem, UsageError
from brokerproof.target import Target, load
from brokerproof.targeting import init, template

CANARY = "cAnary-0b1d-Secret"
PLAIN = """
product = "rabbitmq"
[nodes.r1]
address = "rabbit-1.example.com"
[access]
user = "proof"
password_env = "PROOF_PASSWORD"
"""


def read(tmp_path: Path, text: str) -> Target:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return load(file)


@pytest.mark.parametrize("product", ["rabbitmq", "kafka", "rocketmq"])
def test_what_init_writes_can_be_read(product: str, tmp_path: Path) -> None:
    init(product, tmp_path / "t.toml")
    target = load(tmp_path / "t.toml")
    assert (target.product, target.prefix, target.messages_per_s) == (product, "bp-", 300.0)
    assert target.password == {"env": "BROKERPROOF_PASSWORD"}
    with pytest.raises(UsageError, match="is there"):
        init(product, tmp_path / "t.toml")


def test_every_commented_key_of_the_template_is_one(tmp_path: Path) -> None:
    """Without their marks the lines that are commented out are a target file, too."""
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("")
    lines = []
    for line in template("rabbitmq").splitlines():
        bare = line.removeprefix("# ")
        keyed = line.startswith("# ") and (bare[:1] == "[" or (bare.partition(" ")[0].islower() and " = " in bare))
        lines.append(bare if keyed and "password_file" not in line and "version" not in line else line)
    target = read(tmp_path, "\n".join(lines))
    assert target.tls is not None and target.tls.server_name == "rabbit.example.com"
    assert target.mechanism == "EXTERNAL"
    assert set(target.nodes["n1"].commands) == {"kill", "start"} and target.nodes["n1"].container


def test_defaults_are_the_products(tmp_path: Path) -> None:
    target = read(tmp_path, PLAIN)
    assert target.nodes["r1"].address == ("rabbit-1.example.com", 5672)
    assert not target.on_loopback
    (tmp_path / "ca.pem").write_text("")
    assert read(tmp_path, PLAIN + '[tls]\nca_file = "ca.pem"').nodes["r1"].address[1] == 5671
    assert read(tmp_path, PLAIN.replace("rabbit-1.example.com", "[::1]:5673")).on_loopback


def test_the_proxy_is_what_can_be_had_unless_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "mytoxi").write_text("")
    assert read(tmp_path, PLAIN).toxiproxy == ""
    assert read(tmp_path, f'{PLAIN}[toxiproxy]\nas = "container"').toxiproxy == "container"
    named = read(tmp_path, f'{PLAIN}[toxiproxy]\nserver = "mytoxi"')
    assert (named.toxiproxy, named.toxiproxy_server) == ("local", str(tmp_path / "mytoxi"))
    for wrong in ('as = "podman"', 'as = "container"\nserver = "mytoxi"'):
        with pytest.raises(UsageError, match=r"toxiproxy\.as is .*expected \"container\", or \"local\""):
            read(tmp_path, f"{PLAIN}[toxiproxy]\n{wrong}")
    with pytest.raises(UsageError, match="there is no file"):
        read(tmp_path, f'{PLAIN}[toxiproxy]\nserver = "none"')


@pytest.mark.parametrize(
    "text",
    [
        f'password = "{CANARY}"', f'Password = "{CANARY}"', f'user_secret = "{CANARY}"', f'token = "{CANARY}"',
        f'vhost = "amqp://u:{CANARY}@host"',
    ],
)  # fmt: skip
def test_a_literal_credential_is_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, PLAIN.replace('password_env = "PROOF_PASSWORD"', text))
    assert CANARY not in str(raised.value)
    assert "_env" in str(raised.value) and "mine.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("rabbitmq", "activemq"), "unknown product"),
        (("rabbitmq", "rocketmq"), "speak to its gRPC proxy"),
        (("address", "adress"), "did you mean 'address'"),
        (("rabbit-1.example.com", "http://x/"), "expected host:port"),
        (("rabbit-1.example.com", "x:99999"), "expected host:port"),
        (("[nodes.r1]", "[nodes]"), "expected a table"),
        (("[access]", "[limits]\nmessages_per_s = 0\n[access]"), "expected 1 to 1000000"),
        (("[access]", '[names]\nprefix = "*"\n[access]'), "a letter first"),
        (("[access]", '[tls]\nca_file = "no.pem"\n[access]'), "there is no file"),
        (("[access]", '[access]\npassword_file = "x"'), "keep one"),
        (("[access]", "[acess]"), "did you mean 'access'"),
    ],
)
def test_what_is_wrong_is_said(change: tuple[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        read(tmp_path, PLAIN.replace(*change))


def test_no_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target init"):
        load(tmp_path / "none.toml")


def test_credentials_are_revealed_from_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = read(tmp_path, PLAIN)
    monkeypatch.delenv("PROOF_PASSWORD", raising=False)
    with pytest.raises(UsageError, match="PROOF_PASSWORD is not set"):
        reveal(target.password)
    monkeypatch.setenv("PROOF_PASSWORD", CANARY)
    assert reveal(target.password) == CANARY
    (tmp_path / "secret").write_text(f"{CANARY}2\nmore\n")
    other = read(tmp_path, PLAIN.replace("password_env", "password_file").replace("PROOF_PASSWORD", "secret"))
    assert reveal(other.password) == f"{CANARY}2"
    assert told(other.password) == f"file {tmp_path / 'secret'}"
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(UsageError, match="first line is empty"):
        reveal(other.password)


def test_nothing_that_is_told_of_a_target_holds_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF_PASSWORD", CANARY)
    target = read(tmp_path, PLAIN)
    assert CANARY not in repr(target) + json.dumps(target.public()) + target.access_in_words() + target.key
    assert "PROOF_PASSWORD" not in json.dumps(target.public())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--broker", "kafka"], "one of them"), (["--workers", "2"], "add up"), (["--allow-destructive", "--dry-run"], ""),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_target_is_refused(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from brokerproof.cli import app

    (tmp_path / "mine.toml").write_text(PLAIN)
    asked = ["run", "--target", str(tmp_path / "mine.toml"), "--select", "order", *words]
    if says:
        with pytest.raises(UsageError, match=says):
            app(asked, standalone_mode=False)
        return
    app(asked, standalone_mode=False)
    assert "nothing was done" in capsys.readouterr().out


def test_options_of_a_target_need_one() -> None:
    from brokerproof.cli import app

    for option in ("--dry-run", "--allow-destructive"):
        with pytest.raises(UsageError, match="about a --target"):
            app(["run", "--broker", "memory", option], standalone_mode=False)


def test_what_was_spilt_is_overwritten_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF_PASSWORD", CANARY)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "faults.json").write_text(f'{{"sasl.password": "{CANARY}"}}')
    (tmp_path / "clean.json").write_text("{}")
    found = wipe(tmp_path, [{"env": "PROOF_PASSWORD"}, {"env": "NOT_THERE"}, "", "short"])
    assert found == [tmp_path / "deep" / "faults.json"]
    assert found[0].read_text() == f'{{"sasl.password": "{"*" * len(CANARY)}"}}'
    assert wipe(tmp_path, [{"env": "PROOF_PASSWORD"}]) == []


def test_a_run_on_a_broker_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brokerproof.cli import app

    monkeypatch.setenv("PROOF_PASSWORD", CANARY)
    file = tmp_path / "mine.toml"
    file.write_text(PLAIN.replace("rabbit-1.example.com", "127.0.0.1:1"))
    with pytest.raises(EnvironmentProblem, match=r"does not answer.*target check") as raised:
        app(["run", "--target", str(file), "--select", "order"], standalone_mode=False)
    assert CANARY not in str(raised.value)
