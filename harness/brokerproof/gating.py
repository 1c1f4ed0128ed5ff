"""``brokerproof gate RUN``: whether a pipeline may go on, by the run's results alone.

Against what is expected, in three ways: a *new violation* (worse than its line says), an *unexpected pass* (better: the line is
stale, and would hide the next break), a *changed count* (a cell that was decided is not any more, or is new). UNKNOWN is none of
these: evidence is missing, exit 3.

Against a baseline run, with ``--baseline``: only what got worse counts.

    of a claim   HOLDS, then UNKNOWN, then VIOLATED; of a promise as of a hazard: a hazard that no longer shows is a change, and
                 whoever is glad of it changes the line
    of a case    PASS and INFO, NONSTRICT, UNIMPL, CODE, DEV, FAIL
    of a rate    the 95 % interval of its trials that show it lies above that of the baseline
    of a figure  its lowest value over the trials lies above the highest of the baseline's (where more is better: below); one trial
                 on either side has no spread, and is not compared

Nothing in the run is changed.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brokerproof.brokers.base import broker, products
from brokerproof.conformance.manifest import manifest_in
from brokerproof.errors import UsageError
from brokerproof.expected import line_for, lines
from brokerproof.results import (
    EXIT_HARNESS,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_UNEXPECTED,
    SCHEMA,
    load_json,
    open_run,
    unexpected,
)

Entry = Mapping[str, Any]
What = Literal["new violation", "unexpected pass", "changed count", "evidence missing", "harness error", "worse"]

#: From best to worst (see the module's text).
CLAIM_ORDER = ("HOLDS", "UNKNOWN", "VIOLATED")
CASE_ORDER = ("PASS", "NONSTRICT", "UNIMPL", "CODE", "DEV", "FAIL")
_MISSING = ("UNKNOWN", "INCONCLUSIVE")
#: Neither for nor against.
_APART = ("UNSUPPORTED", "SKIP")
#: Figures of ``recovery`` and their units; of all of them less is better.
FIGURES = {
    "detection_s": "s", "gap_s": "s", "rto_s": "s", "clients_last_s": "s", "lanes_last_s": "s", "rpo_messages": "messages lost",
    "rpo_s": "s of lost messages", "before_p99_ms": "ms", "during_p99_ms": "ms", "after_p99_ms": "ms", "duplicates_ratio": "of 1 twice",
}  # fmt: skip
#: Trials on either side from which on the least and the most say something of the spread.
#: Chance that any figure of a whole comparison stops a pipeline though nothing has changed.
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Note:
    """One reason why a pipeline stops. where: claim or case with its target.  file, line: what has to be changed, if anything."""

    what: What
    where: str
    says: str
    again: str = ""
    file: str = ""
    line: int = 0


@dataclass(slots=True)
class Gate:
    """What was found. decided: how many verdicts.  beside: sentences that stop nothing."""

    decided: int
    notes: list[Note] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def exit_code(self) -> int:
        """Fixed, the first that applies: 4 harness, 1 any difference, 3 evidence missing, 0."""
        kinds = {note.what for note in self.notes}
        if "harness error" in kinds or not self.decided:
            return EXIT_HARNESS
        if kinds - {"evidence missing"}:
            return EXIT_UNEXPECTED
        return EXIT_MISSING if kinds else EXIT_OK


def results_of(run: Path) -> dict[str, Any]:
    """``results.json`` of a run, or of a file of its own. Raises UsageError."""
    file = run if run.is_file() else open_run(run).path / "results.json"
    results = load_json(file)
    if results.get("schema") != SCHEMA or not all(
        isinstance(results.get(k), list) for k in ("claims", "cases", "errors")
    ):
        raise UsageError(f"{str(file)!r}: expected results of schema {SCHEMA}, got {results.get('schema')!r}")
    return results


# -- against what is expected ------------------------------------------------------------------------------------------


def against_expected(results: Mapping[str, Any], file: Path | None = None, *, strict: bool = False) -> Gate:
    """The three-way rule. file: a file of expected lines, or a folder of ``<product>-<version>.toml``; None: what the run itself
    was compared with. strict: NONSTRICT needs a line too."""
    gate = _begun(results)
    if file is None:
        for entry in unexpected((*results["claims"], *results["cases"])):
            if entry["verdict"] == "HARNESS":
                continue
            gate.notes.append(_difference(entry, str(entry["expected"]), "", 0))
        for said in results.get("gate", ()):
            gate.notes += [Note("changed count", said["target"], sentence) for sentence in said["says"]]
        return gate
    if not file.exists():
        raise UsageError(
            f"expected results {str(file)!r} do not exist; `brokerproof gate RUN --expected {file} --write` makes them"
        )
    for target in _targets(results):
        own = _file_of(file, target)
        if own is None:
            gate.beside.append(f"no expected results of {' '.join(target)} in {file}: all of it is expected to hold")
        _compare(gate, results, target, own, strict=strict)
    return gate


def _begun(results: Mapping[str, Any]) -> Gate:
    gate = Gate(len(results["claims"]) + len(results["cases"]))
    gate.notes += [Note("harness error", str(e["where"]), str(e["error"])) for e in results["errors"]]
    gate.notes += [
        Note("harness error", _case_name(c), str(c["observed"]), _again(c))
        for c in results["cases"]
        if c["verdict"] == "HARNESS"
    ]
    return gate


def _targets(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    return sorted({(str(e["broker"]), str(e["version"])) for e in (*results["claims"], *results["cases"])})


def _file_of(file: Path, target: tuple[str, str]) -> Path | None:
    """A folder has a file for each target; a single file is about every target, unless it is called after one."""
    name = f"{target[0]}-{target[1]}.toml"
    if file.is_dir():
        return file / name if (file / name).exists() else None
    return file if file.name == name or not _named_after_a_target(file) else None


def _named_after_a_target(file: Path) -> bool:
    product, dash, version = file.stem.partition("-")
    return bool(dash and product in products() and version in broker(product).versions)


def _compare(
    gate: Gate, results: Mapping[str, Any], target: tuple[str, str], file: Path | None, *, strict: bool
) -> None:
    broker, version = target
    mine = {part: [e for e in results[part] if (e["broker"], e["version"]) == target] for part in ("claims", "cases")}
    for entry in mine["claims"]:
        word, line = "HOLDS", 0
        if file is not None:
            own = line_for(file, claim=entry["claim"], variant=entry["variant"], profile=entry["profile"])
            word, line = (own["verdict"], _line_of(file, "claim", entry["claim"])) if own else ("HOLDS", 0)
        if entry["verdict"] != word and entry["verdict"] not in _APART:
            gate.notes.append(_difference(entry, word, str(file or ""), line))
    known = manifest_in(file) if file is not None else None
    for entry in mine["cases"]:
        found = known.line(entry["case"], entry["variant"]) if known is not None else None
        word = found["verdict"] if found else ("INFO" if entry["verdict"] == "INFO" else "PASS")
        fine = entry["verdict"] in (word, "SKIP", "HARNESS") or (
            not found and entry["verdict"] == "NONSTRICT" and not strict
        )
        if not fine:
            line = _line_of(file, "case", entry["case"]) if found and file is not None else 0
            gate.notes.append(_difference(entry, word, str(file or ""), line))
    if file is None:
        return
    for part, name, kind in (("claims", "cells", "cell"), ("cases", "cases", "case")):
        count = _counts(file).get(name)
        if count is not None and count != len(mine[part]):
            gate.notes.append(
                Note("changed count", f"{broker} {version}", f"{len(mine[part])} {name} were decided, and {file.name} says {count}: "
                     f"a {kind} is missing, or new, or another selection was run", file=str(file))
            )  # fmt: skip
    decided = {e["claim"] for e in mine["claims"]}
    gate.beside += [
        f"{file.name} has a line for {claim}, which this run did not decide"
        for claim in dict.fromkeys(line["claim"] for line in lines(file)) if decided and claim not in decided and _counts(file)
    ]  # fmt: skip


def _counts(file: Path) -> Mapping[str, int]:
    """The table ``[gate]``: ``cells`` and ``cases`` that a run of this pipeline decides. Raises UsageError."""
    table = tomllib.loads(file.read_text()).get("gate", {})
    if (
        not isinstance(table, dict)
        or set(table) - {"cells", "cases"}
        or any(type(v) is not int for v in table.values())
    ):
        raise UsageError(f"{str(file)!r}: [gate] may have cells and cases, a number each; has {table}")
    return table


def _line_of(file: Path | None, key: str, value: str) -> int:
    """Where the file has it, 1 for its first line; 0 nowhere."""
    wanted = f"{key} = {json.dumps(value)}"
    for n, text in enumerate(file.read_text().splitlines() if file else (), 1):
        if text.strip() == wanted:
            return n
    return 0


def _difference(entry: Entry, word: str, file: str, line: int) -> Note:
    verdict = str(entry["verdict"])
    claim = "claim" in entry
    name = _claim_name(entry) if claim else _case_name(entry)
    said = str(entry["reason"] if claim else entry["observed"])
    if verdict in _MISSING:
        return Note("evidence missing", name, f"{verdict}, expected {word}: {said}", _again(entry), file, line)
    order = CLAIM_ORDER if claim else CASE_ORDER
    worse = verdict not in order or (order.index(verdict) > order.index(word) if word in order else verdict != order[0])
    what: What = "new violation" if worse else "unexpected pass"
    return Note(what, name, f"{verdict}, expected {word}: {said}", _again(entry), file, line)


def _claim_name(entry: Entry) -> str:
    return " ".join(
        part for part in (entry["claim"], "on", entry["broker"], entry["version"], entry["variant"]) if part
    )


def _case_name(entry: Entry) -> str:
    parts = (entry["case"], entry["slug"], "on", entry["broker"], entry["version"], entry["variant"])
    return " ".join(part for part in parts if part)


def _again(entry: Entry) -> str:
    if entry.get("command"):
        return str(entry["command"])
    if "case" not in entry:
        return ""
    variant = f" --variant {entry['variant']}" if entry["variant"] else ""
    return f"brokerproof conformance --broker {entry['broker']}={entry['version']} --case {entry['case']}{variant}"


# -- against a baseline ------------------------------------------------------------------------------------------------


def against_baseline(results: Mapping[str, Any], baseline: Mapping[str, Any]) -> Gate:
    """What got worse. A cell that only one of them has, or whose experiment was changed (its revision), is said beside."""
    gate = _begun(results)
    same = _same_product(results, baseline)
    gate.beside += [
        f"{product}: {now} is compared with {then} of the baseline"
        for product, (now, then) in same.items()
        if now != then
    ]
    before = {_key(e, same): e for part in ("claims", "cases") for e in baseline[part]}
    after = {_key(e, same): e for part in ("claims", "cases") for e in results[part]}
    figures = sum(len(FIGURES) * len(_injections(entry)) for key, entry in after.items() if key in before)
    for key, entry in after.items():
        old = before.get(key)
        name = _claim_name(entry) if "claim" in entry else _case_name(entry)
        if old is None:
            gate.beside.append(f"{name}: not in the baseline; {entry['verdict']}")
        elif old.get("revision") != entry.get("revision"):
            gate.beside.append(
                f"{name}: revision {old.get('revision')} in the baseline, {entry.get('revision')} now: not the same experiment, not compared"
            )
        else:
            gate.notes += _worse(entry, old, name, gate.beside, ALPHA / max(1, figures))
    for key in before.keys() - after.keys():
        old = before[key]
        name = _claim_name(old) if "claim" in old else _case_name(old)
        gate.notes.append(Note("worse", name, f"was {old['verdict']}, and is not decided any more"))
    gate.notes.sort(key=lambda note: note.where)
    return gate


def _same_product(results: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Product -> (version, version of the baseline) where each run has one of it: a new version is compared with the old."""
    found: dict[str, tuple[str, str]] = {}
    now, then = _targets(results), _targets(baseline)
    for product in {product for product, _ in now}:
        versions = [[v for p, v in targets if p == product] for targets in (now, then)]
        if all(len(v) == 1 for v in versions):
            found[product] = (versions[0][0], versions[1][0])
    return dict(sorted(found.items()))


