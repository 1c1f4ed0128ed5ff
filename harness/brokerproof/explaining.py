"""``brokerproof explain RUN MESSAGE``: the life of one message, from the files alone.

Who sent it, when and how often, what came of it, every delivery, settle and effect, which faults were active then, where
each broker node had it after the final read, and what the checkers say of it. Works on a run, on one trial's folder, and on any folder with a ``history.arrow``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brokerproof.checkers.base import checkers, judge
from brokerproof.checkers.faulttimes import fault_times
from brokerproof.checkers.index import Index
from brokerproof.checkers.witnesses import lifelines
from brokerproof.errors import HistoryError, UsageError, unknown
from brokerproof.finding import Count
from brokerproof.history import F, History, read_history
from brokerproof.places import read_places
from brokerproof.results import load_json
from brokerproof.where import Where

_ABOUT = ("send", "receive", "settle", "effect")
#: What a row says, by function.
_DID = {"send": "sends it", "receive": "receives it", "settle": "settles it", "effect": "has its effect"}
_TRIALS_MAX = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """lines: as of ``checkers.witnesses``.  faults: ``{"fault", "targets", "from_s", "to_s", "evidence"}``, ``to_s`` None
    where it was not healed.  places: node -> where it had the message after the final read, at ``places_at_s``;
    ``places_missing`` says why there are none.  says: class -> its kind and prose, for the classes that this message is one of."""

    trial: str
    message: int
    broker: str
    lines: Sequence[Mapping[str, Any]]
    faults: Sequence[Mapping[str, Any]]
    places: Mapping[str, Where]
    places_at_s: float
    places_missing: str
    says: Mapping[str, Mapping[str, str]]
    missing: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial, "message": self.message, "broker": self.broker, "lines": list(self.lines),
            "faults": list(self.faults), "places": {node: where.to_json() for node, where in self.places.items()},
            "places_at_s": self.places_at_s, "places_missing": self.places_missing, "says": dict(self.says), "missing": list(self.missing),
        }  # fmt: skip


class _All(Index):
    """Counts that name every message, not only the first hundred."""

    def count(self, ids: Any, **details: Any) -> Count:
        numbers = self.numbers.number(np.sort(ids))
        return Count(count=len(ids), messages=tuple(numbers.tolist()), details=details)


def explain(path: Path, message: int, trial: str = "") -> Life:
    """Raises UsageError where there is no such message or trial, or the message stands in several trials."""
    folder, history = _the_one(path, message, trial)
    index = _All(history)
    said = judge(index, checkers())
    kinds = {key: (each, kind) for each in checkers() for key, kind in each.keys.items()}
    says = {
        key: {"kind": kinds[key][1], "means": kinds[key][0].prose}
        for key, count in (*said.anomalies.items(), *said.observations.items())
        if message in count.messages
    }
    meta = history.meta
    places, places_at_s, places_missing = read_places(folder, message)
    return Life(
        trial=meta.trial or folder.name, message=message, broker=f"{meta.broker} {meta.version}".strip(),
        lines=lifelines(index, [message])[message], faults=_faults(folder, index), says=says,
        places=places, places_at_s=places_at_s, places_missing=places_missing,
        missing=(*index.missing(), *said.missing),
    )  # fmt: skip


def _the_one(path: Path, message: int, trial: str) -> tuple[Path, History]:
    """The folder of the trial that the message stands in, and its history."""
    if (path / "history.arrow").exists() or path.is_file():
        folder = path if path.is_dir() else path.parent
        history = read_history(path / "history.arrow" if path.is_dir() else path)
        if trial and trial not in (folder.name, history.meta.trial):
            raise unknown("trial", trial, [history.meta.trial or folder.name])
        if not _has(history, message):
            raise UsageError(f"no message {message} in {str(path)!r}; {_numbers(history)}")
        return folder, history
    folders = {f.parent.name: f.parent for f in sorted((path / "trials").glob("*/history.arrow"))}
    if not folders:
        raise UsageError(
            f"{str(path)!r} holds neither a history.arrow nor trials/*/history.arrow; name a run or a trial"
        )
    if trial and trial not in folders:
        raise unknown("trial", trial, folders)
    here: dict[str, History] = {}
    known: dict[str, str] = {}
    for name in [trial] if trial else folders:
        try:
            history = read_history(folders[name] / "history.arrow")
        except HistoryError as exc:
            known[name] = str(exc)
            continue
        known[name] = _numbers(history)
        if _has(history, message):
            here[name] = history
    if len(here) == 1:
        ((name, history),) = here.items()
        return folders[name], history
    lines = "".join(f"\n  {name}: {known[name]}" for name in list(here or known)[:_TRIALS_MAX])
    if len(here or known) > _TRIALS_MAX:
        lines += f"\n  and {len(here or known) - _TRIALS_MAX} more"
    if here:
        raise UsageError(f"message {message} stands in {len(here)} trials; say which with --trial:{lines}")
    raise UsageError(f"no message {message} in {str(path)!r}; there are:{lines}")


def _has(history: History, message: int) -> bool:
    return message >= 0 and any(bool((part["msg"] == message).any()) for part in history.parts)


def _numbers(history: History) -> str:
    """Which messages there are, as a sentence's end."""
    low, high, sends = None, None, 0
    for part in history.parts:
        mine = part["msg"][(part["f"] == F["send"]) & (part["msg"] >= 0)]
        if len(mine):
            low = int(mine.min()) if low is None else min(low, int(mine.min()))
            high = int(mine.max()) if high is None else max(high, int(mine.max()))
            sends += len(mine)
    return "no message was sent in it" if low is None else f"messages {low} to {high} were sent, {sends} sends in all"


