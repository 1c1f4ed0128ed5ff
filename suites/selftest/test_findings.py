"""docs/findings.md: nothing that was contradicted is among what holds, and nothing that was shown is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from brokerproof.claim import Claim
from brokerproof.claims import Declared

sys.path.insert(0, str(Path(__file__).parents[2] / "ci"))
from findings import PAGE, Shown, main, page


def declared(id: str, kind: str = "promise", *, sharpens: str = "", control: str = "") -> Declared:
    claim = Claim(id=id, revision=1, kind=kind, sentence=f"Sentence of {id}.", source="(ours)", deciding=("lost",), control=control, sharpens=sharpens)  # type: ignore[arg-type]  # fmt: skip
    return Declared(
        claim=claim, brokers={"kafka": ("",)}, profiles=("quick",), longer=(), needs=(), on_request=False, decide=lambda _: None  # type: ignore[arg-type,return-value]
    )  # fmt: skip


def shown(verdict: str, variant: str = "") -> Shown:
    return Shown("kafka", "4.3.1", variant, verdict, f"measured {verdict}")


def test_a_contradicted_claim_is_told_first_with_what_sharpens_it() -> None:
    claims = [
        declared("a/said"),
        declared("a/said--sharp", sharpens="a/said"),
        declared("b/fine"),
        declared("c/never-run"),
    ]
    text = "\n".join(
        page(
            claims, {"a/said": [shown("VIOLATED", "x")], "a/said--sharp": [shown("HOLDS")], "b/fine": [shown("HOLDS")]}
        )
    )
    wrong, rest = text.split("## What is not as it is said")[1].split("## Everything else")
    assert "Sentence of a/said." in wrong
    assert "- Kafka 4.3.1, x: *does not hold*. measured VIOLATED." in wrong
    assert wrong.index("Sentence of a/said--sharp.") > wrong.index("Sentence of a/said.")
    assert "b/fine" not in wrong
    assert "Sentence of b/fine." in rest
    assert "a/said" not in rest, "said once"
    assert "c/never-run" not in text, "what nobody has seen is no finding"


def test_a_hazard_that_was_seen_is_listed_with_its_safe_arm() -> None:
    claims = [
        declared("a/risky", "hazard", control="acks=all: the safe arm"),
        declared("a/rare", "hazard", control="none"),
    ]
    text = "\n".join(page(claims, {"a/risky": [shown("HOLDS")], "a/rare": [shown("VIOLATED")]}))
    table = text.split("## What can go wrong")[1].split("## Everything else")[0]
    assert "| Sentence of a/risky. `a/risky` | Kafka 4.3.1 | acks=all |" in table
    assert "a/rare" not in table
    assert "| Kafka 4.3.1 | 0 | 0 | 1 | 1 | 0 | 0 | 0 |" in text


def test_the_page_is_what_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PAGE.read_text()
    monkeypatch.setattr(sys, "argv", ["findings", "--check"])
    assert main() == 0
    assert PAGE.read_text() == before
