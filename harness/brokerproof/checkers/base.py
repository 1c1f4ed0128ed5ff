"""What a checker is: a pure function from a history to a part of a finding. It describes; the claim judges.

A checker is one module ``checkers/<concept>.py`` with one function under ``@checker``, which names the keys that the
function reports and whether each is an anomaly (a contradiction) or an observation (counted, contradicts nothing).
Its docstring says the contradiction in prose and what it costs. Checkers import no broker, client, container or
pytest: they run on a file from last month.

    check(history)    runs them all; every key is listed, zero or not; a checker that raises is named in ``missing``

They share an ``Index`` of the history, so that a column is gone through once and not once per checker. A checker may
be called with a bare history as well.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from brokerproof.checkers.index import Index
from brokerproof.checkers.view import side_by_side, threads_for
from brokerproof.errors import HarnessError
from brokerproof.finding import Count, Finding
from brokerproof.history import History

Kind = Literal["anomaly", "observation"]


@dataclass(frozen=True, slots=True)
class Checker:
    """name: the module's. keys: what it reports, by kind. file: where it is defined."""

    name: str
    keys: Mapping[str, Kind]
    run: Callable[[Index], Finding]
    file: str

    def __call__(self, history: History | Index) -> Finding:
        return self.run(history if isinstance(history, Index) else Index(history))

    @property
    def prose(self) -> str:
        """The contradiction in words: the first paragraph of the function's documentation."""
        return " ".join((inspect.getdoc(self.run) or "").split("\n\n", 1)[0].replace("``", "`").split())


_REGISTRY: dict[str, Checker] = {}
_HERE = Path(__file__).parent


def checker(*, anomalies: Sequence[str] = (), observations: Sequence[str] = ()) -> Callable[..., Checker]:
    """Registers a function under its name and its keys. Raises HarnessError, naming both files, where either is taken."""

    def register(run: Callable[[Index], Finding]) -> Checker:
        keys: dict[str, Kind] = dict.fromkeys(anomalies, "anomaly")
        keys.update(dict.fromkeys(observations, "observation"))
        made = Checker(run.__name__, keys, run, run.__code__.co_filename)
        for other in _REGISTRY.values():
            if other.file == made.file and other.name == made.name:
                continue  # the same module, imported again
            if other.name == made.name:
                raise HarnessError(f"two checkers are called {made.name!r}: {other.file} and {made.file}")
            for key in made.keys.keys() & other.keys.keys():
                raise HarnessError(f"two checkers report {key!r}: {other.file} and {made.file}")
        _REGISTRY[made.name] = made
        return made

    return register


def checkers() -> tuple[Checker, ...]:
    """All checkers, by name: whatever the modules of this folder register."""
    _registered()
    return tuple(_REGISTRY[name] for name in sorted(_REGISTRY))


@functools.cache
def _registered() -> None:
    """Imports them all. Once: to look through the folder again takes as long as judging a small history."""
    for module in pkgutil.iter_modules([str(_HERE)]):
        if module.name != "base":
            importlib.import_module(f"{__package__}.{module.name}")


def keys() -> dict[str, Kind]:
    """Every key that is decided, and its kind."""
    return {key: kind for each in checkers() for key, kind in sorted(each.keys.items())}


def found(**counts: Count) -> Mapping[str, Count]:
    """Sugar: ``Finding(anomalies=found(lost=...))``."""
    return counts


def check(history: History, *, drawn: bool = True) -> Finding:
    """Everything that all checkers say about ``history``. drawn: with what a report draws: timeline, witnesses, recovery.

    Costs a few passes over the columns that are used, O(rows); sorting only of what is suspicious or of ordering keys.
    """
    from brokerproof.checkers.recovery import recovery
    from brokerproof.checkers.timeline import timeline
    from brokerproof.checkers.witnesses import witnesses

    index = Index(history)
    said = judge(index, checkers())
    missing = [*index.missing(), *said.missing]
    parts: dict[str, Any] = {"timeline": {}, "witnesses": (), "recovery": ()}
    pictures = (
        ("timeline", lambda: timeline(index)),
        ("witnesses", lambda: witnesses(index, said.anomalies)),
        ("recovery", lambda: recovery(index)),
    )

    def draw(part: tuple[str, Callable[[], Any]]) -> str:
        name, make = part
        try:
            parts[name] = make()
        except Exception as exc:
            return f"the {name} could not be made: {type(exc).__name__}: {exc}"
        return ""

    if drawn:
        missing += [said for said in side_by_side(draw, pictures, threads_for(index.rows)) if said]
    return replace(
        said, operations=index.operations, missing=tuple(missing), exercised=index.exercised,
        timeline=parts["timeline"], witnesses=parts["witnesses"], recovery=parts["recovery"],
    )  # fmt: skip


def judge(index: Index, some: Sequence[Checker]) -> Finding:
    """What some of the checkers say: their classes, sentences and metrics, and nothing else."""

    def run(each: Checker) -> tuple[Finding, str]:
        try:
            return each.run(index), ""
        except Exception as exc:  # whatever it is, it must be heard of and must not silence the others
            return Finding(), f"{type(exc).__name__}: {exc}"

    anomalies: dict[str, Count] = {}
    observations: dict[str, Count] = {}
    metrics: dict[str, float] = {}
    missing: list[str] = []
    for each, (partial, raised) in zip(some, side_by_side(run, some, threads_for(index.rows)), strict=True):
        if raised:
            missing.append(f"checker {each.name} raised {raised}")
        for key, kind in each.keys.items():
            into, given = (anomalies, partial.anomalies) if kind == "anomaly" else (observations, partial.observations)
            into[key] = Count(details={"raised": raised}) if raised else given.get(key, Count())
        metrics.update(partial.metrics)
        missing.extend(partial.missing)
    return Finding(
        anomalies=dict(sorted(anomalies.items())),
        observations=dict(sorted(observations.items())),
        missing=tuple(missing),
        metrics=metrics,
    )


def describe() -> Iterator[dict[str, Any]]:
    """One entry per key, for ``list checkers`` and the documentation."""
    for each in checkers():
        for key, kind in each.keys.items():
            yield {"key": key, "kind": kind, "checker": each.name, "means": each.prose}
