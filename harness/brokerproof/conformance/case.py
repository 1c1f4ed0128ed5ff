"""What a protocol case is: an id, a requirement, a table of accepted outcomes for each step, and a short script.

    @case(
        "A2.06", "amqp091/content-on-channel-0",
        requirement="A content header frame on channel 0 ends the connection with 504.",
        reference="section 4.2.6.1", level="MUST", negative=True, accepts={"": conn(504)},
    )
    def test_content_on_channel_0(scene: AmqpScene) -> None:
        ...
        scene.saw("", connection.reaction())

The script says what was observed (``Seen``) and never judges; the table judges and sends nothing. What matches no line of
the table is FAIL, shown against the nearest line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from brokerproof.errors import HarnessError
from brokerproof.marked import marked
from brokerproof.versions import applies

Verdict = Literal[
    "PASS", "NONSTRICT", "CODE", "DEV", "UNIMPL", "INFO", "FAIL", "SKIP", "INCONCLUSIVE", "HARNESS"
]  # fmt: skip
#: A case of several steps takes its worst; recorded steps do not count.
WORST_FIRST: tuple[Verdict, ...] = ("FAIL", "DEV", "UNIMPL", "CODE", "NONSTRICT", "PASS")
#: Neither for nor against a broker.
NO_JUDGEMENT: tuple[Verdict, ...] = ("SKIP", "INCONCLUSIVE", "HARNESS")
Level = Literal["MUST", "SHOULD", "MAY", "extension", "unspecified", "?"]
Tag = Literal["slow", "destructive", "cluster", "config", "needs-plugin"]
#: How what was tried ended. closed: the protocol's own Close came first (AMQP's Channel.Close, Connection.Close).
#: eof: the peer closed the TCP connection and said nothing more. open: still open when the window ended.
Ending = Literal["open", "closed", "eof", "reset", ""]
Scope = Literal["connection", "channel", ""]

#: The protocols' own words for "not supported": UNIMPL wherever they come and no line of the table names them.
NOT_SUPPORTED: Mapping[str, int] = {"amqp091": 540, "kafka": 35, "rocketmq": 3}
#: The condition in which the frame that a step is about comes only in part, and its connection ends.
CUT = "cut"
#: What a step shows that did what it must.
AS_REQUIRED = "as required"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step showed.

    behaviour: what was answered, stored or delivered, in the words of the step's table, or others.
    code: the reply or error code that came, if one did.  detail: for the reader; never judged.
    """

    behaviour: str = ""
    ending: Ending = ""
    scope: Scope = ""
    code: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        words = [self.behaviour, f"{self.scope} {self.ending}".strip(), "" if self.code is None else str(self.code)]
        return ", ".join(w for w in words if w) + (f" ({self.detail})" if self.detail else "")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: a pattern over what was seen, and its verdict. None: any.

    behaviour: one of these, or where one ends in ``*`` its beginning.
    codes: one of these; an empty collection means that no code came.
    """

    verdict: Verdict
    behaviour: tuple[str, ...] | None = None
    endings: tuple[Ending, ...] | None = None
    scopes: tuple[Scope, ...] | None = None
    codes: tuple[int, ...] | None = None

    def misses(self, seen: Seen) -> list[str]:
        """The axes on which it differs from what was seen, each in a sentence; none: it matches."""
        out = []
        if self.behaviour is not None and not any(_is(seen.behaviour, b) for b in self.behaviour):
            out.append(f"behaviour {seen.behaviour or 'nothing'!r}, not {_or(self.behaviour)}")
        if self.endings is not None and seen.ending not in self.endings:
            out.append(f"ending {seen.ending or 'not looked at'}, not {_or(self.endings)}")
        if self.scopes is not None and seen.scope not in self.scopes:
            out.append(f"scope {seen.scope or 'none'}, not {_or(self.scopes)}")
        if self.codes is not None:
            wrong = seen.code is not None if not self.codes else seen.code not in self.codes
            if wrong:
                out.append(f"code {seen.code}, not {_or([str(c) for c in self.codes]) or 'none'}")
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            **{
                k: None if v is None else list(v)
                for k, v in (
                    ("behaviour", self.behaviour), ("endings", self.endings), ("scopes", self.scopes), ("codes", self.codes),
                )
            },
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """The accepted outcomes of a step, first match wins. says: the table in a sentence, for lists and pages."""

    says: str
    lines: tuple[Line, ...]

    def judge(self, seen: Seen, protocol: str) -> tuple[Verdict, str]:
        """The verdict, and for a FAIL why no line matched."""
        unsupported = seen.code is not None and seen.code == NOT_SUPPORTED.get(protocol)
        for line in self.lines:
            if line.misses(seen):
                continue
            if unsupported and line.verdict != "PASS" and seen.code not in (line.codes or ()):
                break
            return line.verdict, "" if line.verdict == "PASS" else f"{seen}; required: {self.says}"
        if unsupported:
            return "UNIMPL", f"refused as not supported: {seen}"
        judging = [line for line in self.lines if line.verdict in WORST_FIRST]
        nearest = min(judging, key=lambda line: (len(line.misses(seen)), -WORST_FIRST.index(line.verdict)))
        return "FAIL", f"{seen}; nearest accepted ({nearest.verdict}): {'; '.join(nearest.misses(seen))}"

    def or_else(self, *lines: Line, says: str = "") -> Table:
        """With these lines before the others."""
        return Table(says or self.says, (*lines, *self.lines))

    def to_json(self) -> dict[str, Any]:
        return {"says": self.says, "lines": [line.to_json() for line in self.lines]}


# -- the usual tables --------------------------------------------------------------------------------------------------


def conn(*codes: int) -> Table:
    """AMQP: the connection must be refused with one of these codes."""
    return _refused("connection", codes)


def chan(*codes: int) -> Table:
    """AMQP: the channel must be closed with one of these codes."""
    return _refused("channel", codes)


def _refused(scope: Scope, codes: tuple[int, ...]) -> Table:
    return Table(
        f"{scope} closed with {_or([str(c) for c in codes])}",
        (
            Line("PASS", endings=("closed",), scopes=(scope,), codes=codes),
            Line("CODE", endings=("closed",)),
            Line("CODE", endings=("eof", "reset")),
        ),
    )


def silent() -> Table:
    """The peer must end the connection and send nothing more; a coded Close first is within the rule's meaning."""
    return Table(
        "the connection is ended without a word",
        (
            Line("PASS", endings=("eof", "reset"), scopes=("connection",)),
            Line("NONSTRICT", endings=("closed",), scopes=("connection",)),
        ),
    )


