"""The page: closed against what brokers and users write, whole without a network, honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from render_sample import HOSTILE, claim, injection, make_hostile, write, write_sample

from brokerproof.render import html, render_all, svg
from brokerproof.render.folder import as_expected, clean, measured, read_run


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of style and script."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self._in: dict[str, str] | None = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.elements.append((tag, named))
        if tag in ("style", "script"):
            self._in = {"tag": tag, **named}
            self.raw.append((self._in, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("style", "script"):
            self._in = None

    def handle_data(self, data: str) -> None:
        if self._in is None:
            self.text += data
        else:
            self.raw[-1] = (self._in, self.raw[-1][1] + data)

    def named(self, tag: str, **attrs: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in attrs.items())]


def opened(run: Path) -> Page:
    return Page(html.render(run).read_text(encoding="utf-8"))


def test_every_rendering_is_written_and_written_again_alike(sample_run: Path) -> None:
    paths = render_all(sample_run)
    names = [p.relative_to(sample_run).as_posix() for p in paths]
    assert [n for n in names if "cases/" not in n] == [
        "report/index.html",
        "report/conformance.html",
        "junit.xml",
        "summary.md",
    ]
    before = [p.read_bytes() for p in paths]
    assert [p.read_bytes() for p in render_all(sample_run)] == before


def test_policy_names_the_hashes_of_the_only_style_and_script(sample_run: Path) -> None:
    page = opened(sample_run)
    (meta,) = (a for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    policy = meta["content"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    running = [(a["tag"], body) for a, body in page.raw if a.get("type") != "application/json"]
    assert [tag for tag, _ in running] == ["style", "script"]
    for tag, body in running:
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_loaded_and_nothing_is_styled_or_run_inline(sample_run: Path) -> None:
    page = opened(sample_run)
    for tag, attrs in page.elements:
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            address = attrs.get(name, "")
            assert not re.match(r"(?i)([a-z][a-z0-9+.-]*:|//)", address) or (tag == "link" and address == "data:,")
    style = next(body for a, body in page.raw if a["tag"] == "style")
    assert "@import" not in style
    assert re.findall(r"url\(([^#].*?)\)", style) == []


def test_hostile_text_stays_text(sample_run: Path) -> None:
    make_hostile(sample_run)
    page = opened(sample_run)
    assert [a.get("type", "") for a in page.named("script")] == ["application/json", ""]
    assert page.named("img") == []
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "{{7*7}}" in page.text
    assert "\\x1b[31m\\u202egnp" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page.text)
    data = next(json.loads(body) for a, body in page.raw if a.get("type"))
    assert HOSTILE.split("\x1b")[0].lower() in data["cells"][0]["text"]


@pytest.mark.parametrize("value", ["</script>", "<!--", "&lt;", "\u2028"])
def test_data_cannot_end_its_script_element(value: str) -> None:
    raw = html.script_json({"text": value})
    assert "<" not in raw
    assert json.loads(raw) == {"text": value}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"verdict": "HOLDS", "expected": "HOLDS"}, True),
        ({"verdict": "VIOLATED", "expected": "HOLDS"}, False),
        ({"verdict": "VIOLATED", "expected": "HOLDS", "as_expected": True}, True),
        ({"verdict": "UNKNOWN", "expected": "UNKNOWN", "as_expected": True}, False),
        ({"verdict": "maybe", "expected": "maybe"}, False),
        ({"verdict": "UNSUPPORTED"}, True),
        ({"verdict": "UNSUPPORTED", "expected": "HOLDS", "as_expected": False}, False),
        ({}, False),
    ],
)
def test_what_counts_as_expected(entry: dict[str, Any], expected: bool) -> None:
    assert as_expected(entry) is expected


def test_unseen_characters_are_written_out() -> None:
    assert clean({"a\x00": ["\x1b[0m", "\ud800", "tab\tline\n", "\u202e"]}) == {
        "a\\x00": ["\\x1b[0m", "\\ud800", "tab\tline\n", "\\u202e"]
    }


def test_matrix_leads_to_the_evidence_of_every_cell(sample_run: Path) -> None:
    page = opened(sample_run)
    results = json.loads((sample_run / "results.json").read_text())
    names = {a["id"] for _, a in page.elements if "id" in a}
    chips = [a for a in page.named("a") if a.get("class", "").startswith("chip")]
    assert len(chips) == len(results["claims"])
    links = [a["href"][1:] for a in page.named("a") if a.get("href", "").startswith("#")]
    assert set(links) <= names
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    data = next(json.loads(body) for a, body in page.raw if a.get("type"))
    assert {c["id"] for c in data["cells"]} == {a["data-cell"] for a in chips}


def test_unexpected_is_told_by_a_word(sample_run: Path) -> None:
    page = opened(sample_run)
    odd = [a for a in page.named("a") if "odd-one" in a.get("class", "")]
    assert len(odd) == 2
    assert page.text.count("unexpected") >= 2
    assert (
        "2 of 19 verdicts are not as expected; 1 of 3 protocol cases is not as expected, and 1 harness error"
        in page.text
    )


def test_links_to_files_lead_to_files(sample_run: Path) -> None:
    page = opened(sample_run)
    raw = [a["href"] for a in page.named("a") if a.get("href", "").startswith("../trials/t")]
    assert raw
    assert all((sample_run / "report" / href).resolve().is_file() for href in raw)


def test_each_trial_shows_evidence_witness_and_drawing(make_run: Callable[..., Path], sample_run: Path) -> None:
    page = opened(sample_run)
    for said in (
        "does not bite: connect to node-2 through its proxy",
        "bites: node-2: process gone",
        "took effect and was healed",
        "in flight then 143",
        "ConnectionReset",
        "Looked for and not found: duplicated",
        "Where the nodes had it after the final read",
        "partition 0, offset 1290, t-0/0.log at byte 81,920",
    ):
        assert said in re.sub(r"\s+", " ", page.text)
    assert any(a.get("aria-label", "").startswith("throughput and latency over") for a in page.named("svg"))
    assert any("without an end" in a.get("aria-label", "") for a in page.named("svg"))
    assert page.named("rect", **{"class": "bar"})


def test_figures_have_three_digits_and_what_did_not_happen_is_not_told(make_run: Callable[..., Path]) -> None:
    compared = {"ratio": 1.2345, "ci95": [1.1049, 1.4051], "pairs": 10, "median_per_s": [12345.6, 9.8764]}
    entry = claim(
        kind="comparison", comparison=compared, metrics={"during_p99_ms": 12.34567, "rpo_count": 12345, "rto_s": None}
    )
    text = re.sub(r"\s+", " ", opened(make_run([entry], interrupted=False)).text)
    for said in ("1.23×", "1.1, 1.41", "12,346, 9.88", "12.3", "12345"):
        assert said in text
    assert not re.search(r"\d\.\d{4}|interrupted", text)
    assert re.search(r"interrupted\s*true", opened(make_run([entry], interrupted=True)).text)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.00012345, "0.000123"), (1.0, "1"), (999.4, "999"), (999.6, "1,000"), (-1234.5, "-1,234"), (0, "0"), (12345, "12345"), (True, "true"), ([], "[]")],
)  # fmt: skip
def test_what_was_measured_is_written_as_one_would(value: Any, said: str) -> None:
    assert measured(value) == said


def test_settings_that_differ_between_the_arms_come_first_and_say_so(sample_run: Path) -> None:
    source = html.render(sample_run).read_text(encoding="utf-8")
    first = source[source.index('<table class="config">') :]
    assert first.index("<code>confirm</code>") < first.index("<code>durable</code>")
    assert re.search(r'<code>confirm</code> <span class="differ">differs</span>', first)
    assert "<mark>false</mark>" in first


def test_a_claim_links_the_one_that_states_it_more_exactly(sample_run: Path) -> None:
    text = re.sub(r"\s+", " ", opened(sample_run).text)
    assert "stated more exactly by broker/confirm-after-disk--flush-each: HOLDS" in text
    assert "states more exactly broker/confirm-after-disk: VIOLATED" in text


def test_missing_and_torn_files_are_shown_as_missing(sample_run: Path) -> None:
    text = opened(sample_run).text
    assert "findings.json cannot be read: JSONDecodeError" in text
    assert "the trial's folder is missing" in text


@pytest.mark.parametrize("name", ["run.json", "results.json"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", "\x00", '{"claims": 3, "cases": "x", "errors": {}}'])
def test_damaged_run_files_make_a_page_and_not_an_error(sample_run: Path, name: str, content: str | None) -> None:
    (sample_run / name).unlink()
    if content is not None:
        (sample_run / name).write_text(content)
    assert {"index.html", "junit.xml", "summary.md"} <= {p.name for p in render_all(sample_run)}
    if not (content or "").startswith('{"'):
        assert f"{name} " in opened(sample_run).text


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    render_all(tmp_path)
    assert "No claim was decided" in opened(tmp_path).text


WRONG = [None, -1, 1e308, float("nan"), "x", [None], {"a": {"b": []}}, 10**400]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: repr(w)[:20])
def test_a_wrong_value_anywhere_is_never_a_crash(tmp_path: Path, wrong: Any) -> None:
    """Each key of one entry, one trial's findings and one injection in turn, at every depth."""
    run = write_sample(tmp_path / "run", trials=1)
    results = json.loads((run / "results.json").read_text())
    entry = results["claims"][0]
    folder = run / "trials" / entry["treatment"]["trial_ids"][0]
    files = ("findings.json", "faults.json", "places.json")

    def each(value: Any) -> list[Any]:
        """Copies of value with one thing in it replaced."""
        if isinstance(value, dict):
            return [{**value, k: w} for k, v in value.items() for w in (wrong, *each(v))]
        if isinstance(value, list) and value:
            return [[w, *value[1:]] for w in (wrong, *each(value[0]))]
        return []

    claims = [claim(**{"id_": "a/b"}) | broken for broken in each(entry)]
    write(run / "results.json", {**results, "claims": claims})
    render_all(run)
    # The other arms would be drawn some hundred times, whole as they are.
    write(run / "results.json", {**results, "claims": [{**entry, "control": None, "sham": None}]})
    for name in files:
        value = json.loads((folder / name).read_text())
        for broken in each(value):
            write(folder / name, broken)
            html.page(read_run(run))
        write(folder / name, value)


