"""``ci/expected RUN...``: a line of ``suites/expected/<product>-<version>.toml`` for each cell that was decided and has none.

Its reason is the verdict's own sentence, with profile and date. A line that is there is left alone: where a run contradicts it,
that is said, and is for people to look into. What is UNKNOWN gets no line; a comparison that was made with all its pairs, and
whose interval does not lie beyond the margin, is written down as undecided. The newest run wins where several decided a cell.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from brokerproof.expected import expected, undecided

FOLDER = Path(__file__).parents[1] / "suites" / "expected"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="+", type=Path, help="a run folder")
    runs = parser.parse_args().run
    if without := [str(run) for run in runs if not (run / "results.json").exists()]:
        parser.error(f"no results.json in {', '.join(without)}: a run that has not ended, or none")
    entries: dict[tuple[str, ...], tuple[dict[str, Any], str]] = {}
    for run in sorted(runs, key=lambda r: (r / "results.json").stat().st_mtime):
        date = json.loads((run / "run.json").read_text())["started"][:10]
        for entry in json.loads((run / "results.json").read_text())["claims"]:
            entries[entry["broker"], entry["version"], entry["claim"], entry["variant"]] = (entry, date)
    for (broker, version, claim, variant), (entry, date) in sorted(entries.items()):
        verdict = entry["verdict"]
        known = expected(FOLDER, broker=broker, version=version, claim=claim, variant=variant, profile=entry["profile"])
        name = f"{claim} on {broker} {version}{' ' + variant if variant else ''}"
        if not known.unlisted:
            if known.verdict != verdict:
                print(f"left alone: {name}: expected {known.verdict}, this run says {verdict}: {entry['reason']}")
        elif verdict == "UNKNOWN" and entry.get("comparison") and not _told(broker, version, claim, variant):
            _add(FOLDER / f"{broker}-{version}.toml", entry, f"{entry['reason']} ({entry['profile']}, {date})")
            print(f"undecided:  {name}: {entry['reason']}")
        elif verdict == "UNKNOWN":
            print(f"no line:    {name}: UNKNOWN: {entry['reason']}")
        elif verdict != "UNSUPPORTED":
            _add(FOLDER / f"{broker}-{version}.toml", entry, f"{entry['reason']} ({entry['profile']}, {date})")
            print(f"added:      {name}: {verdict}")
    return 0


def _told(broker: str, version: str, claim: str, variant: str) -> bool:
    return any((c["claim"], c["variant"]) == (claim, variant) for c in undecided(FOLDER / f"{broker}-{version}.toml"))


def _add(file: Path, entry: dict[str, Any], reason: str) -> None:
    # The variant even where it is "": a line without one is about all of them.
    line = [f"{name} = {json.dumps(entry[name])}" for name in ("claim", "variant")]
    if entry["verdict"] != "UNKNOWN":
        line.append(f"verdict = {json.dumps(entry['verdict'])}")
    line.append(f"reason = {json.dumps(reason, ensure_ascii=False)}")
    before = file.read_text().rstrip("\n") + "\n\n" if file.exists() else ""
    file.write_text(
        before + "\n".join(["[[undecided]]" if entry["verdict"] == "UNKNOWN" else "[[cell]]", *line]) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