def _key(entry: Entry, same: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    name = ("claim", entry["claim"], entry["profile"]) if "claim" in entry else ("case", entry["case"], "")
    version = "" if entry["broker"] in same else entry["version"]
    return (*name, entry["broker"], version, entry["variant"])


def _worse(entry: Entry, old: Entry, name: str, beside: list[str], alpha: float = ALPHA) -> Iterator[Note]:
    claim = "claim" in entry
    order = CLAIM_ORDER if claim else CASE_ORDER
    now, then = ("PASS" if e["verdict"] == "INFO" else str(e["verdict"]) for e in (entry, old))
    said = str(entry["reason"] if claim else entry["observed"])
    if now == then and (not claim or now in _APART):
        return
    if now in _MISSING and then not in _MISSING:
        yield Note(
            "evidence missing",
            name,
            f"was {then}, is {now}: whether it got worse cannot be said; {said}",
            _again(entry),
        )
        return
    if then in (*_MISSING, *_APART, "HARNESS") and now not in _APART:
        beside.append(f"{name}: was {then}, is {now}: the baseline has no verdict to compare with")
        if now == order[-1]:
            yield Note("worse", name, f"was {then}, is {now}: {said}", _again(entry))
        return
    if now in _APART and then not in _APART:
        yield Note("worse", name, f"was {then}, is {now}: {said}", _again(entry))
        return
    if now in order and then in order and order.index(now) != order.index(then):
        if order.index(now) > order.index(then):
            yield Note("worse", name, f"was {then}, is {now}: {said}", _again(entry))
        else:
            beside.append(f"{name}: better, was {then}, is {now}")
        return
    if claim:
        yield from (Note("worse", name, sentence, _again(entry)) for sentence in _figures(entry, old, alpha))


def _figures(entry: Entry, old: Entry, alpha: float) -> Iterator[str]:
    """Figures of the treatment that got worse, beyond what their spread explains."""
    now, then = (e.get("treatment") or {} for e in (entry, old))
    # A hazard is to show: of it fewer trials are not better.
    if (
        entry["kind"] == "promise"
        and now.get("wilson95")
        and then.get("wilson95")
        and now["wilson95"][0] > then["wilson95"][1]
    ):
        yield (
            f"it shows in {now['violated']} of {now['trials']} trials, 95 % interval {_span(now['wilson95'])}, in the baseline in "
            f"{then['violated']} of {then['trials']}, {_span(then['wilson95'])}"
        )
    new_ratio, old_ratio = entry.get("comparison") or {}, old.get("comparison") or {}
    if new_ratio and old_ratio and new_ratio["ci95"][1] < old_ratio["ci95"][0]:
        yield (
            f"{new_ratio['ratio']:.3g} times as fast, 95 % interval {_span(new_ratio['ci95'])}, in the baseline {old_ratio['ratio']:.3g}, "
            f"{_span(old_ratio['ci95'])}"
        )
    pairs = zip(_injections(entry), _injections(old), strict=False)
    for fault_now, fault_then in pairs:
        if fault_now["fault"] != fault_then["fault"]:
            continue
        for figure, unit in FIGURES.items():
            a, b = fault_now["figures"].get(figure), fault_then["figures"].get(figure)
            if not a or not b or 1 / math.comb(a["n"] + b["n"], a["n"]) > alpha or a["least"] <= b["most"]:
                continue
            yield (
                f"{figure} after {fault_now['fault']}: {a['least']:.4g} to {a['most']:.4g} {unit} in {a['n']} trials, in the baseline "
                f"{b['least']:.4g} to {b['most']:.4g} in {b['n']}"
            )


def _injections(entry: Entry) -> Sequence[Mapping[str, Any]]:
    return (entry.get("recovery") or {}).get("treatment") or ()


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3g} to {interval[1]:.3g}"