@pytest.mark.parametrize("name", ["../../secret", "..", "a/b", "", 7, None, "a\x00b"])
def test_a_trial_id_does_not_lead_out_of_the_run(make_run: Callable[..., Path], name: Any) -> None:
    arm = {"trials": 1, "violated": 0, "rate": 0.0, "wilson95": [0, 0.79], "trial_ids": [name], "faults": []}
    page = opened(make_run([claim(treatment=arm)]))
    assert "is not a folder name" in page.text
    assert not [a for a in page.named("a") if "trials/" in a.get("href", "") and a["href"] != "../trials/"]


def test_the_page_stays_small_and_what_is_left_off_is_said(tmp_path: Path) -> None:
    """Design of the page: 40 cells of 3 trials in each arm below 3 MB; more trials make no larger drawings."""
    small, large = (html.page(read_run(write_sample(tmp_path / str(n), trials=n))) for n in (3, 9))
    cells = small.count('<details class="cell"')
    assert len(small) / cells * 40 < 3_000_000
    assert len(large) < len(small) * 1.1
    assert "more are in the run folder" in large


def test_a_dry_run_is_no_fault_in_the_drawings() -> None:
    real = injection("kill", "leader", "n1", 2.0, 5.0)
    dry = {**real, "dry": True}
    data = {"bin_s": 1.0, "sent_ok": [3] * 10, "received_ok": [3] * 10}
    line = {"t_s": 2.5, "end_s": 3.0, "f": "send", "outcome": "ok"}
    scale = svg.lifeline_scale([line])
    assert scale is not None
    assert 'class="band"' in svg.timeline(data, [real]) and 'class="band"' in svg.lifeline(line, scale, [real])
    drawn = svg.timeline(data, [dry])
    assert "dry run of kill → n1" in drawn and 'class="bar dry"' in drawn
    assert 'class="band"' not in drawn + svg.lifeline(line, scale, [dry])
    assert "heal" not in drawn
