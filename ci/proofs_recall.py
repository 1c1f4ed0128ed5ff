"""``ci/proofs recall``: how rare an anomaly may be and still be found, and how often a verdict is wrong by chance.

Every word and number comes from ``brokerproof.verdict``: the trials are made up, the judging is not. Writes
docs/proofs/recall.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from brokerproof.claim import Claim
from brokerproof.experiment import TRIALS
from brokerproof.finding import Count, Finding
from brokerproof.verdict import SEPARATED_P, ArmResult, TrialResult, fisher_one_sided, judge, wilson95

PAGE = Path(__file__).parents[1] / "docs" / "proofs" / "recall.md"
#: Trials per arm that the tables speak of: those of the profiles, and more.
SIZES = (1, 3, 4, 5, 6, 10, 20, 30, 50, 100)
MESSAGES = (100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SURE = 0.95
#: Steps in which the rate of an anomaly is tried where it has to be searched.
_STEPS = 1000
_PROMISE = Claim(id="proof/recall", revision=1, kind="promise", sentence="", source="", deciding=("lost",))


def arm(shown: int, trials: int) -> ArmResult:
    """An arm of which so many trials show the deciding anomaly, in flight during a fault that took effect."""
    return ArmResult(
        trials=tuple(
            TrialResult(
                trial=f"t{n}",
                finding=Finding(operations=1, anomalies={"lost": Count(count=int(n < shown), messages=(1,))}),
                faults=(("kill", "took_effect", 1),),
                witnesses_in_flight=int(n < shown),
            )
            for n in range(trials)
        )
    )


@cache
def word(treatment: int, control: int, trials: int) -> str:
    """The verdict of a race when so many trials of each arm show it."""
    arms = {"treatment": arm(treatment, trials), "control": arm(control, trials)}
    return judge(_PROMISE, "race", arms, has_faults=True).word


def binomial(k: int, n: int, rate: float) -> float:
    return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)


def chance(wanted: str, trials: int, treatment: float, control: float) -> float:
    """The probability of a verdict where each trial of the arms shows the anomaly with these rates."""
    # How the control comes out matters only where the treatment is clean.
    clean = (1 - treatment) ** trials
    if wanted == "VIOLATED":
        assert word(1, 0, trials) == "VIOLATED"
        return 1 - clean
    return clean * sum(binomial(k, trials, control) for k in range(trials + 1) if word(0, k, trials) == wanted)


def least_rate(trials: int, sure: float = SURE) -> float:
    """The rate per trial from which on a broken promise is VIOLATED with that probability."""
    return float(1 - (1 - sure) ** (1 / trials))


def least_control(trials: int) -> int | None:
    """How many trials of the control have to show it for HOLDS, where the treatment is clean; None: no number does."""
    return next((k for k in range(trials + 1) if word(0, k, trials) == "HOLDS"), None)


def rate_of_control(trials: int, sure: float) -> float | None:
    """The rate per trial of the control from which on a kept promise HOLDS with that probability."""
    if least_control(trials) is None:
        return None
    rates = (n / _STEPS for n in range(_STEPS + 1))
    return next((r for r in rates if chance("HOLDS", trials, 0.0, r) >= sure), None)


def wrong_holds(trials: int) -> float:
    """The greatest probability of HOLDS where both arms break at the same rate, whatever that rate is."""
    return max(chance("HOLDS", trials, n / _STEPS, n / _STEPS) for n in range(_STEPS + 1))


def percent(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.1%}".replace("%", " %") if value >= 0.001 or value == 0 else f"{value:.1e}"


def lines() -> Iterator[str]:
    profiles = {n: name for name, n in TRIALS["race"].items() if n}
    yield from (
        "# How rare may it be, and still be found?",
        "",
        "Written by `ci/proofs recall` from the rules of `brokerproof.verdict`: Wilson's interval, Fisher's exact test, and",
        "the verdict itself on made-up trials. A trial shows an anomaly or not; how sure a checker is to see one that is",
        "in a history is another question: planted ones of every class are found wherever they are put, and a plain",
        "reference agrees on thousands of random histories (`suites/selftest/checkers`).",
        "",
        "## A promise that is broken now and then",
        "",
        "One trial of the treatment that shows the anomaly is a witness, and the verdict VIOLATED. With so many trials,",
        f"VIOLATED comes with {percent(SURE)} probability where the anomaly shows at least in this share of trials; and",
        "where none showed it, its share is with 95 % confidence at most the upper end of Wilson's interval.",
        "",
        "| trials | profile (race) | found with 95 % from | found with 50 % from | none seen: at most |",
        "|---:|---|---:|---:|---:|",
    )
    for n in SIZES:
        yield (
            f"| {n} | {profiles.get(n, '')} | {percent(least_rate(n))} | {percent(least_rate(n, 0.5))} "
            f"| {percent(wilson95(0, n)[1])} |"
        )
    yield from (
        "",
        "Inside a trial the same holds for messages that are lost independently of each other: with so many acknowledged,",
        "the loss of one in so many is seen in that trial with 95 % probability.",
        "",
        "| acknowledged messages | seen with 95 % from a rate of | one in |",
        "|---:|---:|---:|",
    )
    for m in MESSAGES:
        yield f"| {m:,} | {percent(least_rate(m))} | {1 / least_rate(m):,.0f} |"
    yield from (
        "",
        "## A promise that is kept",
        "",
        f"HOLDS needs a clean treatment and a control that breaks often enough (one-sided Fisher p < {SEPARATED_P}), else",
        "the verdict is UNKNOWN, *arms not separated*. The last two columns: how often each trial of the control has to",
        "break for HOLDS to come out with 80 % and with 95 % probability.",
        "",
        "| trials per arm | control breaks in at least | p there | HOLDS with 80 % from | with 95 % from |",
        "|---:|---:|---:|---:|---:|",
    )
    for n in SIZES:
        k = least_control(n)
        p = "" if k is None else f"{fisher_one_sided((k, n), (0, n)):.3f}"
        yield (
            f"| {n} | {'no number suffices' if k is None else f'{k} of {n}'} | {p} | {percent(rate_of_control(n, 0.8))} "
            f"| {percent(rate_of_control(n, 0.95))} |"
        )
    yield from (
        "",
        "What is deterministic needs no separation by numbers: there every trial of the control has to break, and one",
        "trial may do.",
        "",
        "## Wrong by chance",
        "",
        "- **VIOLATED where the promise is kept: 0 %.** It needs a witness in a history, not a share of trials; no number",
        "  of clean trials turns red. What can be wrong is a checker or the drain: that is what the sane histories, the",
        "  look-alikes and the sham arm are for.",
        "- **HOLDS where the fault does the same to both arms**: at most so often, whatever the rate.",
        "",
        "| trials per arm | HOLDS though the arms are alike, at most |",
        "|---:|---:|",
    )
    for n in SIZES:
        yield f"| {n} | {percent(wrong_holds(n))} |"
    yield from (
        "",
        "- **HOLDS where the promise is broken in a share r of trials**: at most (1 − r)ⁿ, the first table's other side.",
    )


def page() -> str:
    return "\n".join(lines()) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/proofs recall", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page says something else")
    if parser.parse_args().check:
        if PAGE.read_text() == page():
            return 0
        print(f"{PAGE.name} is not what the verdict's rules say; run ci/proofs recall", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
