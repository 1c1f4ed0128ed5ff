"""The decorator, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from brokerproof.claim import Claim
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
    trials: how many of each arm, or by profile (quick, standard, thorough).
    Raises PlanError for an id that is none.
    """
    claim = Claim(
        id=id, revision=revision, kind="promise", sentence=sentence, source=source, deciding=tuple(never), control=control
    )  # fmt: skip
    by_profile = dict.fromkeys(PROFILES, trials) if isinstance(trials, int) else dict(trials)

    def mark(test: T) -> T:
        test.brokerproof_own = Own(claim, by_profile)  # type: ignore[attr-defined]  # as pytest's marks are
        return test

    return mark
