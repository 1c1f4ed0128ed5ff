"""What docs/proofs/recall.md says of the verdict's power is what the verdict's rules make of made-up trials."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from brokerproof.experiment import TRIALS

sys.path.insert(0, str(Path(__file__).parents[2] / "ci"))
from proofs_recall import PAGE, chance, least_control, least_rate, page, rate_of_control, word, wrong_holds


def test_the_page_is_what_the_rules_say() -> None:
    assert PAGE.read_text() == page()


def test_a_race_needs_four_trials_of_each_arm() -> None:
    """And so every profile that takes races has more than that."""
    assert [least_control(n) for n in (1, 2, 3, 4, 6)] == [None, None, None, 4, 4]
    assert all(least_control(n) is not None for n in TRIALS["race"].values() if n)
    assert rate_of_control(3, 0.8) is None


@pytest.mark.parametrize("n", [1, 4, 6, 20])
def test_one_witness_is_enough_and_none_is_never_red(n: int) -> None:
    for control in range(n + 1):
        assert word(1, control, n) == "VIOLATED"
        assert word(0, control, n) in ("HOLDS", "UNKNOWN")
    assert chance("VIOLATED", n, 0.0, 1.0) == 0.0
    assert chance("VIOLATED", n, least_rate(n), 0.5) == pytest.approx(0.95)


def test_probabilities_are_those_that_throwing_dice_shows() -> None:
    dice = random.Random(1)
    n, treatment, control, throws = 6, 0.05, 0.8, 20_000

    def shown(rate: float) -> int:
        return sum(dice.random() < rate for _ in range(n))

    words = [word(shown(treatment), shown(control), n) for _ in range(throws)]
    for said in ("HOLDS", "VIOLATED", "UNKNOWN"):
        assert words.count(said) / throws == pytest.approx(chance(said, n, treatment, control), abs=0.015)


def test_alike_arms_are_told_apart_by_chance_in_less_than_fisher_allows() -> None:
    assert all(wrong_holds(n) < 0.05 for n in (4, 6, 20))
