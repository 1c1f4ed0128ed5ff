"""What the script of a case is handed: where to send, how to say what it saw, a log of every octet.

Each protocol has a scene of its own (connections, fresh names, looking after a negative case) on top of this one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

from brokerproof.conformance.case import AS_REQUIRED, CUT, CUT_SHORT, Case, Seen, Table, Verdict, worst
from brokerproof.conformance.link import Link, OutOfTime
from brokerproof.conformance.way import OURS, Way
from brokerproof.conformance.wirelog import WireLog
from brokerproof.errors import HarnessError

_T = TypeVar("_T")
#: What some thousand segments of an octet each take: a proxy on a busy machine needs a millisecond or so for one.
_SLICER_S = 10.0
#: Where a frame of so many octets is cut: in its middle, before its last octet, behind its first.
_CUTS: Sequence[Callable[[int], int]] = (lambda n: n // 2, lambda n: n - 1, lambda n: 1)
#: The step that says how everything else fared after something forbidden was sent; no table needs to name it.
AFTERWARDS = "afterwards"


class Skip(Exception):
    """The case does not apply to this target; the text says why."""


class Inconclusive(Exception):
    """Nothing came that can be judged; the text says what did."""


@dataclass(slots=True)
class Judged:
    """One step: what was seen, the verdict of its table, why where it is no PASS, and what the table says."""

    step: str
    seen: Seen
    verdict: Verdict
    why: str
    t: float
    says: str = ""


@dataclass(slots=True)
class Outcome:
    """A case's outcome on one target. attempts: how often it was tried; a FAIL that nobody expected is tried again."""

    verdict: Verdict
    observed: str
    steps: list[Judged] = field(default_factory=list)
    recorded: dict[str, Any] = field(default_factory=dict)
    log: WireLog = field(default_factory=WireLog)
    took_s: float = 0.0
    attempts: int = 1
    #: Why not all of it was judged, where it was not; a FAIL stands nevertheless.
    unfinished: str = ""


class Scene:
    """scale: 1 on a broker; less on a reference peer, whose timers are shortened alike.

    name: fresh for this case: what it makes bears it.  stop: asked now and then; true ends the case at once.
    way: how its connections get to the peer.
    """

    def __init__(
        self, case: Case, *, variant: str, condition: str, product: str, version: str, name: str, log: WireLog,
        scale: float = 1.0, stop: Callable[[], bool] = lambda: False, way: Way = OURS,
    ) -> None:  # fmt: skip
        self.case, self.variant, self.condition = case, variant, condition
        self.product, self.version, self.name = product, version, name
        self.log, self.scale, self.stop, self.way = log, scale, stop, way
        more_s = _SLICER_S if condition == "slicer" else 0.0
        #: How long a reaction is waited for, in seconds of the broker's.
        self.window_s = case.window_s + more_s
        self.deadline = time.monotonic() + (case.limit_s + 6 * more_s) * max(scale, 0.25)
        self.steps: list[Judged] = []
        self.recorded: dict[str, Any] = {}
        #: Step -> its table.
        self.tables = case.tables(condition)
        self._cut_at = 0
        self._cleaning = contextlib.ExitStack()

    def link(self, address: tuple[str, int], name: str) -> Link:
        """A fresh connection; the caller sees to it that it is closed."""
        return Link(address, log=self.log, name=name, deadline=self.deadline, stop=self.stop, way=self.way)

    # -- what the script says ------------------------------------------------------------------------------------------

    def saw(self, step: str, seen: Seen) -> Verdict:
        """A step's observation, judged by its table. Raises HarnessError for a step that the case does not declare."""
        table = self._table(step)
        return self._judge(step, seen, CUT_SHORT if self.condition == CUT else table)

    def require(self, step: str, good: bool, otherwise: str, detail: str = "") -> bool:
        """A step that is done as required or not; otherwise: what was seen instead, in a few words."""
        self._judge(step, Seen(behaviour=AS_REQUIRED if good else otherwise, detail=detail), self._table(step))
        return good

    def afterwards(self, wrong: str) -> None:
        """Everything else is as before, or (wrong) what is not."""
        seen = Seen(behaviour=wrong or AS_REQUIRED)
        self._judged(AFTERWARDS, seen, "FAIL" if wrong else "PASS", wrong)

    def record(self, name: str, value: Any) -> None:
        """A value that is recorded and never judged; JSON-able. Raises HarnessError for a name not declared."""
        if name not in self.case.records:
            raise HarnessError(f"case {self.case.id} declares no record {name!r}; it has {list(self.case.records)}")
        self.recorded[name] = value

    def skip(self, why: str) -> NoReturn:
        raise Skip(why)

    def inconclusive(self, why: str) -> NoReturn:
        raise Inconclusive(why)

    # -- time ----------------------------------------------------------------------------------------------------------

    def seconds(self, of_the_broker: float) -> float:
        """So many seconds of the broker's, in seconds of ours."""
        return of_the_broker * self.scale

    def window(self, seconds: float | None = None) -> float:
        """The end, on the monotonic clock, of a time to wait for a reaction: the case's window if none is given."""
        return time.monotonic() + self.seconds(self.window_s if seconds is None else seconds)

    def measured(self, ours_s: float) -> float:
        """Seconds of ours, in seconds of the broker's."""
        return ours_s / self.scale

    # -- conditions ----------------------------------------------------------------------------------------------------

    def passes(self) -> Iterator[None]:
        """How often the script is played: once; where frames are cut short, once for each place to cut."""
        for at in range(len(_CUTS) if self.condition == CUT else 1):
            self._cut_at = at
            yield

    def cut_short(self, octets: bytes) -> bytes:
        """How much of a frame comes through where frames are cut short: at least an octet, and never all."""
        return octets[: max(_CUTS[self._cut_at](len(octets)), 1)]

    # -- what is put back ----------------------------------------------------------------------------------------------

    def finally_(self, undo: Callable[[], object]) -> None:
        """Called when the case ends, however it does, last in first out."""
        self._cleaning.callback(undo)

    def entered(self, manager: AbstractContextManager[_T]) -> _T:
        """The manager's value; it is left when the case ends."""
        return self._cleaning.enter_context(manager)

    def close(self) -> None:
        self._cleaning.close()

    def unreached(self) -> str:
        """Which steps were not judged, in a sentence; empty when all were."""
        return unreached(self.tables, (j.step for j in self.steps))

    def verdict(self) -> tuple[Verdict, str]:
        """The case's verdict, and what was observed: the worst step's, or what was recorded."""
        found = of_steps((j.step, j.verdict) for j in self.steps)
        missing = self.unreached()
        if missing and found != "FAIL":
            return "INCONCLUSIVE", missing
        if found == "INFO":
            absent = [r for r in self.case.records if r not in self.recorded]
            if absent:
                return "INCONCLUSIVE", f"not recorded: {', '.join(absent)}"
            told = [f"{k}: {v}" for k, v in self.recorded.items()]
            return "INFO", "; ".join(told or dict.fromkeys(str(j.seen) for j in self.steps if j.verdict == "INFO"))
        of_it = [j for j in self.steps if j.verdict == found]
        shown = [f"{j.step + ': ' if j.step else ''}{j.why or j.seen}" for j in of_it]
        return found, "; ".join(dict.fromkeys(shown))

    def _table(self, step: str) -> Table:
        table = self.tables.get(step)
        if table is None:
            raise HarnessError(f"case {self.case.id} has no table for a step {step!r}; it has {sorted(self.tables)}")
        return table

    def _judge(self, step: str, seen: Seen, table: Table) -> Verdict:
        verdict, why = table.judge(seen, self.case.protocol)
        self._judged(step, seen, verdict, why, table.says)
        return verdict

    def _judged(self, step: str, seen: Seen, verdict: Verdict, why: str, says: str = "") -> None:
        t = self.log.elapsed()
        self.steps.append(Judged(step, seen, verdict, why, t, says))
        self.log.note(f"{step or 'seen'}: {seen} -> {verdict}")


