"""How a claim is written down, and how the claims of a folder are found without pytest.

    @claim("order/one-queue-one-consumer", revision=1, kind="promise", sentence=..., source=..., brokers=...,
           deciding=("effect_out_of_order",), control="two consumers of unequal speed")
    def test_one_queue_one_consumer(cell: Cell) -> Experiment: ...

The function is pure: it says how the claim is decided in a cell, and does nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brokerproof.claim import Claim, Kind
from brokerproof.experiment import PROFILES, Cell, ComparisonExperiment, Experiment, PropertyExperiment
from brokerproof.marked import marked

Decides = Callable[[Cell], Experiment | PropertyExperiment | ComparisonExperiment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A claim with where it is decided.

    brokers: product -> variants (``("",)`` where there is only one).  profiles: those that decide it; a race is not in
    ``quick``.  longer: variants that are not in ``quick``, where the others are.  needs: capabilities; a product that lacks one is UNSUPPORTED.  on_request: decided only where it is selected
    by name or section.
    """

    claim: Claim
    brokers: Mapping[str, Sequence[str]]
    profiles: Sequence[str]
    longer: Sequence[str]
    needs: Sequence[str]
    on_request: bool
    decide: Decides


def claim(
    id: str, *, revision: int, kind: Kind, sentence: str, source: str, brokers: Mapping[str, Sequence[str]],
    deciding: Sequence[str] = (), control: str = "", always: bool = False, sharpens: str = "",
    profiles: Sequence[str] = PROFILES, longer: Sequence[str] = (), needs: Sequence[str] = (), on_request: bool = False,
) -> Callable[[Decides], Decides]:  # fmt: skip
    """Marks a function as the experiment of a claim; the arguments are those of ``Claim`` and ``Declared``."""
    made = Claim(
        id=id, revision=revision, kind=kind, sentence=sentence, source=source, deciding=tuple(deciding),
        control=control, always=always, sharpens=sharpens,
    )  # fmt: skip

    def mark(decide: Decides) -> Decides:
        declared = Declared(
            claim=made,
            brokers=dict(brokers),
            profiles=tuple(profiles),
            longer=tuple(longer),
            needs=tuple(needs),
            on_request=on_request,
            decide=decide,
        )
        decide.brokerproof = declared  # type: ignore[attr-defined]  # functions take attributes; pytest's marks do so too
        return decide

    return mark


def declared(folder: Path) -> list[Declared]:
    """All claims of the ``test_*.py`` files of a folder, by id. Raises HarnessError when two have one id."""
    return marked(folder.glob("test_*.py"), "brokerproof", Declared, lambda one: one.claim.id, "claim")
