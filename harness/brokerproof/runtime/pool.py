"""Clusters that outlive a cell: keyed by what they are, kept up between cells, leased one cell at a time.

The pool is a folder of the run: a lock file and a state file per cluster. Any worker process of the run that leases a
key takes the lock, then attaches to the cluster that is up or starts it. So the pool has no process that could die,
and two runs, which have two folders, never meet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brokerproof.brokers.base import Adjustable, Cluster, adopting, broker
from brokerproof.errors import HarnessError
from brokerproof.plan import Plan
from brokerproof.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterKey:
    """What makes two clusters the same. settings, live: JSON, keys sorted. equipment: see ``Plan.equipment``."""

    product: str
    version: str
    topology: str
    settings: str
    #: Those of the settings that a running cluster takes: clusters that differ in nothing else are one cluster.
    live: str = "{}"
    equipment: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, product: str, version: str, topology: str, settings: Mapping[str, Any], equipment: Sequence[str] = ()
    ) -> ClusterKey:  # fmt: skip
        taken = broker(product).live_settings
        live = {name: value for name, value in settings.items() if name in taken}
        return cls(
            product=product, version=version, topology=topology, settings=json.dumps(settings, sort_keys=True),
            live=json.dumps(live, sort_keys=True), equipment=tuple(sorted(equipment)),
        )  # fmt: skip

    @classmethod
    def of_plan(cls, plan: Plan) -> ClusterKey:
        return cls.of(plan.product, plan.version, plan.topology, plan.settings, plan.equipment)

    @property
    def cluster(self) -> ClusterKey:
        """The cluster that serves this key, whatever its live settings are at the moment."""
        live = json.loads(self.live)
        settings = {name: value for name, value in json.loads(self.settings).items() if name not in live}
        return replace(self, settings=json.dumps(settings, sort_keys=True), live="{}")

    @property
    def slug(self) -> str:
        digest = hashlib.sha256(
            "/".join((self.version, self.topology, self.settings, *self.equipment)).encode()
        ).hexdigest()
        return f"{self.product}-{digest[:6]}"


class Pool:
    """run: id of the run, part of every container's name.  folder: where locks and states lie."""

    def __init__(self, *, run: str, folder: Path, target: Target | None = None) -> None:
        """target: a cluster that somebody else runs, which every lease of its product stands on."""
        self._run = run
        self._target = target
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._attached: dict[ClusterKey, Cluster] = {}
        #: Their names: another worker may have replaced one under its key since.
        self._names: dict[ClusterKey, str] = {}
        #: Those that a thread of this process has at the moment.
        self._leased: set[ClusterKey] = set()

    @contextmanager
    def lease(
        self, key: ClusterKey, *, progress: Callable[[str], None], needed: Container[ClusterKey] = ()
    ) -> Iterator[Cluster]:  # fmt: skip
        """The cluster, alone, until the block ends. One that was spoilt (``spoil``) is replaced at the next lease.

        needed: clusters (``ClusterKey.cluster``) that are leased again later; others of the same product are removed
        now.  Raises ProvisionError where a running cluster does not take a live setting.
        """
        base = key.cluster
        with self._lock(base).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._leased.add(base)
            try:
                self._close_others(base, needed)
                cluster = self._up(base, progress)
                if isinstance(cluster, Adjustable):
                    # Also where nothing differs from the default: whoever had it before may have left something else.
                    cluster.adjust(json.loads(key.live))
                yield cluster
            finally:
                self._leased.discard(base)

    def spoil(self, key: ClusterKey) -> None:
        """The cluster did not pass its health check: it is removed, and the next lease starts another."""
        cluster = self._attached.pop(key.cluster, None)
        self._state(key.cluster).unlink(missing_ok=True)
        if cluster is not None:
            cluster.close()

    def _close_others(self, key: ClusterKey, needed: Container[ClusterKey]) -> None:
        """Two cores do not carry several clusters of each product."""
        for other in [k for k in self._attached if k.product == key.product and k != key]:
            if other not in needed:
                self._retire(other)

    def close(self) -> None:
        for key in list(self._attached):
            self._retire(key)

    def _retire(self, key: ClusterKey) -> None:
        """Removes the cluster, unless another worker of the run has it: that one removes it, or the run's sweep does."""
        if key in self._leased:
            return
        with self._lock(key).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._attached.pop(key, None)
                return
            self.spoil(key)

    def _up(self, key: ClusterKey, progress: Callable[[str], None]) -> Cluster:
        try:
            name = str(json.loads(self._state(key).read_text())["name"])
        except (OSError, ValueError, KeyError):
            name = ""
        if key in self._attached and name and name == self._names.get(key):
            return self._attached[key]
        if name:
            cluster = self._taken(key, name, progress, attach=True)
        else:
            # Every start has a name of its own: what is left of a spoilt cluster can not be taken for the new one.
            name = f"bp-{self._run[-9:].lower()}-{key.slug}-{int(time.time() * 10) % 46656:x}"
            started = time.monotonic()
            cluster = self._taken(key, name, progress, attach=False)
            if not isinstance(cluster, Cluster):
                raise HarnessError(f"{key.product}: start returned {type(cluster).__name__}, which is no Cluster")
            progress(f"{key.product} {key.version} {key.topology} up after {time.monotonic() - started:.1f} s")
            self._state(key).write_text(json.dumps({"name": name}))
        self._attached[key], self._names[key] = cluster, name
        return cluster

    def _taken(self, key: ClusterKey, name: str, progress: Callable[[str], None], *, attach: bool) -> Cluster:
        if self._target is not None and key.product == self._target.product:
            return adopting(key.product).adopt(
                self._target, version=key.version, topology=key.topology, name=name, run=self._run, attach=attach,
                progress=progress,
            )  # fmt: skip
        product, settings = broker(key.product), json.loads(key.settings)
        if attach:
            return product.attach(
                version=key.version, topology=key.topology, settings=settings, name=name, run=self._run
            )
        return product.start(
            version=key.version, topology=key.topology, settings=settings, name=name, run=self._run,
            equipment=key.equipment, progress=progress,
        )  # fmt: skip

    def _lock(self, key: ClusterKey) -> Path:
        return self._folder / f"{key.slug}.lock"

    def _state(self, key: ClusterKey) -> Path:
        return self._folder / f"{key.slug}.json"
