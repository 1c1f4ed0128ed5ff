from __future__ import annotations

from pathlib import Path

import pytest

from brokerproof.errors import UsageError
from brokerproof.expected import expected, undecided
from brokerproof.suites import suites

ASK = {"broker": "b", "version": "1", "claim": "a/b", "variant": "v", "profile": "quick"}


def write(folder: Path, text: str) -> Path:
    (folder / "b-1.toml").write_text(text)
    return folder


def test_a_cell_without_a_line_is_expected_to_hold(tmp_path: Path) -> None:
    found = expected(tmp_path, **ASK)
    assert (found.verdict, found.unlisted) == ("HOLDS", True)


def test_a_line_is_found_by_claim_variant_and_profile(tmp_path: Path) -> None:
    write(tmp_path, '[[cell]]\nclaim="a/b"\nvariant="w"\nverdict="HOLDS"\nreason="x"\n'
                    '[[cell]]\nclaim="a/b"\nverdict="VIOLATED"\nreason="seen"\n')  # fmt: skip
    assert expected(tmp_path, **ASK).verdict == "VIOLATED"
    assert expected(tmp_path, **{**ASK, "variant": "w"}).verdict == "HOLDS"


@pytest.mark.parametrize(
    "text",
    [
        "not toml", '[[cell]]\nclaim="a/b"\nverdict="HOLDS"\n', '[[cell]]\nclaim="a/b"\nverdict="UNKNOWN"\nreason="x"\n',
        '[[cell]]\nclaim="a/b"\nverdict="HOLDS"\nreason=""\n', '[[cell]]\nclaim="a/b"\nverdict="HOLDS"\nreason="x"\nmore=1\n',
    ],
)  # fmt: skip
def test_a_line_needs_a_verdict_that_can_be_expected_and_a_reason(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"b-1\.toml"):
        expected(write(tmp_path, text), **ASK)


def test_what_could_not_be_told_is_written_down_and_no_run_is_measured_by_it(tmp_path: Path) -> None:
    file = write(tmp_path, '[[undecided]]\nclaim="a/b"\nvariant="v"\nreason="0.96 (0.91 to 1.02)"\n') / "b-1.toml"
    assert undecided(file) == ({"claim": "a/b", "variant": "v", "reason": "0.96 (0.91 to 1.02)"},)
    assert expected(tmp_path, **ASK).unlisted
    assert undecided(tmp_path / "none.toml") == ()


@pytest.mark.parametrize(
    "text",
    [
        '[[undecided]]\nclaim="a/b"\nvariant="v"\nreason=""\n', '[[undecided]]\nclaim="a/b"\nreason="x"\n',
        '[[undecided]]\nclaim="a/b"\nvariant="v"\nreason="x"\n[[cell]]\nclaim="a/b"\nverdict="HOLDS"\nreason="x"\n',
        '[[undecided]]\nclaim="a/b"\nvariant="v"\nreason="x"\nverdict="UNKNOWN"\n', "[undecided]\n",
    ],
)  # fmt: skip
def test_what_could_not_be_told_has_a_reason_and_no_verdict(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"b-1\.toml"):
        undecided(write(tmp_path, text) / "b-1.toml")


def test_the_suites_own_expectations_are_well_formed_and_about_claims_that_exist() -> None:
    import tomllib

    from brokerproof.claims import declared

    known = {d.claim.id: d for d in declared(suites() / "claims")}
    for file in sorted((suites() / "expected").glob("*.toml")):
        product, version = file.stem.split("-", 1)
        for cell in tomllib.loads(file.read_text()).get("cell", ()):
            assert cell["claim"] in known, file.name
            assert product in known[cell["claim"]].brokers, (file.name, cell["claim"])
            found = expected(
                file.parent, broker=product, version=version, claim=cell["claim"], variant=cell.get("variant", ""),
                profile=cell.get("profile", "quick"),
            )  # fmt: skip
            assert not found.unlisted
        for cell in undecided(file):
            assert cell["variant"] in known[cell["claim"]].brokers[product], (file.name, cell["claim"])
