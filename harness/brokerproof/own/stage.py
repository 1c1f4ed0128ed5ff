"""Where an experiment's arms run: one cluster, a trial's folder for each arm, and the verdict over them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from brokerproof import run
from brokerproof.effects.base import SQL, Guard, Message, World
from brokerproof.effects.base import make as guard_of
from brokerproof.effects.sql import Sql
from brokerproof.effects.store import Store
from brokerproof.errors import PlanError
from brokerproof.experiment import Cell
from brokerproof.faults.base import Scene
from brokerproof.overlap import Ledger
from brokerproof.own.experiment import Own
from brokerproof.own.faults import HEALTHY_S, Faults
from brokerproof.own.recording import Recording
from brokerproof.own.target import Target
from brokerproof.results import write_json
from brokerproof.runtime.pool import ClusterKey
from brokerproof.verdict import ArmResult, TrialResult

ArmName = Literal["sham", "control", "treatment"]
#: The sham first, on a broker that has been through nothing.
ARMS: tuple[ArmName, ...] = ("sham", "control", "treatment")
T = TypeVar("T")


class Arm:
    """The arm that runs. ``name``: sham (as the control, no fault is injected), control or treatment."""

    def __init__(self) -> None:
        self.name: ArmName = "treatment"

    def of(self, *, treatment: T, control: T) -> T:
        """What this arm is to use."""
        return treatment if self.name == "treatment" else control

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Applying:
    """A guard of ``brokerproof list effects`` on a real database, in a space of this arm's own. For one thread."""

    guard: Guard
    world: World

    def apply(self, id: int) -> str:
        """Has the effect of that message, once if the guard is any good; ``done``, ``seen`` or ``stale``."""
        return self.guard.apply(Message(id), self.world)

    def shown(self) -> dict[int, int]:
        """id -> how often the world shows its effect."""
        return dict(self.guard.shown(self.world))


class Effects:
    """Real databases: started when they are first asked for, each arm with a space of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def store(self, product: str) -> Store:
        """Where it is, for drivers of one's own. product: ``postgresql``, ``mariadb`` or ``redis``; the schema, database or
        prefix of keys ``store.space`` is this arm's own, and empty."""
        store = self._stage.store(product)
        if product in SQL:
            sql = Sql(store)
            sql.make_space()
            sql.close()
        return store

    def guard(self, name: str, sql: str = "postgresql", **options: Any) -> Applying:
        """Raises UsageError for a guard or option that does not exist."""
        made = guard_of(name, options)
        world = World([self._stage.store(sql if need == "sql" else need) for need in made.needs])
        self._stage.on_end(world.close)
        made.prepare(world)
        return Applying(made, world)


class Stage:
    """One experiment. ``on``: its broker.  ``play``: calls the function for each arm, and judges."""

    def __init__(self, session: run.Session, own: Own, cell: Cell) -> None:
        """cell: broker and version are those of the product that the test asks for."""
        self.session, self.own, self.cell = session, own, cell
        self.arm, self.history = Arm(), Recording()
        self.faults = Faults(self.history)
        self.effects = Effects(self)
        self._target: Target | None = None
        self._names: list[str] = []
        self._trial = ""
        self._ledger = Ledger()
        #: An arm was cut off, or left the cluster ill: nobody else gets it.
        self._ill = False
        self._ends: list[Callable[[], None]] = []

    @contextmanager
    def on(self, product: str, version: str, topology: str, settings: dict[str, Any]) -> Iterator[Target]:
        """The broker of the experiment, leased while the block runs."""
        if self._target is not None:
            raise PlanError(f"an experiment has one broker; this one asks for {self._target.product} and {product}")
        self.cell = replace(self.cell, broker=product, version=version)
        key = ClusterKey.of(product, version, topology, settings)
        try:
            with self.session.cluster(key, self.cell.slug) as cluster:
                self._target = Target(cluster, self._name)
                try:
                    yield self._target
                finally:
                    if self._ill:
                        self.session.pool.spoil(key)
        finally:
            self.history.close()

    def play(self, call: Callable[[], None]) -> dict[str, Any]:
        """Every trial's arms, then the entry of ``results.json``. What the function raises ends the experiment."""
        if self._target is None:
            raise PlanError("an experiment asks for a broker: the fixture rabbitmq, kafka or rocketmq")
        clock = time.monotonic()
        found: dict[str, list[TrialResult]] = {arm: [] for arm in ARMS}
        for n in range(self.own.trials[self.cell.profile]):
            for arm in ARMS:
                self.session.say(self.cell.slug, f"{arm}, trial {n + 1}")
                found[arm].append(self._trial_of(arm, n, call))
        arms = {arm: ArmResult(trials=tuple(trials)) for arm, trials in found.items() if trials}
        has_faults = any(t.faults for t in found["treatment"])
        if not has_faults:
            arms.pop("sham", None)
        return run.conclude(
            self.session, self.cell, arms, has_faults=has_faults, command=f"pytest {self.cell.node_id}", clock=clock
        )  # fmt: skip

    def store(self, product: str) -> Store:
        """The database, in this arm's space."""
        space = "s" + hashlib.sha256(f"{self.session.folder.id}/{self._trial}".encode()).hexdigest()[:12]
        found: Store = self.session.stand(product, self.cell.slug).store
        return replace(found, space=space)

    def on_end(self, close: Callable[[], None]) -> None:
        """Called when the arm is over."""
        self._ends.append(close)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _trial_of(self, arm: ArmName, n: int, call: Callable[[], None]) -> TrialResult:
        assert self._target is not None
        self._trial, self._names = f"{self.cell.slug}-{arm}-{n}", []
        self.arm.name = arm
        folder = self.session.folder.trial(self._trial)
        self._target.cluster.wait_healthy(HEALTHY_S)  # an arm says nothing on what the one before has left ill
        self.history.begin(
            folder, seed=self.cell.seed, broker=self._target.product, version=self._target.version
        )  # fmt: skip
        self._ledger = Ledger()
        self.faults.begin(self._scene, sham=arm == "sham")
        with ExitStack() as ends:
            ends.callback(self._end, folder)
            self._ill = True
            call()
        self._ill = bool(self.faults.unrecovered)
        return run.evaluate(folder, self.own.claim.deciding)

    def _end(self, folder: Any) -> None:
        with ExitStack() as ends:
            ends.callback(self._target.cluster.save_logs, folder / "logs")  # type: ignore[union-attr]
            ends.callback(self.history.end)
            for close in self._ends:
                ends.callback(close)
            self._ends = []
            records = self.faults.end()
            write_json(
                folder / "faults.json",
                {"schema": 1, "lane_age_s": -1.0, "clients": {}, "unrecovered": self.faults.unrecovered,
                 "injections": [r.to_json() for r in records]},
            )  # fmt: skip

    def _scene(self) -> Scene:
        assert self._target is not None
        return Scene(cluster=self._target.cluster, destinations=tuple(self._names[:1]), ledger=self._ledger)

    def _name(self, text: str) -> str:
        digest = hashlib.sha256(f"{self.session.folder.id}/{self._trial}".encode()).hexdigest()[:16]
        name = f"bp-{digest}-{text}"
        if name not in self._names:
            self._names.append(name)
        return name