class Ground(Protocol):
    """Where cases of one protocol are run: a cluster, or a reference peer in this process."""

    product: str
    version: str

    def scene(
        self, case: Case, *, variant: str, condition: str, log: WireLog, stop: Callable[[], bool]
    ) -> AbstractContextManager[Scene]:
        """A scene with fresh names on this ground; what it made is removed when the block ends."""

    def after(self, scene: Scene) -> str:
        """After a negative case, and after frames cut short: what is not as before: a sibling channel, a second connection, the
        health probe, the entities, a connection that is still held; empty when all is."""

    def close(self) -> None:
        """Safe to call twice."""


def play(ground: Ground, case: Case, *, variant: str = "", condition: str = "", stop: Callable[[], bool] = lambda: False) -> Outcome:  # fmt: skip
    """Runs a case once on this ground. Never raises: what is not the peer's doing comes out as HARNESS or INCONCLUSIVE."""
    log = WireLog()
    began = time.monotonic()
    outcome = Outcome("HARNESS", "", log=log)
    try:
        with ground.scene(case, variant=variant, condition=condition, log=log, stop=stop) as scene:
            outcome.steps, outcome.recorded = scene.steps, scene.recorded
            try:
                for _ in scene.passes():
                    case.script(scene)
                if case.watched(condition):
                    scene.afterwards(ground.after(scene))
                outcome.verdict, outcome.observed = scene.verdict()
                outcome.unfinished = scene.unreached()
            except (Skip, Inconclusive, OutOfTime) as exc:
                # What was judged until then stands, if it is bad enough: a peer that hangs after a FAIL has failed.
                word: Verdict = "SKIP" if isinstance(exc, Skip) else "INCONCLUSIVE"
                failed = any(j.verdict == "FAIL" for j in scene.steps)
                outcome.verdict, outcome.observed = scene.verdict() if failed else (word, str(exc))
                outcome.unfinished = str(exc)
            finally:
                scene.close()
    except HarnessError as exc:
        outcome.verdict, outcome.observed = "HARNESS", str(exc)
    except Exception as exc:  # a bug in a script is ours, and must neither stop the others nor count against a broker
        outcome.verdict, outcome.observed = "HARNESS", f"{type(exc).__name__}: {exc}"
        log.note(_where(exc))
    if stop() and outcome.verdict not in ("PASS", "INFO", "SKIP"):
        # The clusters go down with the run, so what is seen from then on is our doing.
        would = f"; {outcome.verdict} as far as it came: {outcome.observed}" if outcome.observed else ""
        outcome.verdict, outcome.observed = "HARNESS", f"the run was ended while this case ran{would}"
    outcome.took_s = round(time.monotonic() - began, 3)
    return outcome


def of_steps(steps: Iterable[tuple[str, Verdict]]) -> Verdict:
    """The verdict of a case with these steps (name, verdict): the worst. That everything else fared well afterwards passes no case
    whose own steps are only recorded."""
    return worst({verdict for step, verdict in steps if (step, verdict) != (AFTERWARDS, "PASS")})


def unreached(declared: Iterable[str], reached: Iterable[str]) -> str:
    """Which of the declared steps were not judged, in a sentence; empty when all were."""
    had = set(reached)
    missing = [step for step in declared if step not in had]
    return f"step {', '.join(repr(s) for s in missing)} was not reached" if missing else ""


def _where(exc: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(exc)[-4:])
