"""``brokerproof gate RUN``: whether a pipeline may go on, by the run's results alone.

Against what is expected, in three ways: a *new violation* (worse than its line says), an *unexpected pass* (better: the line is
stale, and would hide the next break), a *changed count* (a cell that was decided is not any more, or is new). UNKNOWN is none of
these: evidence is missing, exit 3. An interrupted run is not judged to its end, so it proves nothing: exit 4.

    its line says          the run shows
                           HOLDS             VIOLATED        UNKNOWN           UNSUPPORTED
    (no line), HOLDS       as expected       new violation   evidence missing  as expected without a line, else changed count
    VIOLATED               unexpected pass   as expected     evidence missing  changed count
    UNSUPPORTED            unexpected pass   new violation   evidence missing  as expected

Of cases the same: PASS, and what is worse in its order; INCONCLUSIVE is missing evidence; SKIP is as UNSUPPORTED. NONSTRICT without a
line is as expected, unless with ``--strict``. ``cells`` and ``cases`` of ``[gate]`` count what was decided, and neither UNSUPPORTED
nor SKIP is: so a cell without a line that turns UNSUPPORTED changes the count.

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
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brokerproof.brokers.base import broker, products
from brokerproof.conformance.manifest import DEFAULTS as CASE_DEFAULTS
from brokerproof.conformance.manifest import manifest_in
from brokerproof.errors import UsageError, unreadable
from brokerproof.expected import DEFAULTS as CELL_DEFAULTS
from brokerproof.expected import line_for, lines
from brokerproof.results import (
    EXIT_HARNESS,
    EXIT_MISSING,
    EXIT_OK,
    EXIT_UNEXPECTED,
    SCHEMA,
    interruption,
    load_json,
    open_run,
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
#: Chance that any figure of a whole comparison stops a pipeline though nothing has changed.
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Note:
    """One reason why a pipeline stops. where: claim or case with its target.  file, line: what has to be changed, if anything.
    about: what tells it from others of the same kind and place, the same from run to run: a profile, the name of a figure."""

    what: What
    where: str
    says: str
    again: str = ""
    file: str = ""
    line: int = 0
    about: str = ""


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
    """``results.json`` of a run, or of a file of its own, in the form that a gate reads. Raises UsageError."""
    file = run if run.is_file() else open_run(run).path / "results.json"
    results = load_json(file)
    if results.get("schema") != SCHEMA:
        raise UsageError(f"{str(file)!r}: expected results of schema {SCHEMA}, got {results.get('schema')!r}")
    _shaped(file, results)
    return results


_IN_BOTH = ("broker", "version", "variant", "verdict", "expected")
_TEXTS = {
    "claims": ("claim", "profile", "kind", "reason", *_IN_BOTH), "cases": ("case", "slug", "observed", *_IN_BOTH),
    "errors": ("where", "error"), "gate": ("target",),
}  # fmt: skip
_NUMBER = (int, float)


def _shaped(file: Path, results: Mapping[str, Any]) -> None:
    """Raises UsageError, with the place, for what is not of the form that ``brokerproof run`` writes."""

    def must(fits: bool, place: str, wanted: str, found: object) -> None:
        if not fits:
            raise UsageError(
                f"{str(file)!r}, {place}: expected {wanted}, got {json.dumps(found)[:80]}; was it edited, or cut short? "
                "`brokerproof check RUN --replace` writes it anew"
            )

    for part, names in _TEXTS.items():
        entries = results.get(part, () if part == "gate" else None)
        must(isinstance(entries, list | tuple), part, "a list", entries)
        for n, entry in enumerate(entries or ()):
            must(isinstance(entry, dict), f"{part}[{n}]", "an object", entry)
            for name in names:
                must(isinstance(entry.get(name), str), f"{part}[{n}].{name}", "a text", entry.get(name))
            if part == "gate":
                must(_all(entry.get("says"), str), f"{part}[{n}].says", "a list of texts", entry.get("says"))
            if part in ("claims", "cases"):
                must(
                    isinstance(entry.get("as_expected"), bool),
                    f"{part}[{n}].as_expected",
                    "true or false",
                    entry.get("as_expected"),
                )
    for n, entry in enumerate(results["claims"]):
        for name in ("treatment", "comparison", "recovery"):
            found = entry.get(name)
            must(found is None or isinstance(found, dict), f"claims[{n}].{name}", "an object or null", found)
        for name, interval, others in (
            ("treatment", "wilson95", ("violated", "trials")),
            ("comparison", "ci95", ("ratio",)),
        ):
            found = entry.get(name)
            if found and (name == "comparison" or interval in found):
                place, span = f"claims[{n}].{name}", found.get(interval)
                must(_all(span, _NUMBER) and len(span) == 2, f"{place}.{interval}", "two numbers", span)
                for other in others:
                    must(_is(found.get(other), _NUMBER), f"{place}.{other}", "a number", found.get(other))
        injections = (entry.get("recovery") or {}).get("treatment")
        place = f"claims[{n}].recovery.treatment"
        must(injections is None or _all(injections, dict), place, "a list of objects", injections)
        for i, injection in enumerate(injections or ()):
            must(isinstance(injection.get("fault"), str), f"{place}[{i}].fault", "a text", injection.get("fault"))
            figures = injection.get("figures")
            must(isinstance(figures, dict), f"{place}[{i}].figures", "an object", figures)
            for name in FIGURES.keys() & figures.keys():
                fits = isinstance(figures[name], dict) and all(
                    _is(figures[name].get(k), _NUMBER) for k in ("n", "least", "most")
                )
                must(not figures[name] or fits, f"{place}[{i}].figures.{name}", "n, least and most", figures[name])


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _all(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(_is(item, kind) for item in value)


# -- against what is expected ------------------------------------------------------------------------------------------


def against_expected(results: Mapping[str, Any], file: Path | None = None, *, strict: bool = False) -> Gate:
    """The three-way rule. file: a file of expected lines, or a folder of ``<product>-<version>.toml``; None: what the run itself
    was compared with. strict: NONSTRICT needs a line too."""
    gate = _begun(results)
    if file is None:
        for entry in (*results["claims"], *results["cases"]):
            listed = not entry.get("unlisted", True) if "claim" in entry else bool(entry.get("listed"))
            what = _what(entry, str(entry["expected"]), listed=listed, strict=strict or not entry["as_expected"])
            if what is not None:
                gate.notes.append(_difference(what, entry, str(entry["expected"])))
        for said in results.get("gate", ()):
            gate.notes += [Note("changed count", said["target"], sentence, about=sentence) for sentence in said["says"]]
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


def _what(entry: Entry, word: str, *, listed: bool, strict: bool) -> What | None:
    """The rule of the module's table, for one verdict. word: the expected one.  listed: whether a line says so."""
    verdict = str(entry["verdict"])
    if verdict == "HARNESS":
        return None  # said already
    if verdict in _MISSING:
        return "evidence missing"
    if verdict == word or (verdict == "NONSTRICT" and not listed and not strict):
        return None
    if verdict in _APART:
        return "changed count" if listed else None
    order = CLAIM_ORDER if "claim" in entry else CASE_ORDER
    worse = verdict not in order or (order.index(verdict) > order.index(word) if word in order else verdict != order[0])
    return "new violation" if worse else "unexpected pass"


