"""The pages of protocol cases: matrix and one page per case, from files that nobody trusts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from brokerproof.render import cases
from brokerproof.render.folder import read_run

EVIL = "<script>alert(1)</script>\x1b[31m'\"&"


def entry(case: str, verdict: str = "PASS", **more: Any) -> dict[str, Any]:
    told = {
        "case": case, "slug": "amqp091/one", "revision": 1, "broker": "rabbitmq", "version": "4.0.5", "variant": "", "verdict": verdict,
        "expected": "PASS", "observed": "as required", "section": case[:2], "level": "MUST", "as_expected": verdict == "PASS",
        "drift": False,
    }  # fmt: skip
    told |= more
    told["path"] = f"conformance/{told['broker']}-{told['version']}/{case}.json"
    return told


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def make(*entries: dict[str, Any], wire: Any = (), whole: Any = None, gate: Any = ()) -> Path:
        (tmp_path / "run.json").write_text(json.dumps({"run": "r1"}))
        (tmp_path / "results.json").write_text(json.dumps({"run": "r1", "claims": [], "cases": entries, "gate": gate}))
        for one in entries:
            file = tmp_path / one["path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            told = {
                **one, "requirement": f"what {one['case']} requires", "reference": "section 4", "accepts": {"": {"says": "closed", "lines": [
                    {"verdict": "PASS", "behaviour": None, "endings": ["closed"], "scopes": None, "codes": [501]}]}},
                "steps": [{"step": "", "t": 0.5, "accepts": "closed", "verdict": one["verdict"], "why": "",
                           "seen": {"behaviour": "", "ending": "closed", "scope": "connection", "code": 501, "detail": ""}}],
                "recorded": {}, "wire": list(wire), "logs": {"r1": ["2026 error"]}, "command": "brokerproof conformance", "tags": [],
                "says": [], "records": [], **(whole or {}),
            }  # fmt: skip
            file.write_text(json.dumps(told))
        return tmp_path

    return make


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def tags(page: Path, name: str) -> list[dict[str, str | None]]:
    parser = _Tags()
    parser.feed(page.read_text())
    return [attributes for tag, attributes in parser.tags if tag == name]


def test_the_matrix_has_a_row_per_case_and_a_column_per_target(run: Any) -> None:
    made = run(
        entry("A1.01"), entry("A1.02", "FAIL"), entry("A1.02", version="3.10.8"), entry("A2.01", variant="quorum")
    )
    view = cases.matrix(read_run(made))
    assert view.columns == (("rabbitmq", "3.10.8"), ("rabbitmq", "4.0.5"))
    assert [(name, [(r.id, r.variant) for r in rows]) for name, rows in view.sections] == [
        ("A1", [("A1.01", ""), ("A1.02", "")]), ("A2", [("A2.01", "quorum")]),
    ]  # fmt: skip
    (_, second) = view.sections[0][1]
    assert [m and m.verdict for m in second.marks] == ["PASS", "FAIL"]
    assert second.differs
    assert not second.quiet
    assert view.counts == ((("PASS", 1),), (("FAIL", 1), ("PASS", 2)))


def test_every_case_has_a_page_that_the_matrix_links(run: Any) -> None:
    made = run(entry("A1.01"), entry("A1.02@slicer", "CODE"))
    pages = cases.render(made)
    assert [p.name for p in pages] == [
        "conformance.html",
        "rabbitmq-4.0.5-A1.01.html",
        "rabbitmq-4.0.5-A1.02@slicer.html",
    ]
    links = [a["href"] for a in tags(pages[0], "a") if (a["href"] or "").startswith("cases/")]
    assert [(pages[0].parent / link.replace("%40", "@")).is_file() for link in links if link] == [True, True]


def test_a_page_shows_what_was_accepted_seen_and_sent(run: Any) -> None:
    wire = [
        {"t": 0.1, "dir": ">", "layer": "frame", "conn": "a", "chan": 1, "hex": "414d5150" * 9, "octets": 400, "decoded": "Basic.Publish", "note": ""},
        {"t": 0.2, "dir": "<", "layer": "tcp", "conn": "a", "chan": None, "hex": "", "octets": 0, "decoded": "", "note": "FIN received"},
    ]  # fmt: skip
    page = cases.render(run(entry("A1.01"), wire=wire))[1].read_text()
    for said in (
        "what A1.01 requires",
        "section 4",
        "closed",
        "501",
        "Basic.Publish",
        "FIN received",
        "400 octets, cut here",
        "2026 error",
        "→ sent",
    ):
        assert said in page
    assert "414d 5150" in page


@pytest.mark.parametrize("where", ["observed", "slug", "variant", "requirement", "decoded", "log"])
def test_hostile_text_stays_text(run: Any, where: str) -> None:
    one = entry("A1.01", **({where: EVIL} if where in ("observed", "slug", "variant") else {}))
    whole = {"requirement": EVIL} if where == "requirement" else {"logs": {EVIL: [EVIL]}} if where == "log" else {}
    wire = [
        {
            "t": 0,
            "dir": EVIL,
            "layer": EVIL,
            "conn": EVIL,
            "chan": EVIL,
            "hex": EVIL,
            "octets": EVIL,
            "decoded": EVIL,
            "note": EVIL,
        }
    ]
    for page in cases.render(run(one, wire=wire if where == "decoded" else (), whole=whole)):
        text = page.read_text()
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert len(tags(page, "script")) <= 1


def test_a_path_that_leads_elsewhere_is_not_followed(run: Any, tmp_path: Path) -> None:
    made = run(entry("A1.01"))
    results = json.loads((made / "results.json").read_text())
    for path in ("../secret.json", "/etc/passwd", "C:x"):
        results["cases"][0]["path"] = path
        (made / "results.json").write_text(json.dumps(results))
        assert [p.name for p in cases.render(made)] == ["conformance.html"]


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", '{"wire": 3, "accepts": {}, "steps": []}'])
def test_a_broken_file_costs_only_its_page(run: Any, content: str) -> None:
    made = run(entry("A1.01"), entry("A1.02"))
    (made / "conformance/rabbitmq-4.0.5/A1.01.json").write_text(content)
    names = [p.name for p in cases.render(made)]
    assert "rabbitmq-4.0.5-A1.02.html" in names


def test_what_is_wrong_with_the_expected_results_is_said_first(run: Any) -> None:
    page = cases.render(run(entry("A1.01"), gate=[{"target": "rabbitmq-4.0.5", "says": ["stale line: A9.99"]}]))[
        0
    ].read_text()
    assert "stale line: A9.99" in page


def test_nothing_is_loaded_from_anywhere(run: Any) -> None:
    for page in cases.render(run(entry("A1.01"))):
        text = page.read_text()
        assert "default-src &#39;none&#39;" in text
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


def test_the_same_files_make_the_same_pages(run: Any) -> None:
    made = run(entry("A1.01"), entry("A1.02", "FAIL"))
    before = [p.read_bytes() for p in cases.render(made)]
    assert [p.read_bytes() for p in cases.render(made)] == before


def test_a_run_without_cases_has_no_such_pages(run: Any) -> None:
    assert cases.render(run()) == []
