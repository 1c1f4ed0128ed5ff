"""``ci/kills``: which mutants of the reference peers each protocol case sees.

A case that no wrong peer can fail proves nothing. For each case (and variant, and condition) the mutants of its protocol's reference
peer are tried until one changes the outcome: a judged case then has a bad verdict, a recorded one records something else.
Writes ``docs/conformance/kills-<protocol>.json``, {case: [mutants]}, which the self-tests play again, and ``kills.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from brokerproof.conformance import protocols
from brokerproof.conformance.case import CUT, cases_of
from brokerproof.conformance.running import Job, jobs_of
from brokerproof.conformance.scene import Outcome, play

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "conformance"
#: What a mutant must bring about in a judged case.
BAD = ("FAIL", "CODE", "NONSTRICT", "UNIMPL", "DEV")
_TRIES = 3


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="ci/kills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("protocol", nargs="*")
    parser.add_argument("--all", action="store_true", help="every case against every mutant")
    parser.add_argument("--cases", default=".*", help="regular expression over the cases' names (A1.01, A5.09-quorum)")
    parser.add_argument("--threads", type=int, default=3)
    chosen = parser.parse_args()
    survivors = 0
    for protocol in chosen.protocol or sorted(set(protocols.PROTOCOLS.values())):
        survivors += len(write(protocol, chosen.cases, every=chosen.all, threads=chosen.threads))
    page()
    return 1 if survivors else 0


def write(protocol: str, pattern: str, *, every: bool, threads: int) -> list[str]:
    """The cases that no mutant kills."""
    file = FOLDER / f"kills-{protocol}.json"
    known: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
    jobs = {j.slug: j for j in jobs_of(cases_of(ROOT / "suites" / "conformance" / protocol))}
    todo = [job for id, job in jobs.items() if re.fullmatch(pattern, id)]
    with ThreadPoolExecutor(threads) as pool:
        found = dict(pool.map(lambda job: (job.slug, killers(protocol, job, likely(known, job), every)), todo))
    kills = {id: found.get(id, known.get(id, [])) for id in jobs}
    FOLDER.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kills, indent=1) + "\n")
    survivors = [id for id, mutants in found.items() if not mutants]
    print(f"{protocol}: {len(found)} cases, {len(survivors)} that no mutant kills {' '.join(survivors)}")
    return survivors


def killers(protocol: str, job: Job, known: Sequence[str], every: bool) -> list[str]:
    """Mutants that the case sees: the first found, or all. Empty with a line on stderr where the sound peer does not pass."""
    sound = once(protocol, job, "")
    if sound.verdict not in ("PASS", "INFO"):
        print(f"{job.slug}: {sound.verdict} on the sound peer: {sound.observed}", file=sys.stderr)
        return []
    kills = []
    for mutant in ordered(protocols.mutants(protocol), job, known):
        # Twice: on a busy machine a sound peer can be too late as well.
        if all(killed(sound, once(protocol, job, mutant)) for _ in range(2)):
            kills.append(mutant)
            if not every:
                break
    print(f"{job.slug}: {', '.join(kills) or 'nothing kills it'}", flush=True)
    return kills


def once(protocol: str, job: Job, mutant: str) -> Outcome:
    """The sound peer has some tries, for a machine that is busy."""
    for _ in range(1 if mutant else _TRIES):
        ground = protocols.on_reference(protocol, mutant)
        try:
            outcome = play(ground, job.case, variant=job.variant, condition=job.condition)
        finally:
            ground.close()
        if outcome.verdict in ("PASS", "INFO", "SKIP"):
            break
    return outcome


def killed(sound: Outcome, mutated: Outcome) -> bool:
    """Whether the case tells this peer from the sound one."""
    if sound.verdict == "INFO":
        return mutated.verdict == "INFO" and mutated.recorded != sound.recorded
    return mutated.verdict in BAD


def likely(known: Mapping[str, Sequence[str]], job: Job) -> Sequence[str]:
    """What it was seen to see, or the same case without its condition."""
    plain = f"{job.case.id}-{job.variant}" if job.variant else job.case.id
    return known.get(job.slug) or ([] if job.condition == CUT else known.get(plain, []))


def ordered(mutants: Mapping[str, str], job: Job, known: Sequence[str]) -> list[str]:
    """Those most likely to be seen first: known ones, then those whose words are the case's."""
    case = job.case
    words = _words(f"{case.slug} {case.requirement}")

    def unlikely(mutant: str) -> tuple[bool, int]:
        return mutant not in known, -len(words & _words(f"{mutant} {mutants[mutant]}"))

    general = [m for m in ("other-records",) if m in mutants and not case.accepts]
    general += [m for m in ("accepts", "wrong-code") if m in mutants and case.negative]
    general += [m for m in mutants if "half" in m and job.condition == CUT]
    first = [m for m in known if m in mutants] + general
    return list(dict.fromkeys([*first, *sorted(mutants, key=unlikely)]))


def _words(text: str) -> set[str]:
    return {word[:6] for word in re.findall(r"[a-z]{4,}", text.lower())}


def page() -> None:
    lines = [
        "# Which wrong peers the protocol cases see", "",
        "Written by `ci/kills`. Each case passes on the sound reference peer and not on these mutants of it.", "",
    ]  # fmt: skip
    for protocol in sorted(set(protocols.PROTOCOLS.values())):
        file = FOLDER / f"kills-{protocol}.json"
        if file.exists():
            mutants = protocols.mutants(protocol)
            lines += [f"## {protocol}", "", "| case | mutant | what it gets wrong |", "|---|---|---|"]
            for id, kills in json.loads(file.read_text()).items():
                lines += [f"| {id} | `{m}` | {mutants.get(m, 'no such mutant any more')} |" for m in kills] or [
                    f"| {id} | | |"
                ]
            lines.append("")
    (FOLDER / "kills.md").write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