def _begun(results: Mapping[str, Any]) -> Gate:
    gate = Gate(len(results["claims"]) + len(results["cases"]))
    if cut := interruption(results):
        gate.notes.append(Note("harness error", str(results.get("run", "")), cut))
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
    for part, table in (("claims", "cell"), ("cases", "case")):
        for entry in mine[part]:
            own = _own_line(file, entry)
            word = (
                own["verdict"]
                if own
                else "HOLDS"
                if part == "claims"
                else "INFO"
                if entry["verdict"] == "INFO"
                else "PASS"
            )
            what = _what(entry, word, listed=own is not None, strict=strict)
            if what is not None:
                line = _line_of(file, table, own) if own is not None and file is not None else 0
                gate.notes.append(_difference(what, entry, word, str(file or ""), line))
    if file is None:
        return
    for part, name, kind in (("claims", "cells", "cell"), ("cases", "cases", "case")):
        count = _counts(file).get(name)
        apart = [e for e in mine[part] if e["verdict"] in _APART]
        decided = len(mine[part]) - len(apart)
        if count is not None and count != decided:
            first = "; ".join(
                f"{(e.get('claim') or e.get('case'))} {e['variant']}".strip() + f" is {e['verdict']}" for e in apart[:5]
            )
            gate.notes.append(
                Note("changed count", f"{broker} {version}", f"{decided} {name} were decided, and {file.name} says {count}: "
                     f"a {kind} is missing, or new, or another selection was run"
                     + (f"; not decided: {first}" + (f", and {len(apart) - 5} more" if len(apart) > 5 else "") if apart else ""),
                     file=str(file), about=name)
            )  # fmt: skip
    decided_claims = {e["claim"] for e in mine["claims"]}
    gate.beside += [
        f"{file.name} has a line for {claim}, which this run did not decide"
        for claim in dict.fromkeys(line["claim"] for line in lines(file))
        if decided_claims and claim not in decided_claims and _counts(file)
    ]


