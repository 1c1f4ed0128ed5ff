"""Where a credential is found: a variable of the environment, or a file. What travels is the place, never the value.

    {"env": "BROKER_PASSWORD"}     {"file": "/run/secrets/broker"}     "guest"

The first two are what a target file may say; the last is of a broker of our own, and protects nothing. Endpoints, plans,
results and what goes to load processes hold the place; ``reveal`` is called by whoever opens the connection, in its own
process, at that moment. So a value cannot get into a file by being part of something that is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from brokerproof.errors import UsageError

#: A shorter value stands in files as a word of its own.
WIPED_MIN = 8
#: A place, as JSON; or a value that is no secret.
Credential = str | Mapping[str, str]


def reveal(credential: Credential) -> str:
    """The value. Of a file the first line. Raises UsageError, naming the place, where there is none."""
    if isinstance(credential, str):
        return credential
    if name := credential.get("env"):
        value = os.environ.get(name, "")
        if not value:
            raise UsageError(
                f"credential from the environment: {name} is not set, or empty; export it where brokerproof is started"
            )
        return value
    file = Path(credential.get("file", ""))
    try:
        value = file.read_text().partition("\n")[0].rstrip("\r")
    except (OSError, ValueError) as exc:
        raise UsageError(f"credential from the file {str(file)!r}: {exc}; it has to be readable, one line") from exc
    if not value:
        raise UsageError(f"credential from the file {str(file)!r}: its first line is empty")
    return value


def wipe(folder: Path, credentials: Iterable[Credential]) -> list[Path]:
    """Writes over every value of these that stands in a file below, octet for octet; returns the files. The net below all
    else: a client library that puts its settings into an error's text is not ours to know.

    Values of less than ``WIPED_MIN`` characters are left alone: they are words as well.
    """
    values = []
    for credential in credentials:
        with contextlib.suppress(UsageError):  # what nobody can read now cannot have been written
            values.append(reveal(credential).encode())
    found = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()):
        data = file.read_bytes()
        for value in (v for v in values if len(v) >= WIPED_MIN and v in data):
            data = data.replace(value, b"*" * len(value))
            file.write_bytes(data)
            found.append(file)
    return list(dict.fromkeys(found))


def told(credential: Credential) -> str:
    """Where it comes from, for people."""
    if isinstance(credential, str):
        return "built in"
    return f"environment {credential['env']}" if "env" in credential else f"file {credential['file']}"
