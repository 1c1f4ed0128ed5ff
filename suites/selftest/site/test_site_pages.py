"""The files of a site, without a browser: the same runs give the same bytes, nothing of this machine is in them, and text
of others stays text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from site_sample import HOSTILE, case, claim, write, write_run, write_trial

from brokerproof.cli import app
from brokerproof.errors import UsageError
from brokerproof.render.html import asset
from brokerproof.site import build
from brokerproof.site.badges import badge
from brokerproof.site.chunks import chunk
from brokerproof.site.model import read
from brokerproof.site.names import file_name
from brokerproof.site.timeline import PART, SCREEN_MAX, pyramid


def runs_in(folder: Path) -> list[Path]:
    """Two runs: two versions, a regression, an old cell, cases, trials."""
    first = write_run(folder / "monday", claims=[claim(), claim(version="3.9.2"), claim("a/gone")], cases=[case()])
    second = folder / "tuesday"
    trials = [write_trial(second, "t0", lost=3), write_trial(second, "t1", bins=SCREEN_MAX * 8)]
    write_run(
        second, started="2026-01-02T00:00:00Z",
        claims=[claim(verdict="VIOLATED", shows=20, trials=trials, as_expected=False, expected="HOLDS"), claim(version="3.9.2")],
        cases=[case(verdict="FAIL")],
    )  # fmt: skip
    return [first, second]


def contents(site: Path) -> dict[str, bytes]:
    return {f.relative_to(site).as_posix(): f.read_bytes() for f in sorted(site.rglob("*")) if f.is_file()}


def test_same_runs_same_bytes_wherever_they_lie_and_however_they_are_named(tmp_path: Path) -> None:
    runs = runs_in(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "else" / "where")
    moved = [tmp_path / "else" / "where" / r.name for r in reversed(runs)]
    build(runs, tmp_path / "one")
    build(moved, tmp_path / "two")
    build(runs, tmp_path / "two")  # over an older site
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert not [name for name, octets in one.items() if str(tmp_path).encode() in octets]


def test_every_link_leads_to_a_file_of_the_site(tmp_path: Path) -> None:
    built = build(runs_in(tmp_path / "runs"), tmp_path / "site")
    files, site = contents(tmp_path / "site"), tmp_path / "site"
    seen = 0
    for name in files:
        if not name.endswith(".html"):
            continue
        for tag, attributes in _elements((site / name).read_text()):
            for key in ("href", "src"):
                link = attributes.get(key) or ""
                if key in attributes and not link.startswith(("#", "data:")):
                    target = ((site / name).parent / link.split("#")[0]).resolve()
                    assert target.is_file() and target.is_relative_to(site.resolve()), (name, tag, link)
                    seen += 1
    assert seen > 100 and built.files == len(files) - 1  # the list of files does not list itself


def test_a_site_replaces_a_site_and_nothing_else(tmp_path: Path) -> None:
    runs = runs_in(tmp_path / "runs")
    build(runs, tmp_path / "site")
    gone = f"claims/{file_name('claim', 'a/gone')}.html"
    assert (tmp_path / "site" / gone).is_file()
    (tmp_path / "site" / "CNAME").write_text("mine")
    build(runs[1:], tmp_path / "site")
    assert not (tmp_path / "site" / gone).exists() and (tmp_path / "site" / "CNAME").read_text() == "mine"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="no site of"):
        build(runs, tmp_path / "home")
    assert contents(tmp_path / "home") == {"thesis.txt": b"dear"}


def test_hostile_text_is_text(tmp_path: Path) -> None:
    run = tmp_path / f"run {HOSTILE[:20].replace('/', '_')}"
    trial = write_trial(run, "t0", lost=1)
    findings = json.loads((run / "trials" / "t0" / "findings.json").read_text())
    findings["witnesses"][0]["lines"][0]["error"] = HOSTILE
    (run / "trials" / "t0" / "findings.json").write_text(json.dumps(findings))
    (run / "trials" / "t0" / "errors.jsonl").write_text(HOSTILE + "\n")
    names = {
        "broker": HOSTILE,
        "version": HOSTILE,
        "variant": HOSTILE,
        "sentence": HOSTILE,
        "reason": HOSTILE,
        "profile": HOSTILE,
    }
    write_run(
        run, suites=HOSTILE, command=HOSTILE, claims=[claim(HOSTILE, settings={HOSTILE: HOSTILE}, fault=HOSTILE, trials=[trial], **names)],
        cases=[case(HOSTILE, broker=HOSTILE, version=HOSTILE, observed=HOSTILE, slug=HOSTILE, condition=HOSTILE)],
    )  # fmt: skip
    build([run], tmp_path / "site")
    for name, octets in contents(tmp_path / "site").items():
        said = octets.decode()
        assert "\x1b" not in said and "\u202e" not in said, name
        if name.endswith(".html"):
            for tag, attributes in _elements(said):
                assert tag != "img" or attributes["src"].startswith("../badges/"), name
                assert not [a for a in attributes if a.startswith("on") or a == "style"], (name, attributes)
                assert tag != "script" or re.fullmatch(r"(\.\./)?assets/[a-z]+\.js", attributes["src"]), name
            assert "{{7*7}}" in said or "onerror" not in said
        if name.startswith(("data/", "details/")):
            assert "<" not in said and ">" not in said and "\u2028" not in said, name
        assert re.fullmatch(r"[a-z0-9./-]+", name), name


def _elements(page: str) -> Iterator[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, {k: v or "" for k, v in attrs}))

    Reader().feed(page)
    yield from found


def test_names_of_files_are_apart_and_plain() -> None:
    names = [
        file_name("a", "b"),
        file_name("a-b"),
        file_name("A", "B"),
        file_name("../../etc/passwd"),
        file_name("队列"),
        file_name("x" * 500),
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,95}", n) and not n.startswith(".") for n in names)


def test_a_chunk_is_a_call_with_json() -> None:
    said = chunk("a", {"x": "</script>\u2028<!--"})
    assert said == 'brokerproof.take("a", {"x":"\\u003c/script\\u003e\\u2028\\u003c!--"});\n'


def test_timeline_levels_keep_sums_and_peaks() -> None:
    bins = 10_000
    p99 = [5.0] * bins
    p99[7_777] = 900.0
    of = {
        "bin_s": 0.1,
        "sent_ok": [3] * bins,
        "received_ok": [2] * (bins - 5),
        "send_p50_ms": [None] * bins,
        "send_p99_ms": p99,
    }
    made = pyramid(of, [{"fault": "kill", "targets": ["n1"], "injected_s": 3.0, "healed_s": None}])
    assert made is not None
    top = made.overview["series"]
    assert made.overview["levels"] == 4 and len(top[0]) == 157 <= SCREEN_MAX
    assert (sum(top[0]), sum(top[1]), max(top[3]), set(top[2])) == (30_000, 2 * (bins - 5), 900.0, {None})
    finest = [made.parts[0, part] for part in range(-(-bins // PART))]
    assert [v for part in finest for v in part[3]] == p99
    assert made.overview["faults"][0]["healed_s"] is None
    assert pyramid({"bin_s": 0, "sent_ok": [1]}, ()) is None and pyramid({}, ()) is None


def test_badges_say_what_the_cells_say(tmp_path: Path) -> None:
    claims = [
        claim("a/a"),
        claim("a/b", "VIOLATED"),
        claim("a/c", "UNSUPPORTED"),
        claim("a/d", "UNKNOWN", as_expected=False),
    ]
    cells = read([write_run(tmp_path / "r", claims=claims)]).cells
    assert badge("x", cells).message == "1 of 3 hold, 1 unexpected"
    assert badge("x", cells[1:2]).message == "VIOLATED"
    assert badge("x", cells[2:3]).message == "not applicable"
    assert json.loads(badge("<x>", cells[:1]).as_json()) == {
        "schemaVersion": 1,
        "label": "<x>",
        "message": "HOLDS",
        "color": "0f62a8",
    }
    assert "<x>" not in badge("<x>", cells[:1]).as_svg()


def test_what_has_no_trials_says_what_was_counted_instead(tmp_path: Path) -> None:
    """No ``0/136`` beside VIOLATED: a property is refuted by a case, a comparison decided by pairs, and neither has trials."""
    none = {"treatment": None, "control": None, "sham": None}
    refuted = claim(
        "amqp/x", "VIOLATED", kind="property", property={"cases": 136, "counterexample": {"key": "#"}}, **none
    )
    faster = claim("speed/x", kind="comparison", comparison={"ratio": 1.2, "ci95": [1.1, 1.3], "pairs": 12}, **none)
    built = write_run(tmp_path / "r", claims=[refuted, faster, claim("order/x", shows=1)])
    build([built], tmp_path / "site")
    (amqp,), (speed,), (order,) = (
        sorted((tmp_path / "site" / "claims").glob(f"*{n}-x-*")) for n in ("amqp", "speed", "order")
    )
    index = (tmp_path / "site" / "index.html").read_text()
    for words, page in ((" 136 cases ", amqp), (" 12 pairs ", speed), (" 1/20 ", order)):
        for text in (page.read_text(), index):
            assert words in " ".join(re.sub(r"<[^>]*>", " ", text).split()), words
    assert "0/136" not in index and "0/12" not in index


def test_the_page_of_a_case_says_what_is_required_and_its_newest_run_says_it(tmp_path: Path) -> None:
    def run(name: str, day: str, *says: str) -> Path:
        built = write_run(
            tmp_path / name, started=f"2026-01-0{day}T00:00:00Z", cases=[case("K1.01", path="conformance/x.json")]
        )
        for requirement in says:
            write(built / "conformance" / "x.json", {"requirement": requirement, "reference": "section 4", "wire": []})
        return built

    runs = [run("b", "1", "It is worded so."), run("a", "2", f"It is worded anew. {HOSTILE}")]
    build(runs, tmp_path / "site")
    (page,) = (tmp_path / "site" / "cases").glob("*.html")
    said = page.read_text()
    assert "It is worded anew." in said and "section 4" in said and "It is worded so." not in said
    assert "<img" not in said.partition("It is worded anew.")[2].partition("</blockquote>")[0] and "\u202e" not in said
    build([run("none", "3")], tmp_path / "without")
    (page,) = (tmp_path / "without" / "cases").glob("*.html")
    assert page.read_text().count("<blockquote") == 1  # the name alone, and no empty one


def test_an_arm_without_a_fault_is_as_it_should_be(tmp_path: Path) -> None:
    def arm(fault: str) -> dict[str, Any]:
        return {"trials": 2, "violated": 0, "trial_ids": [], "faults": [{"fault": fault, "evidence": "no_effect"}]}

    entry = claim(treatment=arm("kill"), control=arm("kill"), sham=arm("noop"))
    build([write_run(tmp_path / "r", claims=[entry])], tmp_path / "site")
    (cell,) = (tmp_path / "site" / "cells").glob("*.html")
    for page in (tmp_path / "site" / "faults.html", cell):
        rows = re.findall(r"<tr.*?</tr>", page.read_text(), re.DOTALL)
        marks = {
            (fault, *re.findall("evidence e-(ok|bad)", row))
            for row in rows
            for fault in ("kill", "noop")
            if f">{fault}<" in row
        }
        assert {m for m in marks if len(m) > 1} == {("kill", "bad"), ("noop", "ok")}, page.name


def test_all_words_of_the_pages_have_a_translation(tmp_path: Path) -> None:
    """What a reader of Chinese would meet untranslated: text of ours outside of what belongs to others."""
    write_run(tmp_path / "x", started="2026-01-03T00:00:00Z", claims=[
        claim("a/x", "UNKNOWN", as_expected=False), claim("a/y", property={"cases": 9}, treatment=None),
        claim("a/z", comparison={"ratio": 1.2, "ci95": [1.1, 1.3], "pairs": 12}, treatment=None),
    ])  # fmt: skip
    build([*runs_in(tmp_path / "runs"), tmp_path / "x"], tmp_path / "site")
    table = json.loads(asset("strings/zh.json"))
    missing: set[str] = set()
    for page in (tmp_path / "site").rglob("*.html"):
        missing |= {words for words in _words(page.read_text()) if words not in table}
    assert not missing
    assert all(re.search("[\u4e00-\u9fff]", value) for value in table.values())


#: Words that stand for themselves in every language.
_PLAIN = re.compile(r"[\W\d_]*|MUST|SHOULD|MAY|[pP][0-9.]+|[0-9.,–/×%()· ]+(s|ms|GiB|KB)?")


def _words(page: str) -> set[str]:
    """What ``say`` in site.js would look up, by the same rules."""
    out: set[str] = set()
    apart = {"code", "pre", "blockquote", "cite", "script", "style", "textarea", "title"}

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[tuple[str, str, bool]] = []  # (tag, classes, not ours)

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            of = dict(attrs)
            if tag not in ("meta", "link", "input", "br", "img"):
                no = tag in apart or of.get("translate") == "no" or of.get("id") == "language"
                no = no or of.get("aria-hidden") == "true"
                self.open.append((tag, of.get("class") or "", no))

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass  # shapes of drawings: they hold no text

        def handle_endtag(self, tag: str) -> None:
            self.open.pop()

        def handle_data(self, data: str) -> None:
            words, tags = " ".join(data.split()), [tag for tag, _, _ in self.open]
            classes = " ".join(c for _, c, _ in self.open).split()
            heads = {"h2", "h3"} & {*tags} or {"thead", "th"} <= {*tags} or {"badge", "case-verdict"} & {*classes}
            heads = heads or any(t == "p" and "hint" in c.split() for t, c, _ in self.open)
            ours = not any(no for _, _, no in self.open) and ("evidence-body" not in classes or heads)
            if words and ours and not _PLAIN.fullmatch(words):
                out.add(words)

    Reader().feed(page)
    return out


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_in(tmp_path / "runs")
    code = app(["compare", *map(str, runs), "--out", str(tmp_path / "site")], standalone_mode=False)
    said = capsys.readouterr().out
    assert not code and "cells    4 of 2 runs" in said and str(tmp_path / "site" / "index.html") in said
