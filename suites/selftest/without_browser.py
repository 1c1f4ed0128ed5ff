"""What becomes of a test that looks at pages where there is no browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import pytest


def without_browser(why: str, environment: Mapping[str, str]) -> NoReturn:
    """What looks at pages is skipped on somebody's own machine, and fails where the whole suite has to pass: under ``ci/test``, and
    wherever CI is set. A page that nobody looked at must not pass for one that is well."""
    if environment.get("BROKERPROOF_BROWSER") == "required" or environment.get("CI", "").lower() not in (
        "",
        "0",
        "false",
    ):
        pytest.fail(f"{why}; this run has to look at pages (CI or BROKERPROOF_BROWSER is set)", pytrace=False)
    pytest.skip(why)
