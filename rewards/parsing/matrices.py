r"""Matrices and vectors in their spellings: environments, `[[1,2],[3,4]]`, `\langle 3,-2 \rangle`,
`3\hat{i} - 2\hat{j}`.

A vector equals the tuple of its entries; a row isn't a column where both sides are matrices.
"""

from __future__ import annotations

import itertools
import re

from sapo_vl.rewards.parsing.answer_values import Group, Leaf, Matrix, Value
from sapo_vl.rewards.parsing.brackets import is_balanced

_UNITS = "ijk"
_TERM = re.compile(
    r"\s*([+-]?)\s*([^+]*?)\s*(?:\\cdot|\*)?\s*(?:\{\s*([ijk])\s*\}|([ijk]))\s*(?=[+-]|$)"
)


def as_matrix(value: Value) -> Matrix | None:
    """Return the matrix that a value is; a bracketed list of equally long rows is one."""
    if isinstance(value, Matrix):
        return value
    if not isinstance(value, Group) or value.opening not in ("(", "["):
        return None
    rows = []
    for row in value.items:
        if not isinstance(row, Group) or row.opening == "\\{":
            return None  # `[1,2;3,4]` has bare rows
        cells = [cell for cell in row.items if isinstance(cell, Leaf)]
        if len(cells) != len(row.items):
            return None
        rows.append(tuple(cells))
    return Matrix(tuple(rows)) if len({len(row) for row in rows}) == 1 else None


def as_vector(value: Value) -> Group | None:
    """Return the tuple of a vector's entries, or None."""
    if isinstance(value, Group) and value.is_ordered and value.closing in (")", "]"):
        return Group(value.items, "(", ")")
    if isinstance(value, Matrix) and (len(value.rows) == 1 or all(len(r) == 1 for r in value.rows)):
        return Group(tuple(itertools.chain(*value.rows)), "(", ")")
    return _from_units(value.text) if isinstance(value, Leaf) else None


def is_in_units(value: Value) -> bool:
    r"""Whether a value is written with unit vectors: `3\hat{i} - 2\hat{j}`."""
    return isinstance(value, Leaf) and _from_units(value.text) is not None


def _from_units(text: str) -> Group | None:
    """Return the entries of a sum of multiples of i, j and k; at least two of them occur."""
    if "j" not in text or len(text) > 200:
        return None
    entries: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match.end() == position or not is_balanced(match[2]):
            return None
        unit, factor = match[3] or match[4], match[2].strip() or "1"
        if unit in entries:
            return None
        entries[unit] = f"{'-' if match[1] == '-' else ''}{factor}"
        position = match.end()
    if len(entries) < 2:
        return None
    size = 3 if "k" in entries else 2
    return Group(tuple(Leaf(entries.get(unit, "0")) for unit in _UNITS[:size]), "(", ")")
