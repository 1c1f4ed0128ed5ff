"""``ci/covered``: docs/conformance/coverage.md, what the protocol cases exercise, and what is not as required on which version.

Made of the cases (``suites/conformance``) and of what each is expected to show (``suites/expected``), where every line has its
measured reason; a run that shows something else fails in CI.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kio.schema.errors import ErrorCode
from pamqp.exceptions import CLASS_MAPPING

from brokerproof.conformance.case import Case, cases_of
from brokerproof.conformance.manifest import manifest
from brokerproof.conformance.protocols import PROTOCOLS
from brokerproof.conformance.running import jobs_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "conformance" / "coverage.md"
EXPECTED = ROOT / "suites" / "expected"
NAMES = {"amqp091": "AMQP 0-9-1", "kafka": "Kafka", "rocketmq": "RocketMQ"}
LEVELS = ("MUST", "SHOULD", "MAY", "extension", "unspecified", "?")
_WORST = ("FAIL", "DEV", "CODE", "UNIMPL", "NONSTRICT", "SKIP", "INFO", "PASS")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="ci/covered", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not what comes out")
    check = parser.parse_args(arguments).check
    text = "\n".join(page(cases_of(ROOT / "suites" / "conformance"))) + "\n"
    if check and (not PAGE.exists() or PAGE.read_text() != text):
        print(
            f"{PAGE.relative_to(ROOT)} is not what the cases and expected results say; run ci/covered", file=sys.stderr
        )
        return 1
    if not check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)
    return 0


def page(cases: Sequence[Case]) -> Iterator[str]:
    """The lines of the page."""
    yield "# What the protocol cases cover"
    yield ""
    yield (
        "Written by `ci/covered` from `suites/conformance` and `suites/expected`. Each case is one requirement of a protocol, sent "
        "octet by octet to a real broker and judged by a table of accepted outcomes; `brokerproof conformance --case ID` repeats it. "
        "A case that is in no list below shows what is required, or is recorded only."
    )
    for protocol, name in NAMES.items():
        mine = [c for c in cases if c.protocol == protocol]
        if mine:
            yield from _protocol(protocol, name, mine)


def _protocol(protocol: str, name: str, cases: Sequence[Case]) -> Iterator[str]:
    yield from ("", f"## {name}", "")
    yield from _counts(cases)
    for product in (p for p, speaks in PROTOCOLS.items() if speaks == protocol):
        for file in sorted(EXPECTED.glob(f"{product}-*.toml"), reverse=True):
            yield from _target(product, file.stem.partition("-")[2], cases)
    yield from ("", f"### Codes that {name} cases ask for", "", "| code | cases |", "|---|---|")
    for code, asked in sorted(_codes(cases).items()):
        yield f"| {code} {_name(protocol, code)} | {', '.join(asked)} |".replace("  ", " ")
    yield from ("", f"### Rules that {name} cases are about", "", "| rule | cases |", "|---|---|")
    rules: dict[str, list[str]] = {}
    for case in cases:
        for rule in re.split(r";\s*", case.reference):
            rules.setdefault(rule.strip(), []).append(case.id)
    for rule, about in sorted(rules.items(), key=lambda item: _natural(item[0])):
        yield f"| {_escape(rule)} | {', '.join(about)} |"


def _counts(cases: Sequence[Case]) -> Iterator[str]:
    levels = [level for level in LEVELS if any(c.level == level for c in cases)]
    yield f"| section | {' | '.join(levels)} | cases | with variants and conditions |"
    yield "|---" * (len(levels) + 3) + "|"
    for section in sorted({c.section for c in cases}):
        here = [c for c in cases if c.section == section]
        counts = Counter(c.level for c in here)
        row = " | ".join(str(counts[level] or "") for level in levels)
        yield f"| {section} | {row} | {len(here)} | {len(jobs_of(here))} |"
    counts = Counter(c.level for c in cases)
    row = " | ".join(str(counts[level]) for level in levels)
    yield f"| all | {row} | {len(cases)} | {len(jobs_of(cases))} |"


def _target(product: str, version: str, cases: Sequence[Case]) -> Iterator[str]:
    lines = manifest(EXPECTED, product, version).lines
    if not lines:
        return
    slugs = {c.id: c.slug for c in cases}
    yield from ("", f"### Not simply as required: {product} {version}", "")
    yield from ("| verdict | case | seen | the vendor says so |", "|---|---|---|---|")
    order = sorted(lines, key=lambda x: (_WORST.index(x["verdict"]), _natural(x["case"]), x["variant"]))
    for line in order:
        variant = "" if line["variant"] in ("", "*") else f" ({line['variant']})"
        case = f"{line['case']} {slugs.get(line['case'].partition('@')[0], '').partition('/')[2]}{variant}"
        yield f"| {line['verdict']} | {_escape(case)} | {_escape(line['reason'])} | {_escape(line['address'])} |"


def _codes(cases: Sequence[Case]) -> Mapping[int, list[str]]:
    """Reply or error code -> cases of which some outcome names it as the one that is due."""
    out: dict[int, list[str]] = {}
    for case in cases:
        due = {
            c
            for table in case.accepts.values()
            for line in table.lines
            if line.verdict == "PASS"
            for c in line.codes or ()
        }
        for code in due:
            out.setdefault(code, []).append(case.id)
    return out


def _name(protocol: str, code: int) -> str:
    if protocol == "amqp091" and code in CLASS_MAPPING:
        return str(CLASS_MAPPING[code].name)
    if protocol == "kafka":
        return next((e.name.upper() for e in ErrorCode if e.value == code), "")
    return ""


def _escape(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("|", "\\|").replace("<", "&lt;")).strip()


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
