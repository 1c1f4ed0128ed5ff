"""Names of files for things whose own names may be anything: a readable part, and a digest that keeps them apart."""

from __future__ import annotations

import hashlib
import re

#: Octets of a name that every file system takes, with room for what stands around it.
_READABLE_MAX = 80


def file_name(*parts: str) -> str:
    """The same parts give the same name on every machine; different parts different ones, whatever the case of letters."""
    readable = (
        re.sub(r"[^a-z0-9.]+", "-", "-".join(p for p in parts if p).lower()).strip("-.")[:_READABLE_MAX].strip("-.")
    )
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts 3.10 after 3.9, and A1.10 after A1.9."""
    return [(int(p), "") if p.isdecimal() and len(p) < 9 else (-1, p) for p in re.split(r"(\d+)", name) if p]
