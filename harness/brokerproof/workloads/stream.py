"""The workload ``stream``: senders and receivers on queues or topics, then a final read by fresh clients.

    start receivers -> start senders -> (faults) -> senders end -> (heal, healthy) -> receivers go quiet -> final read

Several trials (the arms of a cell) run side by side as one ``Block``: they share the clock and every injection, so
that the same fault hits all of them at the same moment.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof.brokers.base import Cluster
from brokerproof.effects.base import Guard, Measures, World, make
from brokerproof.effects.store import Store
from brokerproof.errors import DeadlineError, HarnessError
from brokerproof.faults.base import ACTIVE
from brokerproof.history import INJECTOR, OK, F, Meta
from brokerproof.loadprocess import LoadSpec
from brokerproof.plan import Plan
from brokerproof.recorder import TAPES
from brokerproof.tape import Segment, Tape
from brokerproof.waiting import wait_until
from brokerproof.workloads import truth
from brokerproof.workloads.crew import STOP_S, Crew, Scribe, Worker, wait_idle
from brokerproof.workloads.progress import Progress

#: Load starts this long after its processes were told: time for the word to reach all of them.
LEAD_S = 0.3
#: How long a kill waits for its consumer to be at work.
IN_WORK_S = 15.0
#: A client that has not connected by then is replaced by a fresh process: before the load, nothing is at stake yet.
#: Client libraries get stuck, most of all in a process that has served another trial.
STUCK_S = 10.0
#: How long its replacement may take before the load starts without it.
CONNECT_S = 60.0


#: How many times the deadline of the drain is granted anew to receivers that get on.
_DRAINS = 5
_FUNCTIONS = {code: name for name, code in F.items()}


@dataclass(slots=True)
class _Client:
    """One client slot: what it does, who does it now, and under which generation."""

    slot: int
    role: str
    part: int  # index among the plan's senders or receivers
    worker: Worker | None = None
    generation: int = 0
    killed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


class LiveTrial:
    """One trial while it runs."""

    def __init__(
        self, plan: Plan, cluster: Cluster, folder: Path, crew: Crew, scribe: Scribe, zero_ns: int,
        stores: Sequence[Store] = (),
    ) -> None:  # fmt: skip
        """stores: databases that the plan's effects are in, where they are not lines of a ledger."""
        self.plan, self.cluster, self.folder = plan, cluster, folder
        self._stores = [replace(store, space=f"t{plan.trial_number:016x}") for store in stores]
        for guard, world in self._guards():
            guard.prepare(world)
            world.close()
        self._crew, self._scribe, self._zero_ns = crew, scribe, zero_ns
        w = plan.workload
        self._clients = [
            *(_Client(i, "producer", i) for i in range(len(w.senders))),
            *(_Client(len(w.senders) + i, "consumer", i) for i in range(len(w.receivers))),
        ]
        self._progress = Progress(
            folder, len(w.roles), lambda role: {c.slot for c in self._clients if c.role == role}
        )  # fmt: skip
        self._readers: list[_Client] = []
        self._doomed: list[_Client] = []
        self.problems: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(plan.dumps())
        scribe.open(folder, self._meta())
        self.injector = Tape(folder / TAPES, slot=INJECTOR, slots=len(w.roles), zero_ns=zero_ns)

    def _meta(self) -> Meta:
        w = self.plan.workload
        lanes = []
        for d, p in w.lanes:
            dest = w.destinations[d]
            lanes.append({"name": f"{dest.name}-{p}" if dest.kind == "log" else dest.name, "kind": dest.kind})
        routes: dict[str, list[dict[str, Any]]] = {}
        for d, dest in enumerate(w.destinations):
            # Which topic-partition a message lands in is the client's choice: any of the topic's is right.
            if dest.partitions > 1:
                mine = range(w.first_lane(d), w.first_lane(d) + dest.partitions)
                for lane in mine:
                    routes[str(lane)] = [{"lane": other, "must": False} for other in mine]
        return Meta(
            trial=self.plan.trial, seed=self.plan.seed, broker=self.plan.product, version=self.plan.version,
            lanes=tuple(lanes), routes=routes, processes=w.roles, groups=self._groups(),
        )  # fmt: skip

    def _groups(self) -> tuple[str, ...]:
        """Who has to get each message. Where consumed messages stay, the final read is a group of its own, or what
        it finds again would look like a second delivery."""
        w = self.plan.workload
        if not w.receivers or not self.cluster.keeps_consumed:
            return ()
        return (*("" for _ in w.senders), *(r.group for r in w.receivers), *("final read" for _ in w.destinations))

    def _guards(self) -> Iterator[tuple[Guard, World]]:
        """Each different guard of the plan's receivers, with connections of the harness' own."""
        found: list[tuple[str, Mapping[str, Any]]] = []
        for receiver in self.plan.workload.receivers:
            if receiver.effect:
                one = (receiver.effect["guard"], receiver.effect.get("options", {}))
                if one not in found:
                    found.append(one)
        for name, options in found:
            yield make(name, options), World(self._stores)

    # -- phases --------------------------------------------------------------------------------------------------------

    def start(self, role: str) -> None:
        for client in self._clients:
            if client.role == role:
                client.worker = self._crew.take(self.plan.product, in_process=self.cluster.in_process)
                client.worker.assign(self._spec(client))

    def connected(self, role: str) -> bool:
        """Whether every client of the role is connected, or has ended."""
        return not self._unconnected(role)

    def _unconnected(self, role: str) -> list[_Client]:
        mine = [c for c in self._clients if c.role == role and c.worker is not None]
        return [c for c in mine if c.worker is not None and c.worker.busy and not c.worker.facts.get("connected")]

    def restart_unconnected(self, role: str) -> None:
        """Before the load: a client that does not come to connect gets another process, and its facts say so."""
        for client in self._unconnected(role):
            assert client.worker is not None
            client.worker.kill()
            self._crew.give_back(self.plan.product, client.worker)
            client.generation += 1
            client.facts["restarted_before_load"] = client.generation
            client.worker = self._crew.take(self.plan.product, in_process=self.cluster.in_process)
            client.worker.assign(self._spec(client))

    def go(self, start_ns: int) -> None:
        """The senders' load starts at that moment of the trial's clock."""
        for client in self._clients:
            if client.role == "producer" and client.worker is not None:
                client.worker.go(start_ns)

    def stop(self, role: str) -> None:
        """Asks the role's clients to end."""
        for client in self._clients:
            if client.role == role and client.worker is not None:
                client.worker.stop()

    def ended(self, role: str) -> None:
        """Waits until the role's clients have ended."""
        for client in self._clients:
            if client.role == role and client.worker is not None:
                self._release(client, STOP_S)

    def _release(self, client: _Client, timeout_s: float) -> None:
        worker = client.worker
        if worker is None:
            return
        try:
            wait_idle(worker, timeout_s, f"{client.role} {client.slot} of trial {self.plan.trial} to end")
        except DeadlineError as exc:
            worker.kill()
            self.problems.append(f"{exc}; it was killed, what it had open is info")
        else:
            if worker.failed and not client.killed:
                self.problems.append(f"{client.role} {client.slot}: {worker.failed}")
        client.facts.update(worker.facts)
        client.worker = None
        self._crew.give_back(self.plan.product, worker)

    def busy(self, role: str) -> bool:
        return any(c.worker is not None and c.worker.busy for c in self._clients if c.role == role)

    def kill(self, role: str, which: str = "") -> list[int]:
        """SIGKILL."""
        pids = []
        for client in self._chosen(role, which):
            if client.worker is not None:
                pids.append(client.worker.pid)
                client.killed = True
                client.worker.kill()
        return pids

    def _chosen(self, role: str, which: str) -> list[_Client]:
        """See ``faults.base.Clients.kill``."""
        mine = [c for c in self._clients if c.role == role]
        if which == ACTIVE:
            return [max(mine, key=lambda c: max(self._last_rows(c), default=(0, 0, ""))[0])]
        return [c for c in mine if not which or c.part == int(which)]

    def kill_after(self, role: str, step: str, which: str = "") -> None:
        """Tells the role's clients to kill themselves right after their next such step."""
        for client in self._chosen(role, which):
            if client in self._living(role):
                client.worker.kill_after(step)  # type: ignore[union-attr]  # it lives
                self._doomed.append(client)

    def to_die(self) -> bool:
        """Whether one lives that was told to kill itself."""
        return any(c.worker is not None and c.worker.busy for c in self._doomed)

    def spare(self, role: str) -> None:
        self._doomed.clear()
        for client in self._living(role):
            client.worker.spare()  # type: ignore[union-attr]  # it lives

    def gone(self, role: str) -> list[int]:
        """Process ids of clients that have killed themselves; they count as killed from now on."""
        pids = []
        for client in self._clients:
            worker = client.worker
            if (
                client.role == role
                and not client.killed
                and worker is not None
                and worker.failed
                and not worker.state()
            ):
                client.killed = True
                worker.kill()
                pids.append(worker.pid)
        return pids

    def _living(self, role: str) -> list[_Client]:
        return [c for c in self._clients if c.role == role and c.worker is not None and c.worker.busy]

    def pause(self, role: str) -> list[int]:
        """SIGSTOP."""
        stopped = self._living(role)
        for client in stopped:
            client.worker.pause()  # type: ignore[union-attr]  # it lives
        return [c.worker.pid for c in stopped]  # type: ignore[union-attr]

    def resume(self, role: str) -> None:
        for client in self._clients:
            if client.role == role and client.worker is not None:
                client.worker.resume()

    def states(self, role: str) -> dict[str, str]:
        return {
            f"{role} {c.slot} of {self.plan.trial}, process {c.worker.pid}": c.worker.state()
            for c in self._clients
            if c.role == role and c.worker is not None
        }

    def last_steps(self, role: str) -> dict[str, str]:
        """Of each killed client the function of the row that it wrote or closed last."""
        found = {}
        for client in self._clients:
            if client.role == role and client.killed:
                last = max(self._last_rows(client), default=(0, 0, ""))
                found[self._called(client)] = last[2]
        return found

    def in_hand(self, role: str) -> dict[str, int]:
        """Of each killed client how many messages it was handed oftener than it had their effect."""
        found = {}
        for client in self._clients:
            if client.role == role and client.killed:
                open_: Counter[int] = Counter()
                for segment in self._segments(client):
                    f, msg, outcome = (segment.columns[c][: segment.head] for c in ("f", "msg", "outcome"))
                    open_.update(msg[(f == F["receive"]) & (outcome == OK)].tolist())
                    open_.subtract(msg[f == F["effect"]].tolist())
                found[self._called(client)] = sum(n > 0 for n in open_.values())
        return found

    def _last_rows(self, client: _Client) -> Iterator[tuple[int, int, str]]:
        """(when, row, function) of the last row of each of the client's segments."""
        for segment in self._segments(client):
            if head := segment.head:
                f, start, end = (segment.columns[c][:head] for c in ("f", "start_ns", "end_ns"))
                at = np.maximum(start, end)
                row = int(np.flatnonzero(at == at.max())[-1])
                yield int(at[row]), segment.first + row, _FUNCTIONS[int(f[row])]

    def _segments(self, client: _Client) -> Iterator[Segment]:
        """What is left of the client's tape: the recorder removes what is worked off."""
        for path in (self.folder / TAPES).glob(f"{client.slot}g{client.generation}-*.seg"):
            with contextlib.suppress(FileNotFoundError, HarnessError):
                yield Segment.open(path)

    def _called(self, client: _Client) -> str:
        return f"{client.role} {client.slot} of {self.plan.trial}"

    def replace(self, role: str, start_ns: int) -> None:
        """A killed sender's replacement goes on at once, at ``start_ns``."""
        for client in self._clients:
            if client.role == role and client.killed:
                if client.worker is not None:
                    self._release(client, 5)
                client.killed = False
                client.generation += 1
                client.worker = self._crew.take(self.plan.product, in_process=self.cluster.in_process)
                client.worker.assign(self._spec(client))
                client.worker.go(start_ns)

    def killed(self, role: str) -> list[str]:
        return [self._called(c) for c in self._clients if c.role == role and c.killed]

    def quiet(self, since_ns: int) -> None:
        """Until every acknowledged message has had its effect or was settled, or what has not is overdue: nothing has
        become of it for a redelivery time, counted from ``since_ns`` of the trial's clock at the earliest.

        Receivers that are slower than the senders were are waited for as long as they get on: ``drain_s`` counts again
        with every ``drain_s`` in which something was worked off, ``_DRAINS`` times at most."""
        if not any(c.role == "consumer" for c in self._clients):
            return
        patience_s = self.cluster.redelivery_s
        expected = self._acknowledged()
        # What a consumer settled before its work, or fetched ahead of it, may still be in its hands: while it is at
        # work nothing is overdue.
        works = any(r.work_ms is not None for r in self.plan.workload.receivers)
        work_s = max((r.work_ms or 0.0 for r in self.plan.workload.receivers), default=0.0) / 1000

        def for_s(since: int) -> float:
            return (time.monotonic_ns() - self._zero_ns - max(since_ns, since)) / 1e9

        def settled() -> bool:
            if self._come_to("effect" if works else "receive") >= expected:
                return True
            # A killed consumer's successor may still be on its way.
            if for_s(self._progress.last_ns("consumer")) < 0.2 + 20 * work_s or not self.connected("consumer"):
                return False
            return (
                self._come_to("effect", "settle") >= expected
                or for_s(self._progress.pending_ns(expected)) >= patience_s
            )

        done = -1
        for _ in range(_DRAINS):
            try:
                wait_until(settled, self.plan.workload.drain_s, "receivers to go quiet", interval_s=0.1)
                return
            except DeadlineError as exc:
                before, done = done, self._come_to("effect", "settle")
                if done == before:
                    self.problems.append(f"{exc}; {done} of {expected} messages were worked off")
                    return
        self.problems.append(
            f"receivers work on, {done} of {expected} messages, after {_DRAINS} times the drain's deadline"
        )

    def read(self) -> None:
        """Starts the final read: one fresh client per destination, until the product's own rule says drained."""
        w = self.plan.workload
        for d in range(len(w.destinations)):
            client = _Client(len(w.senders) + len(w.receivers) + d, "reader", d)
            client.worker = self._crew.take(self.plan.product, in_process=self.cluster.in_process)
            client.worker.assign(self._spec(client))
            self._readers.append(client)

    def has_read(self) -> None:
        """Waits until the final read is over."""
        for client in self._readers:
            self._release(client, self.plan.workload.drain_s + STOP_S)

    def tell_effects(self) -> None:
        """Asks the databases what the world shows, and adds what consumers did not live to tell. ``world.json``: what
        guards measured, if any does."""
        figures: dict[str, float] = {}
        for guard, world in self._guards():
            try:
                problem = truth.tell(self.folder, guard.shown(world), self.injector)
                if isinstance(guard, Measures):
                    figures |= guard.figures(world)
            except HarnessError:
                raise
            except Exception as exc:  # of whichever driver: a database that is gone is no verdict
                where = ", ".join(map(repr, self._stores))
                problem = f"{where} did not tell the effects: {type(exc).__name__}: {exc}; `brokerproof doctor`, then run again"
            finally:
                world.close()
            if problem:
                self.problems.append(problem)
        if figures:
            (self.folder / "world.json").write_text(json.dumps(figures))

    def finish(self) -> int:
        """Ends the history; returns its rows. The recorder closes what is open as ``info``."""
        self.injector.finish()
        rows = self._scribe.finish(self.folder)
        with (self.folder / "errors.jsonl").open("a") as file:
            for problem in self.problems:
                file.write(json.dumps({"trial": self.plan.trial, "error": problem}) + "\n")
        return rows

    def abandon(self) -> None:
        """On the way out of an error: kills the clients, keeps what was recorded."""
        for client in (*self._clients, *self._readers):
            if client.worker is not None:
                client.worker.kill()
                self._crew.give_back(self.plan.product, client.worker)
                client.worker = None
        with contextlib.suppress(HarnessError):
            self.finish()

    @property
    def facts(self) -> Mapping[str, Any]:
        return {str(c.slot): c.facts for c in self._clients if c.facts}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _spec(self, client: _Client) -> LoadSpec:
        w = self.plan.workload
        sender = receiver = None
        if client.role == "producer":
            s = w.senders[client.part]
            destination, group, sender = s.destination, s.link, asdict(s)
        elif client.role == "consumer":
            r = w.receivers[client.part]
            destination, group, receiver = r.destination, r.link, asdict(r)
        else:
            destination, group = client.part, "admin"
        dest = w.destinations[destination]
        name = self.plan.destination_name(destination)
        do = {"producer": "send", "consumer": "receive", "reader": "read"}[client.role]
        return LoadSpec(
            do=do,  # type: ignore[arg-type]  # one of the three, by the table
            folder=str(self.folder), slot=client.slot, slots=len(w.roles), generation=client.generation,
            zero_ns=self._zero_ns, seed=self.plan.seed, trial_number=self.plan.trial_number,
            endpoint=self.cluster.endpoint(group, name), destination=name, destination_settings=dict(dest.settings),
            kind=dest.kind, lane=w.first_lane(destination), partitions=dest.partitions,
            load_s=w.load_s, deadline_s=w.drain_s, sender=sender, receiver=receiver,
            prefix=self.plan.prefix, ledger=str(self.folder / "effects.txt"), stores=[store.to_json() for store in self._stores],
        )  # fmt: skip

    def _acknowledged(self) -> int:
        """At least how many messages the receivers are due to work off (a hint for ``quiet``, never a verdict)."""
        return len(self._progress.messages("producer", ("send",), sure=False))

    def _come_to(self, *functions: str) -> int:
        """How many messages the consumers have an ``ok`` row of one of these functions for."""
        return len(self._progress.messages("consumer", functions))

    def has_worked(self) -> bool:
        """Whether something was worked off; True where there is no work."""
        return all(r.work_ms is None for r in self.plan.workload.receivers) or self._come_to("effect") > 0

    def at_work(self) -> bool:
        """Whether a consumer is in the middle of its work on a message that it received or settled a moment ago; True
        where there is no work to be in the middle of."""
        receivers = self.plan.workload.receivers
        if all(r.work_ms is None for r in receivers):
            return True
        work_ns = 1e6 * min(r.work_ms for r in receivers if r.work_ms is not None)
        acks = {r.settings.get("ack", "after") for r in receivers}
        now = time.monotonic_ns() - self._zero_ns
        for segment in self._progress.segments("consumer"):
            head = segment.head  # once: the consumer goes on writing
            columns = ("f", "outcome", "msg", "start_ns", "end_ns")
            f, outcome, msg, start, end = (segment.columns[c][:head] for c in columns)
            received, settled = f == F["receive"], f == F["settle"]
            worked = msg[f == F["effect"]]
            # Something was worked off before: without any effect nothing could be told of effects.
            if not len(worked) or not len(np.setdiff1d(msg[received], worked)):
                continue
            # A quarter of the work later an acknowledgement has left, and most of the work is still to come.
            begun = now - int(start[-1]) > work_ns / 4 and int(f[-1]) != F["effect"]
            if "auto" in acks:
                # The broker has answered the acknowledgement of something that is still to be worked off; or something
                # had its time to be acknowledged, where the library tells of that late or never.
                answered = msg[settled & (outcome == OK)]
                untold = np.setdiff1d(msg[received], np.concatenate([msg[settled], worked]))
                had_time = len(untold) > 0 and now - int(start[received][-1]) > 14 * work_ns
                begun = had_time or bool(len(np.setdiff1d(answered, worked)))
            elif "first" in acks:
                answered = msg[settled & (outcome == OK)]
                both = np.intersect1d(answered, worked)
                # A client that waits for the broker's answer before it works has to have it: without, the message is
                # still the broker's, and comes again. One that does not wait is told of it later, or never.
                waits = (
                    len(both) > 0
                    and end[settled & (msg == both[-1])][0] <= start[(f == F["effect"]) & (msg == both[-1])][0]
                )
                begun = begun and bool(len(np.setdiff1d(answered if waits else msg[settled], worked)))
            if begun:
                return True
        return False


