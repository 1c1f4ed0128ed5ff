"""Credentials are found where they stand, wherever they come again, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import json
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerproof.history import COLUMNS, FUNCTIONS, HistoryWriter, Meta, read_history
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
        f"<password>{SECRET}</password>",
        f"<ns:sasl.password encrypted='no'> {SECRET} </ns:sasl.password>",
        f"<secret><![CDATA[{SECRET}]]></secret>",
        f'<property name="db.password" value="{SECRET}"/>',
        f'<property value="{SECRET}" name="db.password"/>',
        f'<entry key="ssl.key.password">{SECRET}</entry>',
        f"CONNECT\nlogin:app\npasscode:{SECRET}\n",
        f"passcode: {SECRET}",
        f"token: {SECRET}",
        f"session_token: {SECRET}",
        f"password=${SECRET}",
        f"secret=[{SECRET}",
        f"SaslAuthenticate auth_bytes=b'\\x00app\\x00{SECRET}'",
        f"{{'auth_bytes': b'\\x00app\\x00{SECRET}'}}",
        f"auth_bytes={(chr(0) + 'app' + chr(0) + SECRET).encode().hex()}",
        f"auth_bytes: {base64.b64encode((chr(0) + 'app' + chr(0) + SECRET).encode()).decode()}",
        json.dumps({"response": f"\0app\0{SECRET}"}),
        json.dumps({"auth_bytes": (chr(0) + "app" + chr(0) + SECRET).encode().hex()}),
        json.dumps({"response": "\5LOGINS\0\0\0\3app\bPASSWORDS\0\0\0" + chr(len(SECRET)) + SECRET}),
        json.dumps({"decoded": f"response='\\x00app\\x00{SECRET}'"}),
        json.dumps({"passwords": 1, "x": {"password": [SECRET, SECRET]}}),
        f'[info] before\n{{"password": "{SECRET}"}}\nafter',
        f"apiKey: {SECRET}",
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
        # Kafka's kinds of requests.
        "RequestHeader(apiKey: FETCH, apiVersion: 13) apiKey=API_VERSIONS, api_key: 18",
        '{"api_key": 18, "apiKey": "Produce"}',
        "unexpected token: EOF",
        '{"response": "200 OK", "auth_bytes": ""}',
        "password=$SECRET password=${SECRET} password={{ secret }} secret=(none)",
        "<password></password><token/>",
        '{"password": ["", null, true], "next": "word"}',
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


def test_what_a_sasl_response_holds_is_known() -> None:
    octets = f"\0app\0{SECRET}".encode()
    for log in (
        json.dumps({"response": octets.decode()}), json.dumps({"auth_bytes": octets.hex()}), f"auth_bytes=b'{str(octets)[2:-1]}'",
        f"response={base64.b64encode(octets).decode()}",
    ):  # fmt: skip
        assert redacted(log.encode(), f"then {SECRET} came".encode())[1] == b"then [redacted] came", log


@pytest.mark.parametrize(
    "secret", ["Grüße-an-alle", "пароль-12", "密码密码密码", 'tab\tand-quote"s', "back\\slash-9", "a&b<c>-long"]
)
def test_a_password_in_any_writing_is_found_in_any_other(secret: str) -> None:
    said = secret.replace("\t", "")  # what has blanks in it is a sentence, and not hunted
    settings = json.dumps({"password": said}).encode()
    elsewhere = [
        json.dumps({"x": f"a {said} b"}), json.dumps({"x": f"a {said} b"}, ensure_ascii=False), f"a {said} b",
        f"a {said.encode()!r} b", f"a {urllib.parse.quote(said, safe='')} b", f"<td>{html.escape(said)}</td>", said.encode().hex(" "),
    ]  # fmt: skip
    _, *out = redacted(settings, *(text.encode() for text in elsewhere))
    for text, found in zip(elsewhere, out, strict=True):
        assert b"[redacted]" in found and said.encode() not in found, (text, found)
    assert [json.loads(found) for found in out[:2]] == [{"x": "a [redacted] b"}] * 2
    # And the other way round: written as it is in a log, with escapes in JSON.
    if not set(said) & set('"\\&<> '):
        assert json.loads(redacted(f"password={said}".encode(), settings)[1]) == {"password": "[redacted]"}


def test_a_word_that_names_something_is_redacted_where_it_stands_only() -> None:
    """A password like a key, or like the name of a broker: the run has to be readable afterwards."""
    settings = json.dumps({"password": "treatment", "user": "a"}), json.dumps({"password": "rabbitmq"})
    results = json.dumps(
        {"treatment": {"trials": 3}, "broker": "rabbitmq", "trial_ids": ["order-rabbitmq-treatment-0"]}
    )
    *said, out = redacted(*(text.encode() for text in (*settings, results)))
    assert out.decode() == results
    assert [json.loads(text)["password"] for text in said] == ["[redacted]"] * 2
    # Anything else is hunted in keys too.
    _, keyed = redacted(b"password=Tr0ub4dor", b'{"Tr0ub4dor": 1}')
    assert json.loads(keyed) == {"[redacted]": 1}


def test_no_rule_reaches_from_one_string_into_the_next() -> None:
    whole = {
        "a": "password='x",
        "b": "it's",
        "c": 'secret="',
        "d": 'y"',
        "e": "token: ",
        "f": "kept",
        "g": "jaas.config=",
        "h": 'z"',
    }
    (out,) = redacted(json.dumps(whole).encode())
    assert json.loads(out) == {**whole}


def test_a_match_beside_an_escape_leaves_json_in_a_page_whole() -> None:
    """A page holds JSON in a script, and is no JSON itself."""
    page = (
        '<script type="application/json">{"a": "x\\nabcdefgh1 y", "b": "abcdefg2\\"", "c": "\\u00e4bcdefgh3"}</script>'
    )
    _, _, _, out = redacted(
        b"password=nabcdefgh1", b"token=u00e4bcdefgh3", json.dumps({"secret": "abcdefg2\\"}).encode(), page.encode()
    )
    inside = json.loads(out.decode().partition(">")[2].rpartition("<")[0])
    assert set(inside) == {"a", "b", "c"} and "abcdefgh1" not in inside["a"] and "bcdefgh3" not in inside["c"]


# -- whatever comes ----------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=12) | st.sampled_from(
    [
        "password",
        "token: ",
        "secret=",
        "'",
        '"',
        "\\",
        "=$x",
        "<password>",
        "://u:p@h",
        "api_key",
        "response",
        "\0a\0b",
        "\ud800",
    ]
)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SECRETS = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters="\x7f"), min_size=8, max_size=16
).filter(
    lambda s: (
        not re.search(r"\s|[$%{}()<>\[\]*]", s)
        and not re.fullmatch(r"[0-9.eE+-]+|[A-Z_]+", s)
        and s.lower() != "undefined"
    )
)


def shape(value: Any) -> Any:
    """What stays of a JSON value when texts, and numbers that may stand for credentials, are taken away."""
    if isinstance(value, dict):
        return [shape(item) for item in value.values()]
    return (
        [shape(item) for item in value]
        if isinstance(value, list)
        else ""
        if isinstance(value, str | int | float)
        else value
    )


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


@settings(max_examples=150, deadline=None)
@given(
    whole=JSONS, secret=SECRETS, ascii=st.booleans(), place=st.sampled_from(["a{}b", "{}", "x {} y", "{0}{0}", "'{}'"])
)
def test_json_stays_json_and_the_secret_is_gone(whole: Any, secret: str, ascii: bool, place: str) -> None:
    made = {"n": whole, "password": secret, "list": [place.format(secret)]}
    for data in (json.dumps(made, ensure_ascii=ascii or "\\ud800" in json.dumps(made)), json.dumps(made, indent=1)):
        (out,) = redacted(data.encode())
        found = json.loads(out)
        assert shape(found["n"]) == shape(whole)
        assert found["password"] == "[redacted]"
        assert not any(secret in text for text in texts(found)) or re.fullmatch("[a-z_.-]+", secret)
        redactor = Redactor()
        redactor.learn(out)
        assert redactor.redact(out) == (out, {})


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(JSONS.map(lambda v: {"v": v}), min_size=1, max_size=4), secret=SECRETS, torn=st.integers(0, 6))
def test_every_line_of_json_stays_one(lines: list[Any], secret: str, torn: int) -> None:
    rows = [json.dumps(line) for line in [*lines, {"said": f"with {secret}"}]]
    log = ("\n".join(rows) + '\n{"torn": "password=' + secret)[: -torn or None]
    _, out = redacted(json.dumps({"secret": secret}).encode(), log.encode("utf-8", "surrogatepass"))
    found = out.split(b"\n")
    assert len(found) == len(rows) + 1
    assert [shape(json.loads(row)) for row in found[:-1]] == [shape(json.loads(row)) for row in rows]


@settings(max_examples=30, deadline=None)
@given(
    words=st.lists(
        st.sampled_from([name for name, _ in COLUMNS] + list(FUNCTIONS) + ["quorum-1-control-0", "a-timeout"]),
        max_size=5,
    )
)
def test_a_history_stays_one(words: list[str]) -> None:
    """Whatever word somebody took as password, the names of a history's own format too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "history.arrow")
        with HistoryWriter(file, Meta(trial="quorum-1-control-0", broker="memory", version="sound")) as writer:
            columns = {name: np.arange(5).astype(kind) % 3 for name, kind in COLUMNS}
            writer.write(columns, ["", "a-timeout", "b"])
        data = file.read_bytes()
        *_, out = redacted(*(json.dumps({"password": word}).encode() for word in words), data)
        assert len(out) == len(data)
        file.write_bytes(out)
        history = read_history(file)
        for name, _ in COLUMNS:
            assert (history[name] == columns[name]).all(), name