def error(*codes: int) -> Table:
    """Kafka, RocketMQ: answered with one of these error codes. The script says ``answered`` with the code, 0 for success;
    where success is due, every error is FAIL."""
    due = Line("PASS", behaviour=("answered",), codes=codes)
    if 0 in codes:
        return Table("success", (due,))
    return Table(
        f"error {_or([str(c) for c in codes])}",
        (due, Line("FAIL", behaviour=("answered",), codes=(0,)), Line("CODE", behaviour=("answered",))),
    )


def must(says: str = AS_REQUIRED) -> Table:
    """Done as said, or FAIL: ``scene.require``."""
    return Table(says, (Line("PASS", behaviour=(AS_REQUIRED,)),))


def should(says: str = AS_REQUIRED) -> Table:
    """Done as said, or NONSTRICT: only a SHOULD is missed."""
    return Table(says, (Line("PASS", behaviour=(AS_REQUIRED,)), Line("NONSTRICT")))


#: What is not asked here: of this variant, or this version. Such a step is not judged.
NOT_ASKED = Line("INFO", behaviour=("not asked",))

#: Through ``CUT``, whatever the frame would have been whole. What came before it, or its beginning alone, may be refused.
CUT_SHORT = Table(
    "the connection is over, and nothing was answered: half a frame is not acted on",
    (
        Line("PASS", behaviour=("", "silent", "no answer", "closed", "reset"), endings=("eof", "reset")),
        Line("PASS", behaviour=("",), endings=("closed",)),
    ),
)


def among(says: str, **behaviours: Verdict) -> Table:
    """Behaviours by name (``_`` stands for a space), each with its verdict; others are FAIL."""
    return Table(
        says, tuple(Line(verdict, behaviour=(name.replace("_", " "),)) for name, verdict in behaviours.items())
    )