# -- writing expected lines --------------------------------------------------------------------------------------------


def write_expected(results: Mapping[str, Any], file: Path, date: str) -> list[str]:
    """Writes a file of what this run showed, with its counts, for a pipeline of its own; returns what has no line.

    A line for each verdict that is not the default, its reason the verdict's own sentence. Raises UsageError where the file
    exists (a line that is there is changed by a person, who has looked at why) or the run has several targets.
    """
    targets = _targets(results)
    if file.exists():
        raise UsageError(
            f"{str(file)!r} exists: a line of it is changed by whoever has looked at why; write another and compare"
        )
    if len(targets) != 1:
        raise UsageError(f"the run has {len(targets)} targets; write a file for each, from a run of each")
    left, out = (
        [],
        [
            f"# What {' '.join(targets[0])} showed on {date}; `brokerproof gate RUN --expected {file.name}` compares.",
            "",
        ],
    )
    out += [
        "[gate]",
        *(
            f"{name} = {len(results[part])}"
            for part, name in (("claims", "cells"), ("cases", "cases"))
            if results[part]
        ),
        "",
    ]
    for entry in results["claims"]:
        if entry["verdict"] == "UNKNOWN":
            left.append(f"{_claim_name(entry)}: UNKNOWN: {entry['reason']}")
        elif entry["verdict"] not in ("HOLDS", "UNSUPPORTED"):
            out += _table("cell", claim=entry["claim"], variant=entry["variant"], verdict=entry["verdict"],
                          reason=f"{entry['reason']} ({entry['profile']}, {date})")  # fmt: skip
    for entry in results["cases"]:
        if entry["verdict"] in ("INCONCLUSIVE", "HARNESS"):
            left.append(f"{_case_name(entry)}: {entry['verdict']}: {entry['observed']}")
        elif entry["verdict"] not in ("PASS", "INFO", "NONSTRICT", "SKIP"):
            out += _table("case", case=entry["case"], variant=entry["variant"], verdict=entry["verdict"],
                          reason=f"{entry['observed']} ({date})")  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(out))
    return left


def _table(name: str, **values: str) -> list[str]:
    # A TOML basic string escapes as JSON does, but for DEL.
    return [
        f"[[{name}]]",
        *(f"{k} = {json.dumps(v, ensure_ascii=False)}".replace("\x7f", "\\u007f") for k, v in values.items()),
        "",
    ]
