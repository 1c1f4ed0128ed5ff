"""The settings that decide what outlives a crash, shown beside every cell: only like may be compared with like.

Names are the vendors' own, as ``results.json`` has them; a setting that a cell leaves alone is shown with its default.
"""

from __future__ import annotations

from collections.abc import Mapping

from brokerproof.promises import settings_of
from brokerproof.render.folder import Json, mapping, text

Pairs = tuple[tuple[str, str], ...]

#: Product -> names in the order in which they are shown. Of a product that is not here, all settings are shown.
DURABILITY: Mapping[str, tuple[str, ...]] = {
    "rabbitmq": ("x-queue-type", "durable", "delivery_mode", "confirm", "mode", "ha-mode", "ha-params", "ack", "fsync_void"),
    "kafka": (
        "acks", "enable.idempotence", "transactional", "replication.factor", "min.insync.replicas", "flush.messages", "flush.ms",
        "unclean.leader.election.enable", "isolation.level", "ack", "fsync_void",
    ),
    "rocketmq": ("send", "flushdisktype", "brokerrole", "message.type", "ack", "fsync_void"),
    "memory": ("confirm", "ack", "max-length"),
}  # fmt: skip
#: Shown only where they differ from this: naming them everywhere would hide the others.
_QUIET = {"fsync_void": "false", "max-length": "none", "isolation.level": "read_committed"}
#: The vendor's own spelling of what ``settings_of`` hands out in lower case.
_SPELLING = {"flushdisktype": "flushDiskType", "brokerrole": "brokerRole"}
_UPPER = ("flushdisktype", "brokerrole", "message.type")


def durability(entry: Json, arm: str = "treatment") -> Pairs:
    """(name, value) of one arm of a claim; empty where the entry has no configuration."""
    configuration = mapping(mapping(entry.get("configuration")).get(arm))
    if not configuration:
        return ()
    product = text(entry.get("broker"))
    try:
        found = settings_of(product, configuration)
    except (AttributeError, TypeError, ValueError):
        return ()  # a damaged entry: its page says what it holds
    if found["receivers"] == "0":
        found.pop("ack", None)  # nobody receives: it would be the default of nothing
    names = DURABILITY.get(product, tuple(sorted(set(found) - {"receivers"})))
    return tuple(
        (_SPELLING.get(name, name), found[name].upper() if name in _UPPER else found[name])
        for name in names
        if name in found and found[name] != _QUIET.get(name)
    )


def said(pairs: Pairs) -> str:
    """The settings in one line: what tells two configurations of one cell apart."""
    return ", ".join(f"{name}={value}" for name, value in pairs)
