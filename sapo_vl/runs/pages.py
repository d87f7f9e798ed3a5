r"""HTML pages from the templates beside this file, and the tables they share with Markdown.

Every page is one file without links to others: images are data URIs. Values are escaped by the
templates (autoescape is always on, control characters are written as \x1b), so callers pass plain
text.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sapo_vl.errors import printable, printable_lines
from sapo_vl.runs.files import write_text


@dataclass(frozen=True)
class PageTable:
    """A table of text cells for Markdown and for the template macro `table`."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    heading: str = ""
    row_classes: Sequence[str] = ()  # CSS classes of each row; empty: none for any row

    @property
    def numeric(self) -> list[bool]:
        """Whether each column is right-aligned: its non-empty cells start like 7, -7 or < 7."""
        return [
            bool(self.rows) and all(row[i][:1] in "+-–<0123456789" for row in self.rows)
            for i in range(len(self.columns))
        ]

    def markdown(self) -> list[str]:
        """Return the table's Markdown lines, an empty one at the end; pipes are escaped."""
        head, *body = [
            "| " + " | ".join(markdown_text(cell).replace("|", "\\|") for cell in row) + " |"
            for row in (self.columns, *self.rows)
        ]
        rule = "|" + "|".join(" ---: " if number else " --- " for number in self.numeric) + "|"
        return [head, rule, *body, ""]


def markdown_text(text: str) -> str:
    """Return foreign text for a line of Markdown: one line, no HTML, no control characters."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;")


def _finalized(value: Any) -> Any:
    """Escape control characters of a template's plain values; rendered parts stay."""
    return printable_lines(value) if type(value) is str else value


def data_uri(data: bytes, image_type: str) -> str:
    """Return an image file's bytes as a data URI; `image_type` is "png" or "jpeg"."""
    return f"data:image/{image_type};base64,{base64.b64encode(data).decode()}"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template of this folder with `values` and write it atomically."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sapo_vl.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(values))