class Block:
    """Trials that run side by side on one cluster: one clock, the same injections. Implements ``faults.base.Clients``."""

    def __init__(
        self, plans: Sequence[Plan], cluster: Cluster, folder_of: Callable[[Plan], Path], crew: Crew, scribe: Scribe,
        stores: Callable[[Plan], Sequence[Store]] = lambda _: (),
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self._crew = crew
        # Injections run in threads of their own; they write into one tape, and take load processes from one crew.
        self._noting, self._replacing = threading.Lock(), threading.Lock()
        self.zero_ns = time.monotonic_ns()
        #: The same moment as clocks on the wall have it, for what has no other: logs.
        self.zero_utc = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        self.trials: list[LiveTrial] = []
        for plan in plans:
            self.trials.append(LiveTrial(plan, cluster, folder_of(plan), crew, scribe, self.zero_ns, stores(plan)))

    def now_s(self) -> float:
        return (time.monotonic_ns() - self.zero_ns) / 1e9

    def start(self) -> float:
        """Starts receivers and senders, waits until all are connected; returns when the load is due to start, on the
        block's clock. So a slow machine delays the load, and never shifts it against the faults."""
        for role in ("consumer", "producer"):
            for trial in self.trials:
                if role == "producer" or not trial.plan.workload.backlog:
                    trial.start(role)
        self._connected(("consumer", "producer"))
        start_s = self.now_s() + (LEAD_S if not self.cluster.in_process else 0.02)
        for trial in self.trials:
            trial.go(int(start_s * 1e9))
        return start_s

    def _connected(self, roles: Sequence[str]) -> None:
        """Waits until all clients of the roles that were started are connected; one that is stuck is replaced once."""
        stuck_s = self.now_s() + STUCK_S
        for role in roles:
            for trial in self.trials:
                why = f"{role}s of {trial.plan.trial} to connect"
                try:
                    wait_until(partial(trial.connected, role), max(0.0, stuck_s - self.now_s()), why, interval_s=0.01)
                except DeadlineError:
                    trial.restart_unconnected(role)
        for role in roles:
            for trial in self.trials:
                why = f"{role}s of {trial.plan.trial} to connect"
                try:
                    wait_until(partial(trial.connected, role), CONNECT_S, why, interval_s=0.01)
                except DeadlineError as exc:
                    trial.problems.append(str(exc))

    def sending(self) -> bool:
        return any(trial.busy("producer") for trial in self.trials)

    def stop_senders(self) -> None:
        self._stop("producer")

    def _stop(self, role: str) -> None:
        for trial in self.trials:
            trial.stop(role)
        for trial in self.trials:
            trial.ended(role)

    def halt(self) -> None:
        """Ends all clients where they are: nothing is drained."""
        for role in ("producer", "consumer"):
            for trial in self.trials:
                trial.stop(role)

    def drain(self) -> None:
        """Receivers work off what is there and end; then the final read. Those of a backlog start now."""
        late = [t for t in self.trials if t.plan.workload.backlog]
        for trial in late:
            trial.start("consumer")
        if late:
            self._connected(("consumer",))
        since_ns = int(self.now_s() * 1e9)  # one wait for all, not one after the other
        for trial in self.trials:
            trial.quiet(since_ns)
        self._stop("consumer")
        # Side by side: each waits more than it works.
        for trial in self.trials:
            trial.read()
        for trial in self.trials:
            trial.has_read()
            trial.tell_effects()

    def finish(self) -> None:
        for trial in self.trials:
            trial.finish()

    def abandon(self) -> None:
        for trial in self.trials:
            trial.abandon()

    def note(self, f: str, text: str, at_s: float, outcome: int = OK) -> None:
        """A ``fault`` or ``control`` row in every trial's history."""
        at_ns = int(at_s * 1e9)
        with self._noting:
            for trial in self.trials:
                trial.injector.row(f, outcome, start_ns=at_ns, end_ns=at_ns, error=text)

    # -- faults.base.Clients -------------------------------------------------------------------------------------------

    @property
    def _broken(self) -> list[LiveTrial]:
        """The sham's clients are left alone."""
        return [trial for trial in self.trials if trial.plan.arm != "sham"]

    def kill(self, role: str, step: str = "", which: str = "") -> Sequence[int]:
        """A consumer is killed in the middle of its work, each trial's as soon as it is: between two messages a kill
        proves nothing."""
        pids: list[int] = []
        left = self._broken
        if step:
            return self._kill_after(left, role, step, which)

        def kill_those_at_work() -> bool:
            for trial in [t for t in left if role != "consumer" or t.at_work()]:
                pids.extend(trial.kill(role, which))
                left.remove(trial)
            return not left

        with contextlib.suppress(DeadlineError):
            wait_until(kill_those_at_work, IN_WORK_S, "consumers to be at work", interval_s=0.001)
        for trial in left:
            pids.extend(trial.kill(role, which))
        # Those that will take over get ready meanwhile.
        with self._replacing:
            self._crew.warm(self.cluster.product, 0 if self.cluster.in_process else len(pids))
        return pids

    def _kill_after(self, trials: Sequence[LiveTrial], role: str, step: str, which: str) -> Sequence[int]:
        left = list(trials)

        def told() -> bool:
            # Not before something was worked off: without any effect nothing could be told of effects.
            for trial in [t for t in left if role != "consumer" or t.has_worked()]:
                trial.kill_after(role, step, which)
                left.remove(trial)
            return not left

        with contextlib.suppress(DeadlineError):
            wait_until(told, IN_WORK_S, "consumers to have worked something off", interval_s=0.005)
        for trial in left:
            trial.kill_after(role, step, which)
        with contextlib.suppress(DeadlineError):
            why = f"{role}s to come to the step {step!r}"
            wait_until(lambda: not any(t.to_die() for t in trials), IN_WORK_S, why, interval_s=0.005)
        for trial in trials:
            trial.spare(role)
        pids = [pid for trial in trials for pid in trial.gone(role)]
        self._crew.warm(self.cluster.product, 0 if self.cluster.in_process else len(pids))
        return pids

    def pause(self, role: str) -> Sequence[int]:
        return [pid for trial in self._broken for pid in trial.pause(role)]

    def resume(self, role: str) -> None:
        for trial in self.trials:
            trial.resume(role)

    def states(self, role: str) -> Mapping[str, str]:
        return {name: state for trial in self._broken for name, state in trial.states(role).items()}

    def last_steps(self, role: str) -> Mapping[str, str]:
        return {name: f for trial in self.trials for name, f in trial.last_steps(role).items()}

    def in_hand(self, role: str) -> Mapping[str, int]:
        return {name: n for trial in self.trials for name, n in trial.in_hand(role).items()}

    def replace(self, role: str) -> None:
        with self._replacing:
            self._replace(role)

    def _replace(self, role: str) -> None:
        for trial in self.trials:
            trial.replace(role, int(self.now_s() * 1e9))

    def killed(self, role: str) -> Sequence[str]:
        return [name for trial in self.trials for name in trial.killed(role)]
