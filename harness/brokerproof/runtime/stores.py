"""Databases of a run: a container each, from Debian's packages, on a loopback port.

    stand = stores.start("postgresql", run=..., name=...)     ready to be asked
    stand.store                                               where it is, as a value (``effects.store.Store``)
    stand.node                                                kill, stop, start, pause, as with a broker's node
    stand.close()

They carry the labels of the run, as brokers do: ``clean`` finds what a killed harness left. Nothing breaks their links,
so they stand on the engine's own network, and the port is theirs for as long as the container is.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

from brokerproof.effects.base import SQL
from brokerproof.effects.sql import Sql
from brokerproof.effects.store import Store
from brokerproof.errors import EnvironmentProblem
from brokerproof.runtime import images, sweep
from brokerproof.runtime.ground import LOOPBACK, published_ports
from brokerproof.runtime.node import (
    LABEL_CLUSTER,
    LABEL_MEMORY,
    LABEL_OWNER,
    LABEL_RUN,
    ContainerNode,
    client,
    engine_errors,
)
from brokerproof.waiting import wait_until

_PORTS = {"postgresql": 5432, "mariadb": 3306, "redis": 6379}
_MEMORY_MB = {"postgresql": 512, "mariadb": 512, "redis": 256}
#: What makes Redis put each change on its disk before it answers (redis.io, persistence).
KEEPS = ("--appendonly", "yes", "--appendfsync", "always")
#: MariaDB stands for MySQL, which has no such thing: from 11.6.2 on (its documentation, innodb_snapshot_isolation) it
#: refuses, at repeatable read, to change a row that was changed since the snapshot (error 1020), and so guards by itself
#: what is no guard elsewhere.
_ARGUMENTS = {"mariadb": ("--innodb-snapshot-isolation=OFF",)}
_READY_S = 60
#: Another process may take a port between the moment that it was found free and the container's start.
_TRIES = 3


def missing() -> str:
    """Why none can be started on this machine, in a sentence; "" one can."""
    try:
        client()
    except EnvironmentProblem as exc:
        return f"its effects are in a database of ours, in a container: {exc}"
    return ""


class Stand:
    """A database that runs. Implements ``faults.base.Database``."""

    def __init__(self, store: Store, node: ContainerNode) -> None:
        self.store, self.node = store, node

    @property
    def product(self) -> str:
        return self.store.product

    def wait_ready(self) -> None:
        """Until it answers a question. Raises ProvisionError with its last log lines where its container has exited."""
        what = f"{self.product} of {self.node.container_name!r}"

        def answers() -> bool:
            self.node.ensure_running(f"waiting for {what}")
            return self._ask()

        wait_until(answers, _READY_S, f"{what} to answer", retry_on=_refused(self.product))

    def kill(self) -> None:
        self.node.kill()

    def start(self) -> None:
        """Raises ProvisionError where it does not come to answer."""
        if self.node.state() != "running":
            self.node.start()
        self.wait_ready()

    def answers(self) -> bool:
        try:
            return self._ask()
        except _refused(self.product):
            return False

    def holds(self) -> str:
        if self.product in SQL:
            return "holds tables"
        redis = self.store.redis()
        with contextlib.closing(redis):
            return f"holds {redis.dbsize()} keys"

    def _ask(self) -> bool:
        if self.product in SQL:
            sql = Sql(self.store)
            with contextlib.closing(sql):
                return bool(sql.ask("SELECT 1"))
        redis = self.store.redis()
        with contextlib.closing(redis):
            return bool(redis.ping())

    def close(self) -> None:
        """Removes the container; safe to call twice."""
        sweep.remove(cluster=self.node.container_name.removesuffix(f"-{self.node.name}"))


def start(product: str, *, run: str, name: str, arguments: Sequence[str] = ()) -> Stand:
    """Starts a database and waits until it answers. Raises EnvironmentProblem.

    name: of the container, with the product after it; unique on the engine.
    arguments: the server's own, e.g. ``--appendonly yes`` (Redis) or ``-c fsync=off`` (PostgreSQL).
    """
    image = images.ensure(product)
    # The same for whoever knows the run and the container, and of no use elsewhere: the port is on loopback only.
    password = hashlib.sha256(f"{run}/{name}/{product}".encode()).hexdigest()[:32]
    sweep.register(run)
    for left in reversed(range(_TRIES)):
        try:
            port = _run(image.tag, product, run, name, password, arguments)
            break
        except EnvironmentProblem as exc:
            sweep.remove(cluster=name)
            if left == 0 or not ("port is already allocated" in str(exc) or "address already in use" in str(exc)):
                raise
    stand = Stand(
        Store(product=product, host=LOOPBACK, port=port, password=password),
        ContainerNode(cluster=name, name=product, address=LOOPBACK),
    )
    try:
        stand.wait_ready()
    except BaseException:
        stand.close()
        raise
    return stand


def _run(image: str, product: str, run: str, name: str, password: str, arguments: Sequence[str]) -> int:
    """Makes and starts the container; its port on loopback."""
    with published_ports(1) as (port,):
        pass
    memory = f"{_MEMORY_MB[product]}m"
    labels = {
        LABEL_RUN: run, LABEL_CLUSTER: name, LABEL_OWNER: sweep.owner_label(run),
        LABEL_MEMORY: str(_MEMORY_MB[product]),
    }  # fmt: skip
    options: dict[str, Any] = {"mem_limit": memory, "memswap_limit": memory, "labels": labels}
    with engine_errors(f"starting {product} from image {image!r}"):
        client().containers.run(
            image, [*_ARGUMENTS.get(product, ()), *arguments], name=f"{name}-{product}", detach=True,
            environment={"STORE_PASSWORD": password},
            ports={f"{_PORTS[product]}/tcp": (LOOPBACK, port)}, **options,
        )  # fmt: skip
    return port


def _refused(product: str) -> tuple[type[BaseException], ...]:
    """What the driver raises while the server is not there yet."""
    if product == "postgresql":
        import psycopg

        return (psycopg.OperationalError,)
    if product == "mariadb":
        import pymysql

        return (pymysql.err.OperationalError,)
    import redis

    return (redis.ConnectionError,)