def _own_line(file: Path | None, entry: Entry) -> Mapping[str, str] | None:
    """The file's line about this claim or case."""
    if file is None:
        return None
    if "claim" in entry:
        return line_for(file, claim=entry["claim"], variant=entry["variant"], profile=entry["profile"])
    return manifest_in(file).line(entry["case"], entry["variant"])


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise unreadable("expected results", file, exc) from exc


def _counts(file: Path) -> Mapping[str, int]:
    """The table ``[gate]``: ``cells`` and ``cases`` that a run of this pipeline decides. Raises UsageError."""
    table = _toml(file).get("gate", {})
    if (
        not isinstance(table, dict)
        or set(table) - {"cells", "cases"}
        or any(type(v) is not int for v in table.values())
    ):
        raise UsageError(f"{str(file)!r}: [gate] may have cells and cases, a number each; has {table}")
    return table


def _line_of(file: Path, table: str, own: Mapping[str, str]) -> int:
    """Where the file has this line of its ``[[cell]]`` or ``[[case]]`` tables, 1 for its first; 0 where it cannot be said: tables may
    be written in other ways too."""
    defaults = CELL_DEFAULTS if table == "cell" else CASE_DEFAULTS
    raw = [{**defaults, **entry} for entry in _toml(file)[table]]
    texts = file.read_text(encoding="utf-8").splitlines()
    begins = [n for n, text in enumerate(texts) if re.fullmatch(rf"\s*\[\[\s*{table}\s*\]\]\s*(#.*)?", text)]
    if own not in raw or len(begins) != len(raw):
        return 0
    begin = begins[raw.index(dict(own))]
    named = "claim" if table == "cell" else "case"
    for n, text in enumerate(texts[begin + 1 :], begin + 1):
        if text.lstrip().startswith("["):
            break
        if re.match(rf"\s*{named}\s*=", text):
            return n + 1
    return begin + 1


def _difference(what: What, entry: Entry, word: str, file: str = "", line: int = 0) -> Note:
    claim = "claim" in entry
    said = str(entry["reason"] if claim else entry["observed"])
    name = _claim_name(entry) if claim else _case_name(entry)
    about = str(entry["profile"]) if claim else ""
    return Note(what, name, f"{entry['verdict']}, expected {word}: {said}", _again(entry), file, line, about)


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
        for about, sentence in _figures(entry, old, alpha):
            yield Note("worse", name, sentence, _again(entry), about=f"{entry['profile']} {about}")


