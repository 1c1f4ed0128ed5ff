"""A load process: one client of a trial, started fresh, driven by lines on stdin.

    python -m brokerproof.loadprocess PRODUCT

    stdin   {"do": "send"|"receive"|"read", ...}     one part of one trial (see ``LoadSpec``)
            {"go": ns}                               the load of a sender starts then, on the trial's clock
            {"stop": true}                           end the part in hand in an orderly way
            {"kill_after": step}                     SIGKILL yourself right after the next such step (see ``die_after``)
            {"spare": true}                          do not, after all
    stdout  {"ready": pid}   {"report": {...}}   {"done": {...}}   {"failed": text}

It imports the product's client library once and then serves part after part, so that the start of a process is not
paid for in every trial. It ends when stdin does: a load process never outlives the harness by more than its part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from brokerproof.brokers.base import ClientModule, Pace, ReadJob, ReceiveJob, SendJob, client
from brokerproof.effects.base import DONE, Message, World, make
from brokerproof.effects.store import Store
from brokerproof.errors import PlanError
from brokerproof.history import FAIL, OK
from brokerproof.message import Bodies
from brokerproof.plan import Receiver, Sender
from brokerproof.tape import Tape
from brokerproof.waiting import wait_until

#: Message numbers that each sender process of a trial has for itself: they are unique in a trial, and a sender that takes
#: over from a killed one sends other messages. More than one client sends in an hour.
NUMBERS_EACH = 1 << 28
#: Step of a consumer's work -> the row that says ``ok`` of it.
STEPS: Mapping[str, str] = {"receive": "receive", "effect": "effect", "ack": "settle"}
#: What a step of the effect itself, one of its guard's, is called: this, then the guard's name for it.
WITHIN = "effect:"
Work = Callable[[int, int, int], None]
#: How long a consumer asks for a database that does not answer.
DATABASE_S = 30.0
#: How long a load process may go on after its harness is gone.
ORPHAN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """One part of one trial, as it goes over the pipe.

    slot, slots, generation: who records (process = slot + generation x slots).  zero_ns: the trial's clock zero.
    prefix: what the names of the trial's destinations begin with.
    ledger: file that effects are appended to.  stores: the databases they are in, where the plan says so.
    """

    do: Literal["send", "receive", "read"]
    folder: str
    slot: int
    slots: int
    zero_ns: int
    seed: int
    trial_number: int
    endpoint: Mapping[str, Any]
    destination: str
    destination_settings: Mapping[str, Any]
    kind: str
    lane: int
    partitions: int
    generation: int = 0
    load_s: float = 0.0
    deadline_s: float = 60.0
    sender: Mapping[str, Any] | None = None
    receiver: Mapping[str, Any] | None = None
    prefix: str = ""
    ledger: str = ""
    stores: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Ledger:
    """The outside world that consumers change: a file that they append to, one line an effect.

    An append is atomic and totally ordered by the file, so it is the judge of which effect came first.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, msg: int, key: int, process: int) -> int:
        """Has the effect; returns its place in the file."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            os.write(self._file, b"%d %d %d\n" % (msg, key, process))
            return os.lseek(self._file, 0, os.SEEK_CUR)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


def perform(
    spec: LoadSpec, module: ClientModule, stopping: Callable[[], bool], report: Callable[..., None],
    go: Callable[[], int | None], still_alive: Callable[[], None] = lambda: None,
    begun: Callable[[Tape], None] = lambda _: None,
) -> None:  # fmt: skip
    """Runs one part with the product's client module. Used by the process below and by threads (memory broker).

    go: when the load of a sender starts, None as long as that is open. The first call tells that the client is ready.
    still_alive: raises in a thread that has been "killed"; a process needs no such question.
    begun: is given the part's tape.
    """
    tape = Tape(
        Path(spec.folder) / "tape", slot=spec.slot, slots=spec.slots, zero_ns=spec.zero_ns, generation=spec.generation
    )
    begun(tape)
    common: dict[str, Any] = {
        "endpoint": spec.endpoint, "destination": spec.destination, "kind": spec.kind, "lane": spec.lane,
        "partitions": spec.partitions, "tape": tape, "seed": spec.seed, "trial_number": spec.trial_number,
        "stopping": stopping, "report": report, "destination_settings": spec.destination_settings, "prefix": spec.prefix,
    }  # fmt: skip
    try:
        if spec.do == "send":
            sender = Sender(**(spec.sender or {}))
            author = spec.slot if sender.again_of < 0 else sender.again_of
            pace = Pace(
                rate_per_s=sender.rate_per_s, count=sender.count, load_ns=int(spec.load_s * 1e9), keys=sender.keys,
                first=(author + spec.generation * spec.slots) * NUMBERS_EACH,
                gate=_gate(go, report, int(sender.again_ms * 1e6)),
            )  # fmt: skip
            bodies = Bodies(trial=spec.trial_number, sender=author, seed=spec.seed, size=sender.size_bytes)
            module.send(SendJob(**common, sender=sender, pace=pace, bodies=bodies))
        elif spec.do == "receive":
            receiver = Receiver(**(spec.receiver or {}))
            with _effects(spec, receiver, tape) as effect:
                work = None if effect is None else _work(tape, effect, receiver, still_alive)
                if work is not None and receiver.fail_first and spec.generation == 0:
                    work = failing(work, receiver.fail_first, receiver.fail_times)
                module.receive(ReceiveJob(**common, receiver=receiver, work=work))
        else:
            module.read(ReadJob(**common, deadline_s=spec.deadline_s))
    finally:
        tape.finish()


def die_after(tape: Tape, step: str, die: Callable[[], None]) -> None:
    """``die`` is called, once, right after the next such step: one of ``STEPS``, or of the effect's guard."""
    if step.startswith(WITHIN):
        tape.when_passed(step.removeprefix(WITHIN), die)
    else:
        tape.when(STEPS[step], OK, die)


