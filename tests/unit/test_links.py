"""The pages of this project lead to one another: each relative link, and each anchor in it, is there."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.pages import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def parsed(page: Path) -> list[Token]:
    """Return what a page consists of; links and pictures stand within its lines."""
    return MarkdownIt().enable("table").parse(page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that a host of repositories gives the headings of a page."""
    tokens = parsed(page)
    titles = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[str]:
    """Yield where a page leads within this project."""
    for token in (child for line in parsed(page) for child in line.children or ()):
        target = str(token.attrGet("href") or token.attrGet("src") or "")
        if target and not urlsplit(target).scheme:
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    """Whatever a page names, a file or a heading of one, is there."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_leads_to_every_page() -> None:
    """No page of the documentation is missing in its index."""
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert [page for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in {*named, index}] == []
