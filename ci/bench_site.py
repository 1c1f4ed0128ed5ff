"""What a site of many runs weighs and how soon one can work with it.

    python ci/bench_site.py [--cells 1000] [--runs 50]

Runs are made up (``suites/selftest/site/site_sample.py``), the site is built from them, and its landing page and its
differences are opened from disk in a headless Chromium: from the navigation until the result of a filter is on the screen, and
until the differences stand there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "suites" / "selftest" / "site"))

from site_sample import many

from brokerproof.site import build

#: What is accepted: octets of the landing page with all it loads, and seconds until its first filter has answered. Those are
#: seconds of processor of the page's own thread, which is what a person waits for on a machine that has nothing else to do; on a
#: busy one the clock says how busy it is.
OCTETS_MAX, SECONDS_MAX = 1_000_000, 1.0
ROUNDS = 5
#: What a page may take on a machine that is busy with something else, in ms: longer than that is no measurement.
PATIENCE_MS = 300_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--keep", type=Path, help="keep runs and site in this folder")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="brokerproof-bench-"))
    try:
        return measure(folder, args.cells, args.runs)
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path, cells: int, runs: int) -> int:
    made = many(folder / "runs", cells=cells, runs=runs)
    start, cpu = time.monotonic(), time.process_time()
    built = build(made, folder / "site")
    print(
        f"build    {built.cells} cells of {built.runs} runs in {time.monotonic() - start:.1f} s ({time.process_time() - cpu:.1f} s of processor); {built.files} files, {built.octets / 1e6:.0f} MB"
    )
    return browse(folder / "site")


def browse(site: Path) -> int:
    """Opens a site that was built; returns the exit code."""
    from playwright.sync_api import sync_playwright

    loaded = ["index.html", *(f"assets/{name}" for name in ("site.css", "site.js", "matrix.js"))]
    octets = sum((site / name).stat().st_size for name in loaded)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        ready, busy, worked, filtered, compared = [], [], [], [], []
        for _ in range(ROUNDS):
            page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.set_default_timeout(PATIENCE_MS)
            tracing = page.context.new_cdp_session(page)
            tracing.send("Performance.enable", {"timeDomain": "threadTicks"})
            address = (site / "index.html").as_uri()
            page.goto(address)
            page.wait_for_selector("[data-ready]", state="attached")
            # From the start of the navigation until the script that answers has run, and a frame was painted.
            ready.append(
                page.evaluate(
                    "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
                )
                / 1000
            )
            busy.append(_worked_s(tracing))
            filtered.append(page.evaluate(
                "new Promise((done) => { const at = performance.now(); const box = document.getElementById('f-differs'); box.checked = true;"
                "box.dispatchEvent(new Event('input', { bubbles: true })); requestAnimationFrame(() => setTimeout(() => done(performance.now() - at))); })"
            ) / 1000)  # fmt: skip
            worked.append(_worked_s(tracing))
            page.goto(address.replace("index.html", "differences.html"))
            page.wait_for_selector("[data-ready]", state="attached")
            compared.append(page.evaluate("performance.now()") / 1000)
            page.close()
        chromium.close()
    print(f"landing  {octets / 1000:.0f} kB with style and scripts (at most {OCTETS_MAX / 1000:.0f})")
    # A person waits for both: from the start of the navigation until the result of a first filter is on the screen.
    first = [a + b for a, b in zip(ready, filtered, strict=True)]
    print("times    by the clock, and (worked) what the page's own thread worked of them")
    for name, values in (
        ("ready", ready), ("  worked", busy), ("filter", filtered), ("first", first), ("  worked", worked), ("differ", compared),
    ):  # fmt: skip
        print(
            f"{name:<8} median {statistics.median(values):.2f} s, {min(values):.2f} to {max(values):.2f} s of {ROUNDS}"
        )
    good = octets <= OCTETS_MAX and statistics.median(worked) <= SECONDS_MAX
    print(
        f"from navigation to the first filter's result: {statistics.median(first):.2f} s by the clock, "
        f"{statistics.median(worked):.2f} s of the page's thread (at most {SECONDS_MAX:g})"
    )
    print("as wanted" if good else "NOT as wanted")
    return 0 if good else 1


def _worked_s(tracing: CDPSession) -> float:
    """Seconds of processor that the page's thread has worked since the navigation began."""
    metrics = tracing.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


if __name__ == "__main__":
    raise SystemExit(main())
