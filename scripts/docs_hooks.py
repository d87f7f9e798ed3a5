"""What the site shows otherwise than GitHub; mkdocs.yml names this file under `hooks`.

The pages of docs/ are read in the checkout too, where they link to files beside docs/, such as
../CONTRIBUTING.md. The site doesn't hold these files: it shows their paths instead of links. A link
to a file that doesn't exist is a warning, and so an error of the strict build.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>\.\./[^()\s#]*)(?P<anchor>#[^()\s]*)?\)"
)
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
CODE = re.compile(r"<code>[^<]*</code>")

log = logging.getLogger("mkdocs.hooks.docs")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Return a page with its links to files outside of docs/ replaced by the files' paths."""
    docs, source = Path(config.docs_dir), Path(page.file.abs_src_path)

    def path_of(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match["target"]))
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            log.warning(f"{page.file.src_uri} links to {match['target']}, which doesn't exist")
        path = f"`{target.relative_to(docs.parent)}`"
        text = match["text"].strip("`")
        return path if text in (target.name, path.strip("`")) else f"{match['text']} ({path})"

    return "\n".join(
        line if is_code else LINK.sub(path_of, line) for line, is_code in _lines(markdown)
    )


def on_page_content(html: str, **_: Any) -> str:
    """Return a page's HTML with `\\|` in a table's code as `|`, which is how GitHub shows it."""

    def plain(cell: re.Match[str]) -> str:
        return CODE.sub(lambda code: code[0].replace(r"\|", "|"), cell[0])

    return CELL.sub(plain, html)


def _lines(markdown: str) -> list[tuple[str, bool]]:
    """Return the lines of a page, each with whether it is in a fenced block of code."""
    lines, fence = [], ""
    for line in markdown.split("\n"):
        match = FENCE.match(line)
        lines.append((line, bool(fence or match)))
        if match and not fence:
            fence = match[1]
        elif match and match[1].startswith(fence):
            fence = ""
    return lines
