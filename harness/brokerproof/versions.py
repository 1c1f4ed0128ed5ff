"""Ranges of versions, as cases and capabilities name them."""

from __future__ import annotations

import re

from brokerproof.errors import HarnessError


def applies(needs: str, product: str, version: str) -> bool:
    """Whether ``rabbitmq>=3.10`` or ``kafka<4.0,kafka>=3.9`` is so. Raises HarnessError for what is no such range."""
    for part in needs.split(","):
        found = re.fullmatch(r"\s*([a-z]+)(>=|<)([\d.]+)\s*", part)
        if not found:
            raise HarnessError(f"a version range is like rabbitmq>=3.10, not {part!r}")
        name, sign, least = found.groups()
        if name == product and (_numbers(version) >= _numbers(least)) != (sign == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
