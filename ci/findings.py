"""``ci/findings``: docs/findings.md, what was found of brokers, for a reader who chooses settings.

Made of the claims (``suites/claims``) and of what each cell is expected to show (``suites/expected``), where every line has its
measured reason; a run that shows something else fails in CI. A claim is put under what it sharpens.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from brokerproof.brokers.base import broker, without
from brokerproof.claims import Declared, declared
from brokerproof.expected import lines, undecided

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "findings.md"
#: What people call the products.
NAMES = {"rabbitmq": "RabbitMQ", "kafka": "Kafka", "rocketmq": "RocketMQ"}
#: Sections that are about the tool and not about a broker.
_NOT_HERE = ("faults",)
#: Claim kind and verdict -> what that means to the reader.
_MEANS = {
    ("promise", "HOLDS"): "holds", ("promise", "VIOLATED"): "does not hold",
    ("property", "HOLDS"): "holds", ("property", "VIOLATED"): "does not hold",
    ("hazard", "HOLDS"): "can happen", ("hazard", "VIOLATED"): "did not happen",
    ("comparison", "HOLDS"): "so it is", ("comparison", "VIOLATED"): "not so",
    ("measurement", "HOLDS"): "measured", ("measurement", "VIOLATED"): "not so",
}  # fmt: skip
_LACKS = "has no such thing"
#: Asked for in full, and neither shown nor contradicted.
_BETWEEN = "not decided"
_OTHERS = {"UNSUPPORTED": _LACKS, "UNKNOWN": _BETWEEN}


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of the expected results, and where it stands."""

    product: str
    version: str
    variant: str
    verdict: str
    reason: str

    def means(self, kind: str) -> str:
        """The verdict of a claim of that kind, in the reader's words."""
        return _OTHERS.get(self.verdict) or _MEANS[kind, self.verdict]

    @property
    def where(self) -> str:
        variant = "" if self.variant in ("", "*") else f", {self.variant}"
        return f"{NAMES[self.product]} {self.version}{variant}"


def page(claims: Sequence[Declared], shown: dict[str, list[Shown]]) -> Iterator[str]:
    known = [d for d in claims if d.claim.id in shown]
    by_id = {d.claim.id: d for d in claims}
    first = [d for d in known if not d.claim.sharpens or d.claim.sharpens not in shown]
    wrong = [d for d in first if any(s.verdict == "VIOLATED" for s in shown[d.claim.id])]
    yield "# Findings\n"
    yield (
        "What this harness found of brokers, each line with what was measured and against which control. *does not hold*, *not so*: the "
        "sentence was contradicted by a run that can be repeated with the command `brokerproof run --broker PRODUCT=VERSION "
        "--select CLAIM --profile standard`; *did not happen*: it is said to happen every time, and did not once; *not decided*: two were "
        "compared, and the interval of their ratio lies beyond the margin on neither side. Written by `ci/findings` from "
        "`suites/claims` and `suites/expected`; numbers are of the machine and the day that a line names. S0 to S4 are five sets of notes "
        "on message queues whose sentences were put to the test; (ours) was not in them.\n"
    )
    yield from _counts(known, shown)
    yield "\n## What is not as it is said\n"
    for d in wrong:
        yield from _told(d, known, shown, by_id)
    yield "## What can go wrong, and what helps\n"
    yield "The right column is the safe arm: the same load under the same fault, and nothing of the kind.\n"
    yield "| what | seen on | what helps |\n|---|---|---|"
    for d in known:
        seen = [s for s in shown[d.claim.id] if s.verdict == "HOLDS"]
        if d.claim.kind == "hazard" and seen:
            helps = d.claim.control.removesuffix(": the safe arm")
            yield f"| {_cell(d.claim.sentence)} `{d.claim.id}` | {_where(seen)} | {_cell(helps)} |"
    yield "\n## Everything else, by section\n"
    for section in sorted({_section(d) for d in first}):
        yield f"### {section}\n"
        for d in (d for d in first if _section(d) == section and d not in wrong):
            yield from _told(d, known, shown, by_id)
    yield from _cells(claims, shown)