# -- cases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A case with everything about it that is data.

    id: for ever; ``A2.03a``.  slug: ``<protocol>/<name>``.  accepts: step -> its table, ``""`` where there is one step only.
    records: names of what is recorded beside, or instead: a case without a table is recorded only, and comes out as INFO.
    variants: variant -> where it applies (``""`` everywhere, else as ``needs``).
    conditions: client links it is repeated through (``protocols.CONDITIONS``), each with the tables that then stand in the place of
    ``accepts``, step by step. Where frames are cut short, ``CUT_SHORT`` is that of every step that says what answered.
    needs: ``rabbitmq>=3.10``: where the feature is; outside SKIP.  why_not: why, for the reader.
    negative: something forbidden is sent: afterwards everything else must be as it was.
    timing: it is about when something happens: on a reference peer its times are shortened less.
    window_s: how long a reaction is waited for.  limit_s: for the case as a whole.
    topology, settings, variant_settings: of the cluster it is run on, in the vendor's words.  version_settings: such as only some
    versions know, by where they are, as ``needs``.  equipment: of its nodes, where this machine has it (``runtime.equipment``); without, the script does what it can and says so.
    """

    id: str
    slug: str
    requirement: str
    reference: str
    level: Level
    accepts: Mapping[str, Table]
    records: Sequence[str]
    tags: frozenset[Tag]
    variants: Mapping[str, str]
    conditions: Mapping[str, Mapping[str, Table]]
    needs: str
    negative: bool
    timing: bool
    window_s: float
    limit_s: float
    topology: str
    settings: Mapping[str, Any]
    variant_settings: Mapping[str, Mapping[str, Any]]
    version_settings: Mapping[str, Mapping[str, Any]]
    equipment: Sequence[str]
    revision: int
    script: Callable[[Any], None] = field(repr=False)
    file: str = ""

    @property
    def protocol(self) -> str:
        return self.slug.partition("/")[0]

    @property
    def section(self) -> str:
        """``A2`` of ``A2.03a``."""
        return self.id.partition(".")[0]

    @property
    def alone(self) -> bool:
        """Whether others would feel it."""
        return "destructive" in self.tags

    def tables(self, condition: str) -> Mapping[str, Table]:
        """Step -> its table, through this condition ("" none)."""
        return {**self.accepts, **self.conditions.get(condition, {})}

    def watched(self, condition: str) -> bool:
        """Whether everything else must be found as it was before."""
        return self.negative or condition == CUT

    def settings_of(self, variant: str, product: str, version: str) -> dict[str, Any]:
        known = [more for where, more in self.version_settings.items() if applies(where, product, version)]
        return {
            **self.settings,
            **self.variant_settings.get(variant, {}),
            **{k: v for more in known for k, v in more.items()},
        }

    def absent(self, product: str, version: str, variant: str) -> str:
        """Why it does not apply there, in a sentence; empty where it does."""
        for needs in (self.needs, self.variants[variant]):
            if needs and not applies(needs, product, version):
                return f"needs {needs}"
        return ""

    def to_json(self, condition: str = "") -> dict[str, Any]:
        return {
            "case": self.id, "slug": self.slug, "requirement": self.requirement, "reference": self.reference,
            "level": self.level, "tags": sorted(self.tags), "section": self.section, "revision": self.revision,
            "accepts": {step: table.to_json() for step, table in self.tables(condition).items()}, "records": list(self.records),
        }  # fmt: skip


def case(
    id: str, slug: str, *, requirement: str, reference: str, level: Level, accepts: Mapping[str, Table] | None = None,
    records: Sequence[str] = (), tags: Collection[Tag] = (), variants: Sequence[str] | Mapping[str, str] = ("",),
    conditions: Sequence[str] | Mapping[str, Mapping[str, Table]] = (), needs: str = "", negative: bool = False, timing: bool = False, window_s: float = 5.0,
    limit_s: float = 60.0, topology: str = "single", settings: Mapping[str, Any] | None = None,
    variant_settings: Mapping[str, Mapping[str, Any]] | None = None, version_settings: Mapping[str, Mapping[str, Any]] | None = None,
    equipment: Sequence[str] = (), revision: int = 1,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:  # fmt: skip
    """Marks a function as the script of a case; the arguments are ``Case``'s. Raises HarnessError for data that cannot be."""
    if not re.fullmatch(r"[AKR]\d\.\d\d[a-z]?", id) or "/" not in slug:
        raise HarnessError(f"case {id!r}: an id is like A2.03a and a slug like amqp091/frame-oversize, not {slug!r}")
    if not accepts and not records:
        raise HarnessError(f"case {id}: accepts nothing and records nothing, so it can show nothing")
    if level not in get_args(Level) or set(tags) - set(get_args(Tag)):
        raise HarnessError(f"case {id}: level {level!r} or a tag of {sorted(tags)} does not exist")

    def mark(script: Callable[[Any], None]) -> Callable[[Any], None]:
        script.brokerproof_case = Case(  # type: ignore[attr-defined]  # functions take attributes; pytest's marks do so too
            id=id, slug=slug, requirement=requirement, reference=reference, level=level, accepts=dict(accepts or {}),
            records=tuple(records), tags=frozenset(tags),
            variants=dict(variants) if isinstance(variants, Mapping) else dict.fromkeys(variants, ""),
            conditions=dict(conditions) if isinstance(conditions, Mapping) else {c: {} for c in conditions}, needs=needs, negative=negative, timing=timing, window_s=window_s,
            limit_s=limit_s, topology=topology, settings=dict(settings or {}),
            variant_settings=dict(variant_settings or {}), version_settings=dict(version_settings or {}), equipment=tuple(equipment), revision=revision, script=script,
            file=Path(script.__code__.co_filename).name,
        )  # fmt: skip
        return script

    return mark


def cases_of(folder: Path) -> list[Case]:
    """All cases of the ``test_*.py`` files below a folder, by id. Raises HarnessError when two have one id."""
    return marked(folder.rglob("test_*.py"), "brokerproof_case", Case, lambda one: one.id, "case")


def worst(verdicts: Collection[Verdict]) -> Verdict:
    """The verdict of a case with these steps; INFO for none."""
    return next((v for v in WORST_FIRST if v in verdicts), "INFO")


def _is(behaviour: str, pattern: str) -> bool:
    return behaviour.startswith(pattern[:-1]) if pattern.endswith("*") else behaviour == pattern


def _or(words: Collection[str]) -> str:
    return " or ".join(words) if not isinstance(words, str) else words