def _figures(entry: Entry, old: Entry, alpha: float) -> Iterator[tuple[str, str]]:
    """(name, sentence) of the treatment's figures that got worse, beyond what their spread explains."""
    now, then = (e.get("treatment") or {} for e in (entry, old))
    # A hazard is to show: of it fewer trials are not better.
    if (
        entry["kind"] == "promise"
        and now.get("wilson95")
        and then.get("wilson95")
        and now["wilson95"][0] > then["wilson95"][1]
    ):
        yield (
            "rate",
            (
                f"it shows in {now['violated']} of {now['trials']} trials, 95 % interval {_span(now['wilson95'])}, in the baseline in "
                f"{then['violated']} of {then['trials']}, {_span(then['wilson95'])}"
            ),
        )
    new_ratio, old_ratio = entry.get("comparison") or {}, old.get("comparison") or {}
    if new_ratio and old_ratio and new_ratio["ci95"][1] < old_ratio["ci95"][0]:
        yield (
            "ratio",
            (
                f"{new_ratio['ratio']:.3g} times as fast, 95 % interval {_span(new_ratio['ci95'])}, in the baseline {old_ratio['ratio']:.3g}, "
                f"{_span(old_ratio['ci95'])}"
            ),
        )
    pairs = zip(_injections(entry), _injections(old), strict=False)
    for n, (fault_now, fault_then) in enumerate(pairs):
        if fault_now["fault"] != fault_then["fault"]:
            continue
        for figure, unit in FIGURES.items():
            a, b = fault_now["figures"].get(figure), fault_then["figures"].get(figure)
            if not a or not b or 1 / math.comb(a["n"] + b["n"], a["n"]) > alpha or a["least"] <= b["most"]:
                continue
            yield (
                f"{figure} after {fault_now['fault']} {n}",
                (
                    f"{figure} after {fault_now['fault']}: {a['least']:.4g} to {a['most']:.4g} {unit} in {a['n']} trials, in the baseline "
                    f"{b['least']:.4g} to {b['most']:.4g} in {b['n']}"
                ),
            )


def _injections(entry: Entry) -> Sequence[Mapping[str, Any]]:
    return (entry.get("recovery") or {}).get("treatment") or ()


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3g} to {interval[1]:.3g}"


# -- writing expected lines --------------------------------------------------------------------------------------------


def write_expected(results: Mapping[str, Any], file: Path, date: str, *, strict: bool = False) -> list[str]:
    """Writes a file of what this run showed, with its counts, for a pipeline of its own; returns what has no line.

    A line for each verdict that is not the default, its reason the verdict's own sentence. strict: for NONSTRICT too. Raises
    UsageError where the file exists (a line that is there is changed by a person, who has looked at why), the run has several
    targets, or was interrupted.
    """
    if cut := interruption(results):
        raise UsageError(f"{cut}; what it showed is not what the next one has to show")
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
            f"{name} = {sum(e['verdict'] not in _APART for e in results[part])}"
            for part, name in (("claims", "cells"), ("cases", "cases"))
            if results[part]
        ),
        "",
    ]
    for entry in results["claims"]:
        if entry["verdict"] == "UNKNOWN":
            left.append(f"{_claim_name(entry)}: UNKNOWN: {entry['reason']}")
        elif entry["verdict"] != "HOLDS":
            out += _table("cell", claim=entry["claim"], variant=entry["variant"], verdict=entry["verdict"],
                          reason=f"{entry['reason']} ({entry['profile']}, {date})")  # fmt: skip
    for entry in results["cases"]:
        if entry["verdict"] in ("INCONCLUSIVE", "HARNESS"):
            left.append(f"{_case_name(entry)}: {entry['verdict']}: {entry['observed']}")
        elif entry["verdict"] not in ("PASS", "INFO") and (strict or entry["verdict"] != "NONSTRICT"):
            out += _table("case", case=entry["case"], variant=entry["variant"], verdict=entry["verdict"],
                          reason=f"{entry['observed']} ({date})")  # fmt: skip
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(out), encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"--expected {str(file)!r} cannot be written: {exc}; name another place") from exc
    return left


def _table(name: str, **values: str) -> list[str]:
    """One table of the file. Half a surrogate is nothing that UTF-8 or TOML can say: in a reason it is written out, and a name that has
    one is refused, for no line would ever match it."""
    for key, value in values.items():
        if key != "reason" and any(0xD800 <= ord(c) < 0xE000 for c in value):
            raise UsageError(
                f"the {key} {value!r} holds half a surrogate pair, which no file of expected lines can name; what it is called in "
                "results.json was damaged: `brokerproof check RUN --replace` writes it anew"
            )
    # A TOML basic string escapes as JSON does, but for DEL.
    return [
        f"[[{name}]]",
        *(f"{k} = {json.dumps(_whole(v), ensure_ascii=False)}".replace("\x7f", "\\u007f") for k, v in values.items()),
        "",
    ]


def _whole(said: str) -> str:
    return re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", said)
