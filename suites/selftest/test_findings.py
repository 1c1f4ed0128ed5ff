"""docs/findings.md: nothing that was contradicted is among what holds, and nothing that was shown is left out."""

from __future__ import annotations

import sys
from dataclasses import replace
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
        replace(declared("a/said"), brokers={"kafka": ("x",)}),
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
    rest, _, every = rest.partition("## Every cell")
    assert "Sentence of a/said." in wrong
    assert "- Kafka 4.3.1, x: *does not hold*. measured VIOLATED." in wrong
    assert wrong.index("Sentence of a/said--sharp.") > wrong.index("Sentence of a/said.")
    assert "b/fine" not in wrong
    assert "Sentence of b/fine." in rest
    assert "a/said" not in rest, "said once"
    assert "c/never-run" not in wrong + rest, "what nobody has seen is no finding"
    assert "| `c/never-run` | open |" in every, "and is not passed over in silence"
    assert "Open, not run or without all the evidence that a verdict needs: 1 of Kafka 4.3.1." in every


def test_the_table_of_cells_names_the_variants_and_asks_an_older_version_only_what_was_run() -> None:
    both = replace(declared("a/two"), brokers={"kafka": ("kill", "cut")})
    old = replace(shown("VIOLATED", "cut"), version="3.9.2")
    text = "\n".join(page([both, declared("b/new-only")], {"a/two": [shown("HOLDS", "kill"), old]}))
    every = text.split("## Every cell")[1]
    assert "| claim | Kafka 4.3.1 | Kafka 3.9.2 |" in every
    assert "| `a/two` | holds: kill; open: cut | does not hold: cut |" in every
    assert "| `b/new-only` | open |  |" in every


def test_what_a_version_has_not_is_not_open() -> None:
    mirrored = replace(declared("a/mirrored"), brokers={"rabbitmq": ("",)}, needs=("mirrored",))
    done = replace(declared("a/done"), brokers={"rabbitmq": ("",)})
    seen = [Shown("rabbitmq", "4.0.5", "", "HOLDS", "measured")]
    every = "\n".join(page([mirrored, done], {"a/done": seen})).split("## Every cell")[1]
    assert "| `a/mirrored` | has no such thing |" in every
    assert "None is open." in every


def test_what_is_expected_to_be_unsupported_is_said_so_and_counted() -> None:
    text = "\n".join(
        page([declared("a/none"), declared("b/fine")], {"a/none": [shown("UNSUPPORTED")], "b/fine": [shown("HOLDS")]})
    )
    assert "- Kafka 4.3.1: *has no such thing*. measured UNSUPPORTED." in text
    assert "| `a/none` | has no such thing |" in text
    counts = text.split("## What is not")[0].splitlines()
    assert next(line for line in counts if line.startswith("| |")).endswith("| has no such thing |")
    assert next(line for line in counts if line.startswith("| Kafka")).endswith("| 1 |")


def test_what_could_not_be_told_is_said_with_what_was_measured() -> None:
    pair = replace(declared("a/faster", "comparison"), brokers={"kafka": ("one", "many")})
    text = "\n".join(page([pair], {"a/faster": [shown("HOLDS", "one"), shown("UNKNOWN", "many")]}))
    assert "- Kafka 4.3.1, many: *not decided*. measured UNKNOWN." in text
    assert "| `a/faster` | so it is: one; not decided: many |" in text
    assert next(line for line in text.splitlines() if line.startswith("| |")).endswith("| not decided |")


def test_a_line_of_all_variants_is_about_each() -> None:
    both = replace(declared("a/two"), brokers={"kafka": ("", "cut")})
    every = "\n".join(page([both], {"a/two": [shown("HOLDS", "*")]})).split("## Every cell")[1]
    assert "| `a/two` | holds: plain, cut |" in every
    assert "None is open." in every


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
