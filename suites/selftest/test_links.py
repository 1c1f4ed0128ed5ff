"""Every link of the Markdown pages leads somewhere: to a file of this repository, and to a heading that is on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def links(text: str) -> list[str]:
    """What the page's links and images point to."""
    found = (token.attrGet("href") or token.attrGet("src") for token in tokens(text))
    return [str(target) for target in found if target]


def anchors(text: str) -> set[str]:
    """Of its headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    found, inside = set(), False
    for token in tokens(text):
        if inside and token.type == "inline":
            said = "".join(child.content for child in token.children or ())
            slug = re.sub(r"[^\w\- ]", "", said.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        inside = token.type == "heading_open"
    return found


def dead(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere; those to other hosts are not followed."""
    return [link for link in links(text) if not leads_somewhere(page, link)]


def leads_somewhere(page: Path, link: str) -> bool:
    to = urlsplit(link)
    if to.scheme or to.netloc:
        return True
    file = (page.parent / unquote(to.path)).resolve() if to.path else page
    if not file.is_relative_to(ROOT) or not file.exists():
        return False
    return not to.fragment or (file.suffix == ".md" and unquote(to.fragment) in anchors(file.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page, page.read_text()) == []


def test_one_that_leads_nowhere_is_seen() -> None:
    text = (
        "[a](docs/none.md) [b](docs/target.md#no-such-heading) [c](docs/target.md#kafka-who-goes-through-the-proxy)\n"
        "![d](docs/images/none.png) [e][e] [f](https://example.com/none) [g](../outside.md) `[h](docs/none.md)`\n\n[e]: LICENSE#none\n"
    )
    found = ["docs/none.md", "docs/target.md#no-such-heading", "docs/images/none.png", "LICENSE#none", "../outside.md"]
    assert dead(ROOT / "README.md", text) == found


def test_headings_of_one_text_are_told_apart() -> None:
    assert anchors("# A `b`: c!\n\ntext\n\n## Twice\n\n## Twice\n") == {"a-b-c", "twice", "twice-1"}