def _gate(go: Callable[[], int | None], report: Callable[..., None], later_ns: int = 0) -> Callable[[], int | None]:
    told = False

    def gate() -> int | None:
        nonlocal told
        if not told:
            told = True
            report(connected=True)
        start_ns = go()
        return None if start_ns is None else start_ns + later_ns

    return gate


#: Has the effect of a (message, key); returns its outcome, and its place in the ledger (-1: a database keeps it).
Effect = Callable[[int, int], tuple[int, int]]


@contextlib.contextmanager
def _effects(spec: LoadSpec, receiver: Receiver, tape: Tape) -> Iterator[Effect | None]:
    """What the receiver's work does to the world; None where it does not work. Of effects in databases the outcome is
    ``ok`` where this delivery changed the world, ``fail`` where the guard refused."""
    if receiver.work_ms is None:
        yield None
    elif receiver.effect:
        guard = make(receiver.effect["guard"], receiver.effect.get("options"))
        world = World(Store(**store) for store in spec.stores)
        _connect(world, guard.needs)  # before the first message comes, or that one would have to wait for it
        try:
            yield lambda msg, _: (OK if guard.apply(Message(msg), world, tape.passed) == DONE else FAIL, -1)
        finally:
            world.close()
    else:
        ledger, process = Ledger(Path(spec.ledger)), tape.process
        try:
            yield lambda msg, key: (OK, ledger.append(msg, key, process))
        finally:
            ledger.close()


def _connect(world: World, needs: Sequence[str]) -> None:
    """A consumer that takes over from a killed one may come while the database is still being started; as anybody's would,
    it asks again. Raises DeadlineError."""

    def connects() -> bool:
        try:
            world.connect(needs)
        except PlanError:
            raise
        except Exception as exc:  # of whichever driver
            raise _NotYet(f"{type(exc).__name__}: {exc}") from exc
        return True

    wait_until(connects, DATABASE_S, "the databases of the effects to answer", interval_s=0.2, retry_on=(_NotYet,))


class _NotYet(Exception):
    """A database did not answer."""


def _work(tape: Tape, effect: Effect, receiver: Receiver, still_alive: Callable[[], None]) -> Work:
    work_s = (receiver.work_ms or 0.0) / 1000

    def work(msg: int, key: int, lane: int) -> None:
        start = tape.now()
        takes_s = work_s * _unevenness(msg) if receiver.uneven else work_s
        if takes_s > 0:
            time.sleep(takes_s)  # the work itself: this is load, nothing is waited for
        still_alive()
        outcome, place = effect(msg, key)
        tape.row("effect", outcome, start_ns=start, end_ns=tape.now(), msg=msg, key=key, lane=lane, value=place)

    return work


def _unevenness(msg: int) -> float:
    """From 0 to 2, 1 on average, the same for a message each time. Source: Knuth, TAOCP 3, 6.4, multiplicative hashing."""
    return (msg * 2654435761 % (1 << 32)) / (1 << 31)


class WorkFailed(Exception):
    """The work on a message failed, as planned."""


def failing(work: Work, first: int, times: int) -> Work:
    """The same work, which fails ``times`` times on each of the first ``first`` messages that it is called with."""
    failed: dict[int, int] = {}

    def fails(msg: int, key: int, lane: int) -> None:
        if msg in failed or len(failed) < first:
            failed[msg] = failed.get(msg, 0) + 1
            if failed[msg] <= times:
                raise WorkFailed(f"message {msg}, for the {failed[msg]}. time of {times}")
        work(msg, key, lane)

    return fails


def main() -> None:
    """Serves parts until stdin ends."""
    product = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the harness asks for an orderly end itself
    # Client libraries print; stdout is ours alone, so what they print goes to stderr, which the harness keeps.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(**what: Any) -> None:
        with lock:
            out.write(json.dumps(what) + "\n")
            out.flush()

    module = client(product)
    arrived = threading.Condition()
    parts: list[dict[str, Any]] = []
    state = {"stop": False, "over": False}
    starts: list[int] = []
    tapes: list[Tape] = []  # of the part in hand

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def listen() -> None:
        for line in sys.stdin:
            command = json.loads(line)
            with arrived:
                if command.get("stop"):
                    state["stop"] = True
                elif "go" in command:
                    starts.append(int(command["go"]))
                elif "kill_after" in command:
                    if tapes:
                        die_after(tapes[-1], command["kill_after"], die)
                elif "spare" in command:
                    if tapes:
                        tapes[-1].when_not()
                else:
                    state["stop"] = False
                    starts.clear()
                    parts.append(command)
                arrived.notify()
        with arrived:
            state["stop"] = state["over"] = True
            arrived.notify()
        # The harness is gone. The part in hand gets a moment to end; the recorder closes what stays open.
        threading.Timer(ORPHAN_S, lambda: os._exit(3)).start()

    threading.Thread(target=listen, daemon=True).start()
    say(ready=os.getpid())
    while True:
        with arrived:
            arrived.wait_for(lambda: parts or state["over"])
            if state["over"]:
                os._exit(0)  # client libraries leave threads behind that a normal exit would wait for
            command = parts.pop(0)
        try:
            perform(
                LoadSpec(**command), module, lambda: state["stop"], lambda **facts: say(report=facts),
                lambda: starts[0] if starts else None, begun=tapes.append,
            )  # fmt: skip
            say(done={"slot": command["slot"]})
        except Exception as exc:  # whatever it is, the harness has to hear of it; the process goes on
            traceback.print_exc()
            say(failed=f"{type(exc).__name__}: {exc}")
        finally:
            tapes.clear()


if __name__ == "__main__":
    main()
