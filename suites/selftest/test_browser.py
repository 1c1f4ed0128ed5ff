"""Where there is no browser: an error in CI, a skip elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from without_browser import without_browser


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"CI": "1"}, {"BROKERPROOF_BROWSER": "required"}])
def test_in_ci_it_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no Chromium.*has to look at pages"):
        without_browser("no Chromium", environment)


@pytest.mark.parametrize("environment", [{}, {"CI": ""}, {"CI": "false"}, {"BROKERPROOF_BROWSER": ""}])
def test_on_a_laptop_it_is_a_skip(environment: dict[str, str]) -> None:
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        without_browser("no Chromium", environment)


def test_the_whole_suite_requires_one_and_gets_one_first() -> None:
    script = (Path(__file__).parents[2] / "ci" / "test").read_text()
    assert (
        0
        < script.index("ci/setup --no-images --browser")
        < script.index("export BROKERPROOF_BROWSER=required")
        < script.index("pytest suites/selftest")
    )
