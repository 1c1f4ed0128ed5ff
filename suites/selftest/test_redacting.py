"""Credentials are found where they stand, wherever they come again, and nothing else is touched."""

from __future__ import annotations

import base64
import json

import pytest

from brokerproof.redacting import REPEATED, Redactor

SECRET = "hunter2-Tr0ub4dor"


def redacted(*files: bytes) -> list[bytes]:
    redactor = Redactor()
    for data in files:
        redactor.learn(data)
    return [redactor.redact(data)[0] for data in files]


@pytest.mark.parametrize(
    "text",
    [
        f"amqp://app:{SECRET}@broker.example:5671/vhost",
        f"connecting to https://:{SECRET}@host/",
        f'{{"password": "{SECRET}", "user": "app"}}',
        f'{{"tlsKeyPassword":"{SECRET}"}}',
        f"{{'sasl.password': '{SECRET}'}}",
        f'{{"command": "{{\\"secret_key\\": \\"{SECRET}\\"}}"}}',
        f'org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="{SECRET}";',
        f"sasl.jaas.config=org.apache.kafka.PlainLoginModule required x={SECRET};",
        f"ssl.keystore.password={SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET} other=1",
        f"accessKey: {SECRET}",
        f"Authorization: Basic {base64.b64encode(SECRET.encode()).decode()}",
        f"authorization: Bearer {SECRET}",
        f"brokerproof run --password {SECRET} --broker kafka",
        f"brokerproof run --sasl-password={SECRET}",
        f"mechanism='PLAIN' response='\\x00app\\x00{SECRET}' locale='en_US'",
        f"mechanism=&#39;PLAIN&#39; response=&#39;\\x00app\\x00{SECRET}&#39; locale",
        f"<tr><th>broker.password</th><td>{SECRET}</td></tr>",
        f"{{&#34;password&#34;: &#34;{SECRET}&#34;}}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\nMIIE\n-----END RSA PRIVATE KEY-----",
        f"cookie hash    : {SECRET}",
    ],
)
def test_a_credential_is_gone(text: str) -> None:
    (out,) = redacted(text.encode())
    assert SECRET.encode() not in out
    assert base64.b64encode(SECRET.encode()).rstrip(b"=") not in out
    assert b"[redacted]" in out


@pytest.mark.parametrize(
    "text",
    [
        "a wrong password ends the connection without a word",
        "unexpected token at line 3",
        '{"password": "", "secret": null, "token": true}',
        "password=***** secret=${SECRET} token=[hidden]",
        "connection.update-secret-ok came",
        "amqp://guest:guest@localhost:5672",
        "expireDelegationTokens to run every 5000 ms",
        "http://host:8474/proxies and user@example.org",
        '{"tokens_per_s": 5, "keys": 3, "key": 7}',
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redacted(text.encode()) == [text.encode()]


def test_a_number_leaves_json_behind() -> None:
    (out,) = redacted(b'{"password": 12345, "port": 5672}')
    assert json.loads(out) == {"password": "[redacted]", "port": 5672}


def test_a_json_file_stays_json() -> None:
    whole = {"password": 'with "quotes" and \\ in it', "url": f"amqp://u:{SECRET}@h", "n": [1, {"api_key": SECRET}]}
    (out,) = redacted(json.dumps(whole, indent=1).encode())
    assert json.loads(out) == {
        "password": "[redacted]",
        "url": "amqp://u:[redacted]@h",
        "n": [1, {"api_key": "[redacted]"}],
    }


def test_a_value_that_is_known_is_found_in_every_other_file_and_writing() -> None:
    octets = b"\0app\0" + SECRET.encode()
    elsewhere = "\n".join(
        [
            f"logged in with {SECRET} at last", octets.hex(), octets.hex(" "), octets.hex().upper(),
            *(base64.b64encode(b"x" * n + octets).decode() for n in range(3)), SECRET.replace("-", "%2D"),
        ]
    )  # fmt: skip
    settings, log = redacted(json.dumps({"password": SECRET}).encode(), elsewhere.encode())
    lines = log.decode().splitlines()
    assert lines[0] == "logged in with [redacted] at last"
    assert lines[1:4] == ["0061707000[redacted]", "00 61 70 70 00 [redacted]", "0061707000[redacted]"]
    for line, n in zip(lines[4:7], range(3), strict=True):
        assert "[redacted]" in line, line
        rest = base64.b64encode(b"x" * n + octets).decode()
        assert rest not in line
    assert json.loads(settings) == {"password": "[redacted]"}


def test_an_encoded_password_of_a_url_is_known_as_it_is() -> None:
    _, log = redacted(b"amqps://app:p%40ss-w0rd!x@host", b"password is p@ss-w0rd!x, they say")
    assert log == b"password is [redacted], they say"


def test_a_short_word_is_not_hunted() -> None:
    settings, log = redacted(b'{"user": "ann", "password": "guest"}', b"user guest may read")
    assert (b"guest" in settings, log) == (False, b"user guest may read")


def test_octets_keep_their_length() -> None:
    binary = b"\0\1ARROW" + SECRET.encode() + b"\0\2"
    redactor = Redactor()
    redactor.learn(f"password={SECRET}".encode())
    out, counts = redactor.redact(binary)
    assert out == b"\0\1ARROW" + b"*" * len(SECRET) + b"\0\2"
    assert counts == {REPEATED: 1}


def test_counts_say_what_was_there() -> None:
    redactor = Redactor()
    data = f"amqp://a:{SECRET}@h\npassword={SECRET}\nand {SECRET}".encode()
    redactor.learn(data)
    out, counts = redactor.redact(data)
    assert counts == {"password in a URL": 1, "credential setting": 1, REPEATED: 1}
    assert redactor.redact(out) == (out, {})


def test_a_long_file_is_looked_through_to_its_end() -> None:
    data = b"x" * 3_000_000 + f"\npassword={SECRET}\n".encode() + b"y" * 100_000
    (out,) = redacted(data)
    assert out == b"x" * 3_000_000 + b"\npassword=[redacted]\n" + b"y" * 100_000
