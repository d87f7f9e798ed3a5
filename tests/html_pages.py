"""Parsing a page for the tests: tags close in order, and hostile values stay text."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = (
    """<script>alert('x')</script>"><img src=x onerror="alert(1)"><a href='javascript:x'>{{7*7}}"""
)
VOID = ("meta", "img", "br")


class ParsedPage(HTMLParser):
    """The tags, attributes and text of a page; fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    @property
    def links(self) -> list[str]:
        """Values of all src and href attributes."""
        return [value for name, value in self.attributes if name in ("src", "href")]


def check_hostile(page: str, times: int) -> ParsedPage:
    """Assert that `HOSTILE` occurs `times` times as text (or in an alt attribute) and as no tag."""
    parsed = ParsedPage(page)
    alts = [value for name, value in parsed.attributes if name == "alt"]
    assert parsed.text.count(HOSTILE) + sum(HOSTILE in alt for alt in alts) == times
    assert not {"script", "a"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert all(link.startswith("data:image/") for link in parsed.links)
    return parsed
