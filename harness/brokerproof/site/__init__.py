"""A static site from many runs: one table of cells, a page for each thing one asks about, figures side by side.

    run folders -> model.read -> Model -> pages.write -> folder of HTML, style, script and data files

The site computes no verdict: it reads what ``run`` and ``conformance`` left, keeps each cell's history, and sets like
beside like. It opens from disk and from any server, asks no network for anything, and the same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Built", "build"]


@dataclass(frozen=True, slots=True)
class Built:
    """What came out. notes: what was left out or could not be read, a sentence each."""

    index: Path
    runs: int
    cells: int
    files: int
    octets: int
    notes: tuple[str, ...]


def build(runs: Sequence[Path], out: Path, expected: Path | None = None) -> Built:
    """Writes the site of these run folders into ``out``. expected: see ``model.read``.

    Raises UsageError where nothing can be compared, or where ``out`` holds something that is not a site of ours.
    """
    # Imported here: the template engine is not needed to start the command line.
    from brokerproof.site import model, pages

    table = model.read(runs, expected)
    files = pages.write(table, out)
    return Built(
        index=out / "index.html", runs=len(table.runs), cells=len(table.cells), files=len(files),
        octets=sum(files.values()), notes=table.notes,
    )  # fmt: skip
