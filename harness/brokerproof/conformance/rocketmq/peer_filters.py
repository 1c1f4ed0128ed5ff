"""How the reference broker filters what is pulled and popped: tags by their hash, as the vendor documents it, and a little SQL."""

from __future__ import annotations

import re
from collections.abc import Callable

from brokerproof.conformance.rocketmq import codes
from brokerproof.conformance.rocketmq.peer_entities import Refused
from brokerproof.wire.rocketmq import Stored


def java_hash(text: str) -> int:
    """String.hashCode."""
    value = 0
    for char in text:
        value = (31 * value + ord(char)) & 0xFFFFFFFF
    return value


def matcher(expression: str, kind: str, *, bug: str = "") -> Callable[[Stored], bool]:
    """Raises Refused for an expression that cannot be read. Of SQL only ``x IS NOT NULL`` and ``x > n`` joined by AND."""
    if kind == "TAG":
        if expression in ("*", ""):
            return lambda m: True
        wanted = {t.strip() for t in expression.split("||")}
        if bug == "exact_tags":
            return lambda m: m.properties.get("TAGS", "") in wanted
        hashes = {java_hash(t) for t in wanted}
        return lambda m: java_hash(m.properties.get("TAGS", "")) in hashes
    terms = []
    for term in expression.split(" AND "):
        found = re.fullmatch(r"(\w+) (?:IS NOT NULL|> (\d+))", term.strip())
        if found is None and bug != "reads_any_expression":
            raise Refused(codes.SUBSCRIPTION_PARSE_FAILED, "cannot be parsed")
        terms.append(found.groups() if found else ("a", None))
    if bug == "unfiltered":
        return lambda m: True
    return lambda m: all(
        name in m.properties and (least is None or int(m.properties[name]) > int(least)) for name, least in terms
    )
