"""How a Kafka client is let in: the settings of librdkafka that an endpoint says besides its addresses.

``client``: settings without secrets.  ``secrets``: setting -> where its value is found (``credentials``).  ``properties``: a file
of settings, one ``name=value`` a line, which the client's own process reads: what is in it goes nowhere else.
Source: librdkafka, CONFIGURATION.md; the form of the file is Java's, as far as both agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brokerproof.credentials import reveal
from brokerproof.errors import UsageError
from brokerproof.target import Target

#: Of a client properties file: what Java's clients call otherwise, or what is ours to say.
_OURS = ("bootstrap.servers", "group.id", "client.id")
_JAVA = ("sasl.jaas.config", "ssl.truststore.location", "ssl.keystore.location", "key.serializer", "value.serializer")


def client(endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with their secrets, for the process that connects. Raises UsageError where one is not there."""
    found = dict(endpoint.get("client", {}))
    if endpoint.get("properties"):
        found |= properties(Path(endpoint["properties"]))
    return found | {name: reveal(place) for name, place in endpoint.get("secrets", {}).items()}


def of(target: Target) -> dict[str, Any]:
    """The part of an endpoint that says how one is let in; no secret is in it."""
    tls, sasl = target.tls, bool(target.user or target.mechanism)
    client: dict[str, Any] = {}
    if tls is not None or sasl:
        client["security.protocol"] = ("sasl_" if sasl else "") + ("ssl" if tls is not None else "plaintext")
    secrets: dict[str, Any] = {}
    if sasl:
        client |= {"sasl.mechanism": target.mechanism or "PLAIN", "sasl.username": target.user}
        secrets["sasl.password"] = target.password
    if tls is not None:
        named = {"ssl.ca.location": tls.ca, "ssl.certificate.location": tls.cert, "ssl.key.location": tls.key}
        client |= {name: value for name, value in named.items() if value}
        if not tls.verify:
            client["enable.ssl.certificate.verification"] = False
        # Clients dial the proxy: the name on the certificate is not that of the address.
        client["ssl.endpoint.identification.algorithm"] = "none"
        if tls.key_password:
            secrets["ssl.key.password"] = tls.key_password
    return {"client": client, "secrets": secrets, "properties": target.client_properties}


def properties(path: Path) -> dict[str, str]:
    """Raises UsageError with the line's number, never with what is in it."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as exc:
        raise UsageError(f"client properties {str(path)!r}: {exc}") from exc
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip()[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"client properties {str(path)!r}, line {number}: expected name=value")
        if name in _JAVA:
            raise UsageError(
                f"client properties {str(path)!r}, line {number}: {name} is of Java's client; librdkafka's are sasl.username, "
                "sasl.password, ssl.ca.location, ssl.certificate.location, ssl.key.location (PEM)"
            )
        if name not in _OURS:
            found[name] = value.strip()
    return found