def _faults(folder: Path, index: Index) -> list[dict[str, Any]]:
    """From ``faults.json``, which knows targets and evidence; else from the rows of the injector."""
    file = folder / "faults.json"
    if file.exists():
        return [
            {
                "fault": i["fault"], "targets": list(i["targets"]), "from_s": i["injected_s"],
                "to_s": i["healed_s"] if i["healed_s"] >= 0 else None, "evidence": i["evidence"],
            }
            for i in load_json(file).get("injections", ())
            if i["injected_s"] >= 0 and not i.get("dry")
        ]  # fmt: skip
    out: list[dict[str, Any]] = []
    for at, what, text in fault_times(index):
        name, _, targets = text.partition(" ")
        if what == "inject":
            out.append({"fault": name, "targets": targets.split(",") if targets else [], "from_s": at / 1e9,
                        "to_s": None, "evidence": "unproven"})  # fmt: skip
        else:
            for one in out:
                if one["fault"] == name and one["to_s"] is None:
                    one["to_s"] = at / 1e9
                    break
    return out


def sentences(life: Life) -> Iterator[str]:
    """The life as text, a line each."""
    of = f" on {life.broker}" if life.broker else ""
    yield f"message {life.message} of trial {life.trial}{of}"
    sends = [line for line in life.lines if line["f"] == "send"]
    if sends:
        key = f", key {sends[0]['key']}" if sends[0]["key"] >= 0 else ", no ordering key"
        yield f"  sent by process {sends[0]['process']} to {sends[0]['lane'] or 'an unknown lane'}{key}"
    else:
        yield "  nobody sent it"
    yield ""
    for line in life.lines:
        yield _sentence(line)
        active = [f for f in life.faults if _during(line, f)]
        if active and line["f"] in _ABOUT:
            yield "".join((" " * 33, "during ", ", ".join(_fault(f) for f in active)))
    yield ""
    if life.places:
        yield f"where the nodes had it after the final read, at {life.places_at_s:.3f} s:"
        active = [f for f in life.faults if _during({"t_s": life.places_at_s, "end_s": None}, f)]
        if active:
            yield f"  during {', '.join(_fault(f) for f in active)}"
        for node, where in life.places.items():
            for n, said in enumerate(where.lines()):
                yield f"  {node if n == 0 else '':<4} {said}"
    else:
        yield f"where the nodes had it: {life.places_missing}"
    yield ""
    if life.says:
        yield "the checkers say:"
        for key, what in life.says.items():
            yield f"  {key} ({what['kind']}): {what['means']}"
    else:
        yield "the checkers say nothing of it"
    for sentence in life.missing:
        yield f"evidence missing: {sentence}"


def _sentence(line: Mapping[str, Any]) -> str:
    end = "never ended" if line["end_s"] is None else f"{(line['end_s'] - line['t_s']) * 1000:.3f} ms"
    if line["f"] not in _ABOUT:
        return f"{line['t_s']:12.6f} s  {'':>16}  {line['error'] or line['f']}"
    who = f"{line['role'] or 'process'} {line['process']}"
    words = [who, _DID[line["f"]], f"in {line['lane']}" if line["lane"] else "", line["outcome"]]
    words += [f"position {line['pos']}" if line["pos"] >= 0 else ""]
    words += [{0: "first delivery", -1: ""}.get(line["attempt"], f"redelivery {line['attempt']}")]
    words += [f"batch {line['batch']}" if line["batch"] >= 0 else "", line["error"]]
    return f"{line['t_s']:12.6f} s  {end:>16}  {', '.join(word for word in words if word)}"


def _during(line: Mapping[str, Any], fault: Mapping[str, Any]) -> bool:
    ends = line["t_s"] if line["end_s"] is None else line["end_s"]
    return bool(
        line["t_s"] <= (fault["to_s"] if fault["to_s"] is not None else float("inf")) and ends >= fault["from_s"]
    )


def _fault(fault: Mapping[str, Any]) -> str:
    until = "never healed" if fault["to_s"] is None else f"to {fault['to_s']:.3f} s"
    return f"{fault['fault']} on {', '.join(fault['targets']) or '?'} ({fault['from_s']:.3f} s {until}, {fault['evidence']})"


def show(path: Path, message: str, trial: str, *, as_json: bool) -> int:
    """Prints the life; exit code 0."""
    try:
        number = int(message)
    except ValueError:
        raise UsageError(f"message {message!r}: expected a number, as reports and findings name it") from None
    life = explain(path, number, trial)
    if as_json:
        print(json.dumps(life.to_json()))
    else:
        print("\n".join(sentences(life)))
    return 0
