"""Users, permissions, policies and limits of the reference peer: what its administration sets and nobody routes by.

Source: RabbitMQ's documents on access control, policies and limits. Permissions are regular expressions on names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from brokerproof.conformance.amqp091.routing import allowed


@dataclass(frozen=True, slots=True)
class Permissions:
    """Regular expressions on the names of queues and exchanges; the default exchange is ``amq.default`` here."""

    configure: str = ".*"
    write: str = ".*"
    read: str = ".*"

    def allow(self, right: str, name: str) -> bool:
        return allowed(getattr(self, right), name)


@dataclass(slots=True)
class User:
    """permissions: by vhost; where there is none the user may not even open it.

    topics: (vhost, exchange) -> regular expressions on the routing key, to write and to read.
    """

    name: str
    password: str
    permissions: dict[str, Permissions] = field(default_factory=dict)
    topics: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)

    def may(self, right: str, vhost: str, name: str) -> bool:
        has = self.permissions.get(vhost)
        return has is not None and has.allow(right, name or "amq.default")

    def may_use_key(self, right: str, vhost: str, exchange: str, key: str) -> bool:
        """right: write or read. Without a topic permission on the exchange every key is allowed."""
        has = self.topics.get((vhost, exchange))
        return has is None or allowed(has[0] if right == "write" else has[1], key)


@dataclass(frozen=True, slots=True)
class Policy:
    """definition: settings by name, without ``x-``. apply_to: queues, exchanges or all. The highest priority wins."""

    pattern: str
    definition: Mapping[str, object]
    apply_to: str = "all"
    priority: int = 0

    def is_for(self, kind: str, name: str) -> bool:
        return self.apply_to in ("all", kind) and re.search(self.pattern, name) is not None


@dataclass(slots=True)
class Policies:
    """Of one vhost, by name."""

    of: dict[str, Policy] = field(default_factory=dict)

    def setting(self, kind: str, name: str, setting: str) -> object:
        """What the policies say of a queue's or exchange's setting; None: nothing. One policy applies, not a mix."""
        mine = [p for p in self.of.values() if p.is_for(kind, name)]
        return max(mine, key=lambda p: p.priority).definition.get(setting) if mine else None
