"""``ci/proofs kill-matrix``: every bug of the memory broker against every claim that is decided on it.

A check that was never red proves nothing. So each bug has to turn the claims that forbid it VIOLATED, and no other;
the sound broker violates only what is known to be wrong as stated. Writes docs/proofs/kill-matrix.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from brokerproof.brokers.memory.cluster import BUGS, SOUND

PAGE = Path(__file__).parents[1] / "docs" / "proofs" / "kill-matrix.md"
SEED = 5

#: Violated on the sound broker as well: the claim is wrong as stated, and a sharpened one holds.
WRONG_AS_STATED = frozenset({"amqp/topic-star-hash"})
#: Bug -> the claims that forbid it. A bug that shows without any fault does so in sham arms too, and then nothing can be
#: said of a fault: those are forbidden by claims without one.
FORBIDS: Mapping[str, frozenset[str]] = {
    "loses-acknowledged": frozenset({"broker/kept-until-consumed"}),
    "doubles": frozenset({"broker/kept-until-consumed"}),
    "corrupts": frozenset({"broker/kept-until-consumed"}),
    "reorders": frozenset({"order/one-queue-one-consumer", "order/same-lane"}),
    "acks-early": frozenset({"producer/confirm-means-taken--dead-connection"}),
    "forgets-on-restart": frozenset({"producer/confirm-means-taken--dead-connection"}),
    "wrong-lane": frozenset({"order/same-lane"}),
    "matches-too-little": frozenset({"amqp/topic-star-hash--zero-or-more"}),
    "matches-nothing-with-hash": frozenset({"amqp/topic-star-hash", "amqp/topic-star-hash--zero-or-more"}),
    "ignores-the-last-word": frozenset({"amqp/direct-exact"}),
    "forgets-the-last-binding": frozenset(
        {"amqp/fanout-all", "amqp/direct-exact", "amqp/topic-star-hash", "amqp/topic-star-hash--zero-or-more"}
    ),
}

#: Bug -> claims that it may violate by what it implies, if it happens to hit their treatment and not their sham arm:
#: what is dropped or unreadable is lost, and what is lost has no effect.
_LOSS = frozenset(
    {
        "consumer/manual-ack-no-loss",
        "producer/acknowledged-survives-link-cut",
        "producer/confirm-means-taken--dead-connection",
    }
)
IMPLIES: Mapping[str, frozenset[str]] = {
    "loses-acknowledged": _LOSS,
    "corrupts": _LOSS,
    "doubles": frozenset({"producer/resend-duplicates--only-then"}),
}

Words = dict[str, str]
#: What the page shows: what depends on the moment (whether some other evidence is missing too) is one sign.
KILLED, IMPLIED, SOUND_AND_HOLDS, NOT_VIOLATED = "**✗**", "~", "✓", "·"


def decide(version: str, folder: Path, *select: str) -> Words:
    """claim -> verdict on the memory broker of that version, quick profile; raises RuntimeError where it had errors."""
    chosen = [word for claim in select for word in ("--select", claim)]
    done = subprocess.run(
        [sys.executable, "-m", "brokerproof.cli", "run", "--broker", f"memory={version}", "--seed", str(SEED),
         "--run-dir", version, *chosen], cwd=folder, text=True, capture_output=True, timeout=600,
    )  # fmt: skip
    file = folder / version / "results.json"
    if not file.exists():
        raise RuntimeError(f"memory={version} left no results: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    results = json.loads(file.read_text())
    if results["errors"]:
        raise RuntimeError(f"memory={version} had errors: {results['errors']}")
    return {entry["claim"]: entry["verdict"] for entry in results["claims"]}


def wrong(version: str, words: Words) -> list[str]:
    """Sentences about claims that a bug should have killed and did not, or should not have and did."""
    forbidding = FORBIDS.get(version, frozenset())
    allowed = forbidding | WRONG_AS_STATED | IMPLIES.get(version, frozenset())
    out = [f"{version} should violate {c}, which is {words.get(c, 'not decided')}"
           for c in sorted(forbidding) if words.get(c) != "VIOLATED"]  # fmt: skip
    if version == SOUND:
        out += [f"sound should keep {c}, which is {w}" for c, w in sorted(words.items())
                if w != "HOLDS" and c not in WRONG_AS_STATED]  # fmt: skip
    return out + [
        f"{version} violates {c}, which does not forbid it"
        for c, word in sorted(words.items()) if word == "VIOLATED" and c not in allowed
    ]  # fmt: skip


def sign(version: str, claim: str, word: str) -> str:
    """One cell of the page."""
    if claim in IMPLIES.get(version, ()):
        return IMPLIED
    if word == "VIOLATED":
        return KILLED if claim in FORBIDS.get(version, ()) else "✗"
    return SOUND_AND_HOLDS if version == SOUND and word == "HOLDS" else NOT_VIOLATED


def page(matrix: Mapping[str, Words]) -> str:
    claims = sorted({claim for words in matrix.values() for claim in words})
    versions = [SOUND, *BUGS]
    lines = [
        "# The kill matrix",
        "",
        "Every bug of the memory broker against every claim that the quick profile decides on it. A check that was",
        f"never red proves nothing. Written by `ci/proofs kill-matrix` (seed {SEED}).",
        "",
        "| sign | means |",
        "|---|---|",
        f"| {KILLED} | VIOLATED, and it has to be: the claim forbids the bug |",
        "| ✗ | VIOLATED on the sound broker as well: the claim is wrong as stated, and a sharpened one holds |",
        f"| {IMPLIED} | forbidden by what the bug implies; VIOLATED, or UNKNOWN where the bug shows in the sham arm too |",
        f"| {SOUND_AND_HOLDS} | HOLDS on the sound broker |",
        f"| {NOT_VIOLATED} | not violated: HOLDS, or UNKNOWN where the bug shows in a control or in a safe arm |",
        "",
        "| bug | what it does | violates |",
        "|---|---|---|",
    ]
    for bug, does in BUGS.items():
        killed = [c for c in claims if sign(bug, c, matrix[bug].get(c, "")) == KILLED]
        lines.append(f"| `{bug}` | {does} | {', '.join(f'`{c}`' for c in killed)} |")
    lines += ["", "| claim | " + " | ".join(versions) + " |", "|---" * (len(versions) + 1) + "|"]
    for claim in claims:
        lines.append(f"| {claim} | " + " | ".join(sign(v, claim, matrix[v].get(claim, "")) for v in versions) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/proofs kill-matrix", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page says something else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        matrix = {}
        for version in (SOUND, *BUGS):
            matrix[version] = decide(version, Path(folder))
            print(version, {c: w for c, w in matrix[version].items() if w != "HOLDS"}, flush=True)
    problems = [sentence for version, words in matrix.items() for sentence in wrong(version, words)]
    for sentence in problems:
        print(sentence, file=sys.stderr)
    new = page(matrix)
    if options.check:
        if PAGE.read_text() != new:
            problems.append("stale")
            print(f"{PAGE.name} is not what the matrix says; run ci/proofs kill-matrix", file=sys.stderr)
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(new)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
