"""The page in a real browser: opens from disk with no complaint, filters, folds, copies, fits a narrow window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from render_sample import make_hostile

from brokerproof.render import html

pytestmark = pytest.mark.browser


def test_report_opens_filters_and_draws_without_a_complaint(browser: Any, sample_run: Path, tmp_path: Path) -> None:
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(html.render(sample_run).as_uri())

    chips, cells = page.locator("a.chip:visible"), page.locator("details.cell:visible")
    assert (chips.count(), cells.count()) == (19, 19)
    page.check("#f-odd")
    assert (chips.count(), cells.count()) == (2, 2)
    assert page.inner_text("#found") == "2 of 19 cells"
    page.click("#f-reset")
    page.keyboard.press("/")
    page.keyboard.type("resend twice")
    assert chips.count() == 3
    page.click("#f-reset")
    page.select_option("#f-broker", "kafka 4.3.1")
    assert page.locator("th[data-column]:visible").count() == 1
    page.uncheck("input[value=HOLDS]")
    assert [*chips.locator(".word").all_inner_texts()] == ["VIOLATED", "UNSUPPORTED"]
    page.fill("#f-text", "no such words")
    assert page.locator("#nothing").is_visible()
    page.click("#f-reset")
    assert chips.count() == 19

    odd = page.locator("a.chip.odd-one").first
    odd.click()
    cell = page.locator("details.cell[open]")
    assert cell.get_attribute("id") == odd.get_attribute("data-cell")
    assert cell.locator("svg.timeline").first.is_visible()
    # A class the style sheet does not know, or a sheet that was refused, would leave the browser's black.
    stroke = cell.locator(".line-sent").first.evaluate("node => getComputedStyle(node).stroke")
    assert stroke not in ("none", "rgb(0, 0, 0)")
    cell.locator("button.copy").click()
    cell.locator("button.copy:not(:text-is('Copy'))").wait_for()

    shot = tmp_path / "report.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 20_000
    assert complaints == []
    assert requests == [page.url.split("#")[0]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_fits_a_narrow_window(browser: Any, sample_run: Path, scheme: str) -> None:
    page = browser.new_context(viewport={"width": 420, "height": 900}, color_scheme=scheme).new_page()
    page.goto(html.render(sample_run).as_uri())
    page.click("#open-all")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_link_from_outside_opens_its_evidence(browser: Any, sample_run: Path) -> None:
    page = browser.new_page()
    address = html.render(sample_run).as_uri()
    name = "cell-broker-confirm-after-disk-rabbitmq-4.0.5-classic--control-2"
    page.goto(f"{address}#{name}")
    assert page.locator("details.cell[open]").count() == 1
    assert page.locator(f"[id='{name}'] .trial-body").is_visible()


def test_hostile_text_neither_runs_nor_asks_for_anything(browser: Any, sample_run: Path) -> None:
    make_hostile(sample_run)
    page = browser.new_context(viewport={"width": 420, "height": 900}).new_page()
    events: list[str] = []
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("dialog", lambda dialog: events.append(dialog.message))
    page.on("request", lambda request: events.append(request.url))
    address = html.render(sample_run).as_uri()
    page.goto(address)
    page.click("#open-all")
    assert page.locator("details.cell[open]").count() == 19
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert events == [address]
