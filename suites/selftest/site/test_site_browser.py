"""The site in a real browser, from disk: filters and their address, trials on demand, differences, zoom, Chinese, hostile
names, narrow windows, and what axe finds. Every test fails on any complaint of the browser: an error, a breach of the
policy, a request to anywhere but the site's own folder."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_sample import HOSTILE, case, claim, with_logs, write_run, write_trial

from brokerproof.site import build

pytestmark = pytest.mark.browser
Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page of a site in a window of its own; at the end of the test nobody may have complained."""
    complaints: list[str] = []

    def open_(site: Path, path: str = "index.html", *, width: int = 1300, scheme: str = "light", base: str = "") -> Any:
        page = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        ).new_page()
        page.set_default_timeout(90_000)  # a machine with two cores may have more to do than this
        start = base or site.resolve().as_uri()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda r: r.url.startswith((start, "data:")) or complaints.append(f"asked {r.url}"))
        page.on("requestfailed", lambda r: complaints.append(f"failed {r.url}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.log('policy', e.violatedDirective, e.blockedURI))"
        )
        page.goto(f"{start}/{path}")
        return page

    yield open_
    for context in browser.contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two runs over two versions and two products: one broken, one kept, one slower, one added, one removed."""
    folder = tmp_path / "runs"
    write_run(
        folder / "monday", started="2026-01-01T00:00:00Z",
        claims=[claim("a/breaks"), claim("a/mends", "VIOLATED", shows=20), claim("a/slows", gap_s=2.0), claim("a/goes"), claim("a/breaks", version="3.9.2"), claim("a/slows", broker="rabbitmq", version="4.0.5", variant="quorum")],
        cases=[case("K1.01"), case("K1.02", "FAIL")],
    )  # fmt: skip
    second = folder / "tuesday"
    trials = [write_trial(second, "t0", lost=3, bins=20_000), write_trial(second, "t1")]
    write_run(
        second, started="2026-01-02T00:00:00Z",
        claims=[claim("a/breaks", "VIOLATED", shows=20, trials=trials, as_expected=False, expected="HOLDS"), claim("a/mends"), claim("a/slows", gap_s=5.0), claim("a/comes"), claim("a/breaks", version="3.9.2")],
        cases=[case("K1.01", "FAIL"), case("K1.02", "FAIL")],
    )  # fmt: skip
    build([folder / "monday", second], tmp_path / "site")
    return tmp_path / "site"


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds in the page as it is: the rule, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page, options={"preload": False}).response["violations"]
    return [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found]


def page_of(site: Path, folder: str, part: str) -> str:
    (found,) = [f for f in (site / folder).glob("*.html") if part in f.name]
    return found.relative_to(site).as_posix()


def test_filters_stand_in_the_address_and_come_out_of_it(open_page: Open, site: Path) -> None:
    page = open_page(site)
    rows = page.locator("tr.claim:visible")
    assert rows.count() == 7
    page.check("#f-differs")
    assert rows.count() == 1 and "a/breaks" in rows.inner_text()
    page.fill("#f-text", "nothing like it")
    assert rows.count() == 0 and page.locator("#nothing").is_visible()
    assert page.url.endswith("#q=nothing+like+it&differs=1")
    page.click("#f-reset")
    page.select_option("#f-target", "rabbitmq")
    assert rows.count() == 1 and page.locator("th[data-column]:visible").evaluate_all(
        "all => all.map((head) => head.dataset.column)"
    ) == ["rabbitmq 4.0.5"]
    shared = open_page(site, "index.html#verdict=FAIL")
    assert shared.locator("tr.claim:visible").count() == 2 and shared.input_value("#f-verdict") == "FAIL"
    shared.keyboard.press("/")
    shared.keyboard.type("k1.02")
    assert shared.locator("tr.claim:visible").count() == 1
    changed = open_page(site, "index.html#changed=1")
    assert sorted(changed.locator("tr.claim:visible th code").all_inner_texts()) == ["K1.01", "a/breaks", "a/mends"]


def test_a_chip_leads_to_its_cell_and_a_trial_is_read_when_it_is_opened(open_page: Open, site: Path) -> None:
    page = open_page(site, "index.html#odd=1")
    chip = page.locator("a.chip:visible", has_text="VIOLATED")
    assert "acks all" in chip.inner_text().replace("\xa0", " ")
    chip.click()
    page.locator("details.trial[open] .trial-body").wait_for()  # the first opens by itself
    assert "Witness of" in page.inner_text("details.trial[open] .trial-body")
    assert page.locator("details.trial .trial-body").count() == 1
    page.locator("details.trial summary").nth(1).click()
    page.locator("details.trial >> nth=1 >> .trial-body").wait_for()
    assert page.locator("svg.timeline").count() == 2


def test_log_lines_of_the_stretch_are_read_when_they_are_asked_for(open_page: Open, tmp_path: Path) -> None:
    """Marks on the drawing, a list that follows the zoom, and nothing in it that is more than text."""
    run = tmp_path / "r"
    trial = write_trial(run, "t")
    with_logs(
        run / "trials" / trial,
        {
            "n1": [
                (0.2, "[info] begun"),
                (3.1, f"[error] {HOSTILE}"),
                (5.5, "[warning] late"),
                *((n / 50, f"[info] {n}") for n in range(250)),
            ]
        },
    )
    write_run(run, claims=[claim("a/x", trials=[trial])])
    build([run], tmp_path / "site")
    page = open_page(tmp_path / "site", page_of(tmp_path / "site", "cells", "kafka"))
    page.locator("svg.timeline .log-mark-2").wait_for(state="attached")  # a line has no width
    assert page.locator("svg.timeline .log-mark-1").count() == 1
    assert page.locator(".log-lines li").count() == 0 and page.locator("script[src$='-log.js']").count() == 0
    page.locator("details.log summary").click()
    page.locator(".log-lines li").first.wait_for()
    assert page.locator(".log-lines li").count() == 200 and "more here: zoom in" in page.inner_text("details.log .hint")
    page.locator("svg.timeline").focus()
    for _ in range(2):
        page.keyboard.press("+")
    page.wait_for_function("document.querySelectorAll('.log-lines li').length < 200")
    assert "<img src=x onerror=alert(1)>" in page.inner_text(".log-lines") and "[warning] late" not in page.inner_text(
        ".log-lines"
    )
    assert page.locator(".log-lines img").count() == 0
    page.click("#language")
    page.wait_for_function("document.documentElement.lang === 'zh'")
    assert page.inner_text("details.log summary") == "这一段的日志行"
    assert page.get_attribute(".log-lines", "aria-label") == "日志行"
    assert page.inner_text(".log-error .level") == "错误" and "[error]" in page.inner_text(".log-error")
    assert page.inner_text(".zoom-bar button >> nth=0") == "放大"
    page.click(".zoom-bar button >> nth=4")  # all: the list is made anew, and is in Chinese at once
    page.wait_for_function("document.querySelectorAll('.log-lines li').length === 200")
    assert "请放大" in page.inner_text("details.log .hint") and page.inner_text(".log-error .level") == "错误"
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []


def test_zoom_shows_finer_bins_and_the_fault_stays_where_it_was(open_page: Open, site: Path) -> None:
    page = open_page(site, page_of(site, "cells", "breaks-kafka-4"))
    drawing = page.locator("svg.timeline").first
    drawing.wait_for()
    page.locator(".zoom-bar .stretch:not(:empty)").first.wait_for()
    assert drawing.get_attribute("data-level") == "3"
    assert drawing.locator("rect.band").count() == 1
    drawing.focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.locator("svg.timeline[data-level='0']").wait_for()
    assert "984." in page.inner_text(".stretch") or "98" in page.inner_text(".stretch")
    assert drawing.locator("rect.band").count() == 1  # 800 s to 1200 s of 2000 s: its middle is in view
    page.keyboard.press("0")
    page.locator("svg.timeline[data-level='3']").wait_for()
    for _ in range(2):
        page.keyboard.press("+")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.stretch').textContent.startsWith('0.00')")
    assert drawing.locator("rect.band").count() == 0  # before the fault


def test_differences_of_two_runs(open_page: Open, site: Path) -> None:
    page = open_page(site, "differences.html")
    page.locator("[data-ready]").wait_for(state="attached")

    def told(part: str) -> list[str]:
        return page.locator(f"[data-part={part}] li[data-text] a code").all_inner_texts()

    assert (told("broken"), told("kept"), told("added"), told("removed")) == (
        ["a/breaks", "K1.01"],
        ["a/mends"],
        ["a/comes"],
        ["a/goes", "a/slows"],
    )
    assert told("figures") == ["a/slows"]
    assert "kill: gap_s 2 s (1.8–2.2, n 5) → 5 s (4.5–5.5, n 5)" in page.inner_text("[data-part=figures]")
    assert page.inner_text("#agree") == "2"
    page.click("#swap")
    page.wait_for_function("document.querySelector('[data-part=broken] code').textContent === 'a/mends'")
    assert page.url.endswith("#a=run%3A1&b=run%3A0")


def test_differences_of_two_versions(open_page: Open, site: Path) -> None:
    page = open_page(site, "differences.html#a=version:kafka%203.9.2&b=version:kafka%204.3.1")
    page.locator("[data-ready]").wait_for(state="attached")
    assert page.locator("[data-part=broken] li[data-text] a code").all_inner_texts() == ["a/breaks"]


def test_other_suites_are_compared_by_what_both_have(open_page: Open, tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", suites="0.1.0", claims=[claim("a/a"), claim("a/b"), claim("a/c")])
    two = write_run(
        tmp_path / "two", suites="0.2.0", started="2026-01-02T00:00:00Z",
        claims=[claim("a/a", "VIOLATED"), claim("a/b", "VIOLATED", revision=2), claim("a/d")],
    )  # fmt: skip
    build([one, two], tmp_path / "site")
    page = open_page(tmp_path / "site", "differences.html")
    page.locator("[data-ready]").wait_for(state="attached")
    assert "versions of the suites differ" in page.inner_text(".alert") and "0.1.0 → 0.2.0" in page.inner_text(".alert")
    parts = {
        part: page.locator(f"[data-part={part}] li[data-text]").count()
        for part in ("broken", "reworked", "added", "removed")
    }
    assert parts == {"broken": 1, "reworked": 1, "added": 0, "removed": 0}


def test_ranges_of_few_trials_are_no_change(open_page: Open, site: Path) -> None:
    page = open_page(site, "differences.html")
    ask = "([n, m]) => differences.figureChanges([['gap', 's', 1, 0.9, 1.1, n]], [['gap', 's', 5, 4, 6, m]]).length"
    assert [page.evaluate(ask, pair) for pair in ([1, 1], [3, 3], [4, 4], [0, 0])] == [0, 0, 1, 1]
    assert page.evaluate("differences.apart(3, 3)") == pytest.approx(0.1)
    touching = "differences.figureChanges([['r', '', 1, 0.5, 1.5, 0]], [['r', '', 2, 1.5, 2.5, 0]]).length"
    assert page.evaluate(touching) == 0


def test_the_language_is_switched_and_remembered(open_page: Open, site: Path) -> None:
    page = open_page(site)
    page.click("#language")
    page.wait_for_function("document.documentElement.lang === 'zh'")
    assert (
        page.inner_text("#f-reset") == "重置"
        and page.get_attribute("#f-text", "placeholder") == "论断、用例、设置（ / ）"
    )
    assert "a/breaks" in page.inner_text(".matrix") and "成立" in page.inner_text("a.chip >> nth=0")
    page.select_option("#f-verdict", "VIOLATED")  # chosen in Chinese, the same filter
    assert page.locator("tr.claim:visible").count() == 1
    page.click("text=差异 >> nth=0")
    page.locator("[data-ready]").wait_for(state="attached")
    page.wait_for_function("document.documentElement.lang === 'zh'")
    assert "新近违反" in page.inner_text("[data-part=broken] h2")
    left = page.evaluate("""() => [...document.querySelectorAll('main h1,main h2,main label .label,main p,button:not(#language)')]
        .filter((e) => !e.closest('[translate=no],noscript') && /[a-z]{3}/i.test(e.innerText) && !/[\u4e00-\u9fff]/.test(e.innerText)).map((e) => e.innerText)""")
    assert left == []
    page.click("#language")
    page.wait_for_function("document.documentElement.lang === 'en'")
    assert "Newly broken" in page.inner_text("[data-part=broken] h2")


def test_hostile_names_neither_run_nor_ask_for_anything(open_page: Open, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trial = write_trial(run, "t0", lost=1)
    (run / "trials" / "t0" / "errors.jsonl").write_text(HOSTILE + "\n")
    others = {"broker": HOSTILE, "version": HOSTILE, "variant": HOSTILE, "sentence": HOSTILE, "reason": HOSTILE}
    write_run(
        run, suites=HOSTILE, claims=[claim(HOSTILE, settings={HOSTILE: HOSTILE}, fault=HOSTILE, trials=[trial], **others)],
        cases=[case(HOSTILE, broker=HOSTILE, version="1", observed=HOSTILE)],
    )  # fmt: skip
    write_run(tmp_path / "later", started="2026-01-02T00:00:00Z", suites=HOSTILE, claims=[claim(HOSTILE, "VIOLATED", settings={HOSTILE: HOSTILE}, fault=HOSTILE, **others)])  # fmt: skip
    site = tmp_path / "site"
    build([run, tmp_path / "later"], site)
    pages = [f.relative_to(site).as_posix() for f in sorted(site.rglob("*.html"))]
    assert len(pages) >= 11
    for path in pages:
        page = open_page(site, path, width=420)
        assert page.locator("img:not([src^='../badges/'])").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 420, path
        if path == "differences.html":
            page.locator("[data-part=broken] li").first.wait_for()
            assert "<img src=x onerror=alert(1)>" in page.inner_text("[data-part=broken]")
        page.close()
    build([run], site)
    page = open_page(site, page_of(site, "cells", "claim-"))
    page.locator(".trial-body").wait_for()
    assert "<img src=x onerror=alert(1)>" in page.text_content(".trial-body")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_every_page_fits_a_telephone(open_page: Open, site: Path, scheme: str) -> None:
    pages = [
        "index.html", "faults.html", "runs.html", "differences.html", page_of(site, "cells", "breaks-kafka-4"),
        page_of(site, "cells", "case-k1.01"), page_of(site, "claims", "breaks"), page_of(site, "faults", "kill"), page_of(site, "targets", "4.3.1"),
    ]  # fmt: skip
    # Of dark pages only the colours differ.
    for path in (
        pages if scheme == "light" else [p for p in pages if p.startswith(("index", "cells/claim", "differences"))]
    ):
        page = open_page(site, path, width=390, scheme=scheme)
        if path.startswith("differences"):
            page.locator("[data-ready]").wait_for(state="attached")
        if "cells/claim" in path:
            page.locator("svg.timeline path.line").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        assert violations(page) == [], path
        page.close()


def test_a_web_server_serves_it_as_it_is(open_page: Open, site: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        page = open_page(site, page_of(site, "cells", "breaks-kafka-4"), base=base)
        page.locator("svg.timeline path.line").first.wait_for()
        page = open_page(site, "differences.html", base=base)
        page.locator("[data-part=broken] li").first.wait_for()
        assert re.search(r"a/breaks", page.inner_text("[data-part=broken]"))
        server.shutdown()


def test_on_paper_there_is_nothing_to_click(open_page: Open, site: Path) -> None:
    page = open_page(site)
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible() and not page.locator("nav.site").is_visible()
    assert page.locator("a.chip").first.is_visible()
