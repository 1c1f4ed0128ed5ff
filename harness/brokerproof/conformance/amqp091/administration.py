"""What AMQP itself cannot do, and cases need: users, permissions, limits, alarms, restarts.

A real broker does it by its own administration, the reference peer by its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Entities:
    """What a vhost holds. queues, exchanges: by name, those of the broker itself (``amq.``) and the default one left out.
    bindings: (source, kind and name of the destination, key), those of the default exchange left out."""

    queues: frozenset[str] = frozenset()
    exchanges: frozenset[str] = frozenset()
    bindings: frozenset[tuple[str, str, str]] = field(default=frozenset())


class Administration(Protocol):
    """Raises EnvironmentProblem where the broker does not do as told: none of this is under test."""

    def add_vhost(self, vhost: str) -> None: ...
    def delete_vhost(self, vhost: str) -> None:
        """No error when it is gone."""

    def add_user(self, user: str, password: str) -> None: ...
    def delete_user(self, user: str) -> None:
        """No error when it is gone."""

    def permit(self, user: str, vhost: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Permissions as regular expressions over names; replaces those that are there."""

    def forbid(self, user: str, vhost: str) -> None:
        """Takes all permissions on the vhost away."""

    def permit_topics(self, user: str, vhost: str, exchange: str, *, write: str = ".*", read: str = ".*") -> None:
        """Permissions on the routing keys of a topic exchange."""

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, Any], apply_to: str = "all"
    ) -> None: ...
    def clear_policy(self, vhost: str, name: str) -> None: ...

    def limit_vhost(self, vhost: str, limits: Mapping[str, int]) -> None:
        """``max-connections``, ``max-queues``; replaces all; empty: none."""

    def limit_user(self, user: str, limits: Mapping[str, int]) -> None:
        """``max-connections``, ``max-channels``; replaces all; empty: none."""

    def entities(self, vhost: str) -> Entities: ...
    def queue(self, vhost: str, name: str) -> Mapping[str, Any] | None:
        """``durable``, ``exclusive``, ``auto_delete``, ``arguments`` as administration shows them; None: no such queue."""

    def setting(self, name: str) -> Any:
        """A setting in force, in the vendor's words (``max_message_size``, ``consumer_timeout``); None: not set."""

    def default(self, name: str) -> Any:
        """What the setting is on an untouched configuration; None: not set."""

    def memory(self) -> int:
        """Octets that the first node uses now."""

    def raise_alarm(self) -> None:
        """A memory alarm on the first node; raising one that is there says so again."""

    def clear_alarm(self) -> None: ...
    def restart(self, how: Literal["stop", "kill"], node: int = 0) -> None:
        """Ends the node (``stop``: SIGTERM), starts it again and waits until all is healthy."""

    def down(self, how: Literal["stop", "kill"], node: int = 0) -> None: ...
    def up(self, node: int = 0) -> None:
        """Starts a node that is down, and waits until all is healthy."""

    def nodes(self) -> Sequence[str]: ...
