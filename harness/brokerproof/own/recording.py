"""What the application under test did, as its test tells it: the rows of ``history.arrow`` of one arm.

    with history.sending("order-7"):      asked for, and answered when the block ends
        shop.order("order-7")
    history.effect("order-7")             optional: it had its effect, now
    history.world({"order-7": 1})         how often the world shows it, in the end: the truth

Rows are written through to mapped memory as they come, so what was recorded outlives the process.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from brokerproof.errors import PlanError
from brokerproof.history import FAIL, INFO, OK, Meta
from brokerproof.recorder import TAPES
from brokerproof.tape import Tape
from brokerproof.workloads.crew import ThreadScribe

#: Slots of the rows: who asks, who works, and who looks at the world in the end.
_ROLES = ("producer", "consumer", "reader")
_NO_WORLD = "the test did not say what the world shows: end it with history.world({id: times}), as read from where the effects are"


class Recording:
    """The history of the arm that runs. Ids are of any hashable kind, each for one thing that is to happen once; they are
    numbered as they come, and ``messages.json`` of the trial says which is which. Its methods may be called by any thread.
    """

    def __init__(self) -> None:
        self._scribe = ThreadScribe()
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._tapes: dict[str, Tape] = {}
        self._numbers: dict[Hashable, int] = {}
        #: Number -> when it had its effect, as the test told, on the arm's clock.
        self._effects: dict[int, list[int]] = {}
        self._problems: list[str] = []
        self._zero_ns = 0
        self._told = False

    # -- for the test --------------------------------------------------------------------------------------------------

    @contextmanager
    def sending(self, id: Hashable, *, refused: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        """The application is asked for something, and has answered when the block ends: from then on it must not be lost.

        refused: errors that say that it will not happen. After any other it may or may not: that is ``info``.
        """
        tape = self._tape("producer")
        row = tape.open("send", msg=self._number(id), lane=0)
        try:
            yield
        except BaseException as exc:
            tape.close(row, FAIL if isinstance(exc, refused) else INFO, error=type(exc).__name__)
            raise
        tape.close(row, OK)

    def effect(self, id: Hashable) -> None:
        """It had its effect, just now. Whether it is there in the end, ``world`` tells."""
        tape = self._tape("consumer")
        with self._lock:
            self._effects.setdefault(self._numbered(id), []).append(tape.now())

    def world(self, shown: Mapping[Hashable, int] | Iterable[Hashable]) -> None:
        """The truth, read from where the effects are once everything is over: id -> how often, or each as often as it
        comes. What ``effect`` told is put down at its time, as far as the world shows it. Raises PlanError where it was told
        before."""
        if self._told:
            raise PlanError("history.world was told twice in one arm; tell it once, at the end")
        times = Counter(dict(shown)) if isinstance(shown, Mapping) else Counter(shown)
        consumer, reader = self._tape("consumer"), self._tape("reader")
        shows = {self._number(id): count for id, count in times.items() if count > 0}
        for number, count in shows.items():
            now = reader.now()
            reader.row("receive", OK, start_ns=now, end_ns=now, msg=number, lane=0)
            at = sorted(self._effects.get(number, []))[:count]
            for ns in [*at, *[now] * (count - len(at))]:
                consumer.row("effect", OK, start_ns=ns, end_ns=ns, msg=number, lane=0)
        more = [n for n, told in self._effects.items() if len(told) > shows.get(n, 0)]
        if more:
            self._problems.append(
                f"{len(more)} ids had more effects, as the test told, than the world shows, the first is {self.name(more[0])}"
            )
        reader.row("control", OK, start_ns=reader.now(), end_ns=reader.now(), lane=0, error="drained")
        self._told = True

    def name(self, number: int) -> str:
        """The id behind a message number of a finding, as text."""
        with self._lock:
            return next((str(id) for id, n in self._numbers.items() if n == number), str(number))

    # -- for the stage -------------------------------------------------------------------------------------------------

    def begin(self, folder: Path, *, seed: int, broker: str, version: str) -> None:
        """From now on it is about the trial in that folder."""
        (folder / TAPES).mkdir(parents=True, exist_ok=True)
        self._folder, self._told = folder, False
        self._numbers, self._effects, self._problems = {}, {}, []
        self._zero_ns = time.monotonic_ns()
        meta = Meta(
            trial=folder.name, seed=seed, broker=broker, version=version, lanes=({"name": "application", "kind": "queue"},),
            processes=_ROLES,
        )  # fmt: skip
        self._scribe.open(folder, meta)
        self._tapes = {
            role: Tape(folder / TAPES, slot=slot, slots=len(_ROLES), zero_ns=self._zero_ns)
            for slot, role in enumerate(_ROLES)
        }
        self._tapes["injector"] = Tape(folder / TAPES, slot=-1, slots=len(_ROLES), zero_ns=self._zero_ns)

    def end(self) -> None:
        """Closes what is open as ``info``, and ends the history."""
        assert self._folder is not None
        if not self._told:
            self._problems.append(_NO_WORLD)
            for number, told in self._effects.items():
                for ns in told:
                    self._tapes["consumer"].row("effect", OK, start_ns=ns, end_ns=ns, msg=number, lane=0)
        for tape in self._tapes.values():
            tape.finish()
        self._scribe.finish(self._folder)
        (self._folder / "messages.json").write_text(
            json.dumps({str(number): str(id) for id, number in self._numbers.items()}, ensure_ascii=False)
        )
        with (self._folder / "errors.jsonl").open("a") as file:
            for problem in self._problems:
                file.write(json.dumps({"trial": self._folder.name, "error": problem}) + "\n")
        self._folder, self._tapes = None, {}

    def close(self) -> None:
        self._scribe.close()

    def now_s(self) -> float:
        """Seconds since the arm began."""
        return (time.monotonic_ns() - self._zero_ns) / 1e9

    def note(self, f: str, text: str, at_s: float) -> None:
        """A ``fault`` or ``control`` row."""
        at_ns = int(at_s * 1e9)
        self._tape("injector").row(f, OK, start_ns=at_ns, end_ns=at_ns, error=text)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _tape(self, role: str) -> Tape:
        tape = self._tapes.get(role)
        if tape is None:
            raise PlanError(
                "nothing records: history is for the arms of an experiment, while its function runs; mark the test with "
                "@experiment(...), and end its threads before it returns"
            )
        return tape

    def _number(self, id: Hashable) -> int:
        with self._lock:
            return self._numbered(id)

    def _numbered(self, id: Hashable) -> int:
        return self._numbers.setdefault(id, len(self._numbers))
