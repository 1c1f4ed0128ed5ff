"""The decorator, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from brokerproof.claim import Claim
from brokerproof.errors import PlanError
from brokerproof.experiment import PROFILES

#: What is asked of an application where nothing else is said.
NEVER = ("lost", "effect_duplicated")
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Own:
    """claim: a promise.  trials: of each arm, by profile."""

    claim: Claim
    trials: Mapping[str, int]


def experiment(
    id: str, *, sentence: str, control: str, never: Sequence[str] = NEVER, source: str = "own", revision: int = 1,
    trials: int | Mapping[str, int] = 1,
) -> Callable[[T], T]:  # fmt: skip
    """Makes a test function an experiment: it is called once for each arm (sham, control, treatment) of each trial.

    id: ``section/slug``, for ever.  sentence: what is promised.
    control: what is taken away in the control arm, in words; the function asks ``arm.of(treatment=..., control=...)`` and
        does it. The control has to show what ``never`` names, or the experiment shows nothing: UNKNOWN.
    never: keys of anomalies; ``brokerproof list checkers`` says what each means.
    trials: how many of each arm, or by profile (quick, standard, thorough); a profile that is not named does as many as the next
        smaller one that is, or, where there is none, as the next larger.
    Raises PlanError for an id that is none, for trials of no profile, and for less than one.
    """
    claim = Claim(
        id=id, revision=revision, kind="promise", sentence=sentence, source=source, deciding=tuple(never), control=control
    )  # fmt: skip
    by_profile = _by_profile(id, dict.fromkeys(PROFILES, trials) if isinstance(trials, int) else trials)

    def mark(test: T) -> T:
        test.brokerproof_own = Own(claim, by_profile)  # type: ignore[attr-defined]  # as pytest's marks are
        return test

    return mark


def _by_profile(id: str, trials: Mapping[str, int]) -> dict[str, int]:
    """As many for every profile. Raises PlanError."""
    if not trials or set(trials) - set(PROFILES) or any(type(n) is not int or n < 1 for n in trials.values()):
        raise PlanError(
            f"experiment {id!r}: trials are a number from 1, or one for each of {', '.join(PROFILES)}; got {trials!r}"
        )
    found: dict[str, int] = {}
    known = next(trials[profile] for profile in PROFILES if profile in trials)
    for profile in PROFILES:  # from the smallest to the largest
        known = found[profile] = trials.get(profile, known)
    return found