def _cells(claims: Sequence[Declared], shown: dict[str, list[Shown]]) -> Iterator[str]:
    """Every cell with a word for its verdict, and the ones that are open: a page that kept quiet about those would be
    taken for all there is to ask. Of a version that is not the newest only what was run: it is asked where it may differ."""
    versions = {product: broker(product).versions for product in NAMES}
    columns = [
        (product, version)
        for product in NAMES
        for version in versions[product]
        if any((s.product, s.version) == (product, version) for lines_ in shown.values() for s in lines_)
    ]
    open_: Counter[tuple[str, str]] = Counter()
    rows = []
    for d in claims:
        row = []
        for product, version in columns:
            words: dict[str, list[str]] = {}
            for variant in d.brokers.get(product, ()):
                line = next(
                    (s for s in shown.get(d.claim.id, ()) if (s.product, s.version) == (product, version) and s.variant in (variant, "*")),
                    None,
                )  # fmt: skip
                if line is None and version != versions[product][0]:
                    continue
                lacks = line is None and bool(without(product, version, d.needs))
                open_[product, version] += line is None and not lacks
                word = line.means(d.claim.kind) if line else _LACKS if lacks else "open"
                words.setdefault(word, []).append(variant)
            row.append(
                "; ".join(w if v == [""] else f"{w}: {', '.join(x or 'plain' for x in v)}" for w, v in words.items())
            )
        if any(row):
            rows.append(f"| `{d.claim.id}` | {' | '.join(row)} |")
    yield "## Every cell\n"
    yield "Where a claim has several variants they are named. " + (
        "Open, not run or without all the evidence that a verdict needs: "
        + ", ".join(f"{n} of {NAMES[p]} {v}" for (p, v), n in open_.items() if n)
        + ".\n"
        if any(open_.values())
        else "None is open.\n"
    )
    yield "| claim | " + " | ".join(f"{NAMES[p]} {v}" for p, v in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    yield from rows


def _counts(known: Sequence[Declared], shown: dict[str, list[Shown]]) -> Iterator[str]:
    count: dict[tuple[str, str], Counter[str]] = {}
    for d in known:
        for s in shown[d.claim.id]:
            count.setdefault((s.product, s.version), Counter())[s.means(d.claim.kind)] += 1
    seen = set().union(*count.values())
    words = [*dict.fromkeys(_MEANS.values()), *(word for word in _OTHERS.values() if word in seen)]
    yield f"| | {' | '.join(words)} |"
    yield "|---|" + "---|" * len(words)
    for (product, version), means in sorted(count.items()):
        yield f"| {NAMES[product]} {version} | {' | '.join(str(means[word]) for word in words)} |"


def _told(
    d: Declared, known: Sequence[Declared], shown: dict[str, list[Shown]], by_id: dict[str, Declared], depth: int = 0
) -> Iterator[str]:
    """A claim, what it shows where, and what sharpens it."""
    if depth == 0:
        yield f"**{d.claim.sentence}** (`{d.claim.id}`; {d.claim.source})\n"
    else:
        yield f"\n  → {d.claim.sentence} (`{d.claim.id}`)\n"
    indent = "  " * depth
    for s in shown[d.claim.id]:
        yield f"{indent}- {s.where}: *{s.means(d.claim.kind)}*. {s.reason}."
    for other in known:
        if other.claim.sharpens == d.claim.id:
            yield from _told(other, known, shown, by_id, depth + 1)
    if depth == 0:
        yield ""


def _section(d: Declared) -> str:
    return d.claim.id.partition("/")[0]


def _where(seen: Iterable[Shown]) -> str:
    return "; ".join(dict.fromkeys(s.where for s in seen))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not what comes out")
    check = parser.parse_args().check
    shown: dict[str, list[Shown]] = {}
    for file in sorted((ROOT / "suites" / "expected").glob("*.toml")):
        product, _, version = file.stem.partition("-")
        if product in NAMES:
            for line in lines(file):
                shown.setdefault(line["claim"], []).append(
                    Shown(product, version, line["variant"], line["verdict"], line["reason"].rstrip("."))
                )
            for cell in undecided(file):
                shown.setdefault(cell["claim"], []).append(
                    Shown(product, version, cell["variant"], "UNKNOWN", cell["reason"].rstrip("."))
                )
    claims = [d for d in declared(ROOT / "suites" / "claims") if _section(d) not in _NOT_HERE]
    stray = sorted(set(shown) - {d.claim.id for d in claims} - {c for c in shown if c.partition("/")[0] in _NOT_HERE})
    if stray:
        print(f"suites/expected has lines of claims that there are not: {', '.join(stray)}", file=sys.stderr)
        return 1
    text = "\n".join(page(claims, shown)).rstrip() + "\n"
    if not check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print("docs/findings.md is not what the expected results say; write it again with ci/findings", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
