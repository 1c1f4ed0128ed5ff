"""``ci/proofs mutants``: changes the checkers one place at a time, and looks whether a test notices.

The changes are cosmic-ray's (it needs no decorator-free functions, as mutmut does); a seeded sample of them is applied to
a copy of the library. The tests are run in stages, quick ones first, until one fails: killed. What survives is listed in
docs/proofs/mutants.md, with the argument why that is no hole, from docs/proofs/mutants.toml.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).parents[1]
CHECKERS = Path("harness/brokerproof/checkers")
PAGE = ROOT / "docs" / "proofs" / "mutants.md"
ARGUED = ROOT / "docs" / "proofs" / "mutants.toml"

#: One change per kind of mistake that a person makes; cosmic-ray has more, such as & into **, which fail at once.
OPERATORS = tuple(
    f"core/{name}"
    for name in (
        "NumberReplacer", "AddNot", "ZeroIterationForLoop", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue",
        "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak",
        "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert",
        "ReplaceBinaryOperator_BitAnd_BitOr", "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_Add_Sub",
        "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_Mul_Add", "ReplaceComparisonOperator_Eq_NotEq",
        "ReplaceComparisonOperator_NotEq_Eq", "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_LtE_Lt",
        "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt", "ReplaceComparisonOperator_Lt_Gt",
        "ReplaceComparisonOperator_Gt_Lt", "ReplaceComparisonOperator_GtE_Lt", "ReplaceComparisonOperator_LtE_Gt",
    )
)  # fmt: skip
_TESTS = "suites/selftest/checkers/"
#: Quick first. The last are the ones with generated histories.
STAGES = (
    ("test_checkers_literal.py", "test_checkers_units.py"),
    ("test_checkers_reference.py", "test_checkers_base.py", "test_checkers_hostile.py"),
    ("test_checkers_planted_more.py", "test_history_damaged.py", "test_checkers_planted.py", "test_bounded.py"),
)
#: A test run that takes longer is a mutant that does not end: killed.
_DEADLINE_S = 300


@dataclass(frozen=True)
class Mutant:
    """file: within the checkers. before, after: the line that changes, stripped. fate: killed, survived."""

    file: str
    line: int
    operator: str
    before: str
    after: str
    fate: str = ""


Place = tuple[str, str, int, int]


def places() -> list[Place]:
    """(file, operator, its how manieth place, line) of every change there is, without those of annotations."""
    out = []
    for path in sorted((ROOT / CHECKERS).glob("*.py")):
        code = path.read_text()
        nodes, lines = list(ast_nodes(get_ast(code))), code.splitlines()
        for name in OPERATORS:
            operator = get_operator(name)()
            starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            out += [
                (path.name, name, nth, line)
                for nth, (line, _) in enumerate(starts)
                if not _is_annotation(lines[line - 1], name)
            ]
    return out


def mutant(place: Place) -> tuple[Mutant, str] | None:
    """The change at this place, with the whole changed file; None where nothing changes."""
    file, name, nth, line = place
    code = (ROOT / CHECKERS / file).read_text()
    changed = mutate_code(code, get_operator(name)(), nth)
    if changed is None or changed == code:
        return None
    before, after = code.splitlines()[line - 1].strip(), changed.splitlines()[line - 1].strip()
    return Mutant(file, line, name.removeprefix("core/"), before, after), changed


def _is_annotation(line: str, operator: str) -> bool:
    return "BitOr_" in operator and bool(re.search(r"(->|\w:) [\w\[\], .]+\| \w+", line))


def survives(overlay: Path) -> bool:
    """Whether all tests pass on this copy of the library."""
    env = {**os.environ, "PYTHONPATH": str(overlay), "BROKERPROOF_EXAMPLES": "60", "PYTHONDONTWRITEBYTECODE": "1"}
    for stage in STAGES:
        files = [_TESTS + name for name in stage if (ROOT / _TESTS / name).exists()]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            f"pythonpath={overlay}",
            *files,
        ]
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


def page(results: list[Mutant], seed: int, population: int) -> str:
    argued = {(a["file"], a["before"], a["after"]): a["why"] for a in tomllib.loads(ARGUED.read_text())["mutant"]}
    left = [m for m in results if m.fate == "survived"]
    killed = len(results) - len(left)
    lines = [
        "# Mutants of the checkers",
        "",
        f"Written by `ci/proofs mutants`: {len(results)} of {population} changes that cosmic-ray can make to",
        f"`{CHECKERS}`, chosen with seed {seed}; {killed} ({killed / max(1, len(results)):.0%}) made a test of",
        "`suites/selftest/checkers` fail. A change that makes a checker only slower, or that takes another way to the same",
        "answer, survives and is no hole: each survivor is argued below.",
        "",
        "| module | mutants | killed |",
        "|---|---:|---:|",
    ]
    for file in sorted({m.file for m in results}):
        mine = [m for m in results if m.file == file]
        lines.append(f"| `{file}` | {len(mine)} | {sum(m.fate == 'killed' for m in mine)} |")
    lines += ["", "## Survivors", ""]
    for m in left:
        why = argued.get((m.file, m.before, m.after), "**not argued yet**")
        lines += [
            f"- `{m.file}` line {m.line}, {m.operator}",
            "",
            "  ```diff",
            f"  - {m.before}",
            f"  + {m.after}",
            "  ```",
            "",
            f"  {why}",
        ]
    return "\n".join(lines) + "\n"


def _try(chosen: list[Place], results: list[Mutant], overlays: list[Path], file: Path, for_s: float) -> None:
    """Tries what was not tried, one mutant at a time in each copy of the library, and writes down each fate."""
    started = time.monotonic()
    tried = {(m.file, m.line, m.operator, m.after) for m in results}
    left = iter(chosen)
    lock = threading.Lock()
    file.parent.mkdir(exist_ok=True)

    def work(overlay: Path) -> None:
        while not for_s or time.monotonic() - started < for_s:
            with lock:
                place = next(left, None)
                made = mutant(place) if place else None
            if place is None:
                return
            if made is None or (made[0].file, made[0].line, made[0].operator, made[0].after) in tried:
                continue
            one, code = made
            target = overlay / CHECKERS.relative_to("harness") / one.file
            target.write_text(code)
            fate = "survived" if survives(overlay) else "killed"
            shutil.copy(ROOT / CHECKERS / one.file, target)
            with lock:
                results.append(replace(one, fate=fate))
                file.write_text(json.dumps([asdict(m) for m in results], indent=1))
                print(f"{fate:8} {one.file}:{one.line} {one.before}  ->  {one.after}", flush=True)

    with ThreadPoolExecutor(len(overlays)) as pool:
        list(pool.map(work, overlays))


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/proofs mutants", description=__doc__)
    parser.add_argument("--sample", type=int, default=120, help="how many of them; 0 all (about ten hours)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--for-s", type=float, default=0.0, help="stop after so many seconds, with what was tried by then"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("runs/mutants.json"), help="goes on from here; made if missing"
    )
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time, each on a copy of the library")
    parser.add_argument("--page-only", action="store_true", help="try nothing, write the page from the results")
    options = parser.parse_args()
    every = places()
    random.Random(options.seed).shuffle(every)
    chosen = every[: options.sample] if options.sample else every
    results = [Mutant(**m) for m in json.loads(options.results.read_text())] if options.results.exists() else []
    if not options.page_only:
        with ExitStack() as folders:
            overlays = [Path(folders.enter_context(tempfile.TemporaryDirectory())) for _ in range(options.jobs)]
            for overlay in overlays:
                skipped = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / "harness", overlay, dirs_exist_ok=True, ignore=skipped)
            if not results and not survives(overlays[0]):
                print("the tests fail without any change", file=sys.stderr)
                return 1
            _try(chosen, results, overlays, options.results, options.for_s)
    PAGE.write_text(page(results, options.seed, len(every)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
