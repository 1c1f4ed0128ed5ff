"""The ready pipelines: what they judge, show and keep is redacted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CI = Path(__file__).parents[2] / "ci"
PIPELINES = ("pipelines/gitlab-ci.yml", "pipelines/Jenkinsfile", "action.yml")
#: What may be done with the run itself: it is made, looked for, removed, packed, and named to later steps of the same job.
MAY = re.compile(r"rm -rf|--run-dir runs/ci|test -e runs/ci/|\[ -e runs/ci/|bundle runs/ci |folder=runs/ci")


@pytest.mark.parametrize("name", PIPELINES)
def test_nothing_leaves_a_pipeline_but_what_is_redacted(name: str) -> None:
    lines = [
        line
        for line in (CI / name).read_text().splitlines()
        if "runs/ci" in line and not line.lstrip().startswith(("#", "//"))
    ]
    assert len(lines) >= 4, "the run is made there"
    assert [line for line in lines if not MAY.search(line)] == []
    text = (CI / name).read_text()
    judged = re.search(r'brokerproof gate "?[$\w/]*published', text)
    assert judged is not None and text.index("--redacted") < judged.start()
    assert "published/report" in text and "published/junit.xml" in text
