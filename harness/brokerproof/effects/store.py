"""Where a database is, as a value that goes over a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: How long a connection may take to be made.
CONNECT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """product: ``postgresql``, ``mariadb`` (MySQL) or ``redis``.  space: schema, database or prefix of keys, which keeps
    one trial's world apart from another's."""

    product: str
    host: str
    port: int
    password: str
    space: str = "main"

    def to_json(self) -> Mapping[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        return f"Store({self.product} at {self.host}:{self.port}, space {self.space!r})"  # and not the password

    def redis(self) -> Any:
        """A client of redis-py: one connection, and no command is ever sent twice by the library."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis(
            host=self.host, port=self.port, password=self.password, decode_responses=True, retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_S, single_connection_client=True,
        )  # fmt: skip
