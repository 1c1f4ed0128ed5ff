"""What a finished run looks like: renderers read the files of a run folder and compute nothing new (design section 6).

html -> report/index.html     cases -> report/conformance.html, report/cases/     junit -> junit.xml     markdown -> summary.md
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["render_all"]


def render_all(run: Path) -> list[Path]:
    """Writes every rendering of this run folder and returns their paths; the same files in, the same bytes out."""
    # Imported here: the template engine is not needed to start the command line.
    from brokerproof.render import cases, html, junit, markdown

    return [html.render(run), *cases.render(run), junit.render(run), markdown.render(run)]
