"""Cells that hold a printed value: JSON, Python's own form, or an array as numpy prints it.

    '["a", "b"]'  "['a', 'b']"  "['a' 'b']"  "array(['a', 'b'], dtype=object)"  -> ["a", "b"]

A comma between two values of an array is not required, as numpy leaves it out; Python itself
would join two strings without one into a single string.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from sapo_vl.errors import DataError

MAX_PRINTED_CHARS = 2**24
"""Longest text read as Python's form, whose parser needs some 50 bytes for each character."""

MISSING_WORDS = frozenset(
    ("", "nan", "<na>", "nat", "none", "null", "nil", "n/a", "#n/a", "#na", "undefined", "missing")
)
"""How programs write a missing value, in lower case. Not "na", which is sodium's symbol as well."""

_TOKEN = re.compile(
    r"""(?P<string>[bBrRuU]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))"""
    r"""|(?P<dtype>,\s*dtype=(?:'[^']*'|[\w.]+))|(?P<open>[\[({])|(?P<close>[\])}])|(?P<mark>[,:])"""
    r"""|(?P<word>[^\s\[\](){},:'"]+)|(?P<blank>\s+)""",
    re.DOTALL,
)
_WORDS = {
    "null": "None", "true": "True", "false": "False", "nan": "None", "NaN": "None", "<NA>": "None",
}  # fmt: skip
_ARRAY = ("array", "np.array", "numpy.array")
_TYPED = re.compile(r"(?:np|numpy)\.(?:str_|int\d+|float\d+|bool_)")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, an empty list, or a word for a missing value."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    if isinstance(value, str):
        return len(value) < 20 and (value.strip().lower() in MISSING_WORDS or value.strip() == "NA")
    return isinstance(value, list | tuple | dict) and not value


def parse_literal(value: Any) -> Any:
    """Parse a cell that holds a printed list, object, tuple or bytes; return any other unchanged.

    "['a', 'b']", '["a", "b"]' and "['a' 'b']" give ["a", "b"].
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] not in ("[", "{", "(") and not text.startswith(("b'", 'b"', *_ARRAY)):
        return value
    if text[0] in "[{":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    if len(text) > MAX_PRINTED_CHARS:
        return value
    try:
        printed = ast.literal_eval(_with_commas(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
    return printed


def _with_commas(text: str) -> str:
    """Return a printed value with a comma between neighbours, and without `array(..)`.

    Raises:
        ValueError: it holds something that is no part of a printed value.
    """
    parts: list[str] = []
    end, follows_value = 0, False
    depth_of_arrays: list[bool] = []
    is_array = False
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            raise ValueError(f"unexpected {text[end]!r}")
        if token[0] == "...":
            raise ValueError("an array that was printed in part")
        end = token.end()
        kind, part = token.lastgroup, token[0]
        if kind in ("blank", "dtype"):
            parts.append(" ")
            continue
        if kind == "word" and (part in _ARRAY or _TYPED.fullmatch(part)):
            is_array = True
            continue
        starts_value = kind in ("string", "word", "open")
        if starts_value and follows_value:
            parts.append(",")
        if kind == "open":
            dropped = is_array and part == "("
            depth_of_arrays.append(dropped)
            part = "" if dropped else part
        elif kind == "close":
            part = "" if depth_of_arrays and depth_of_arrays.pop() else part
        elif kind == "word":
            part = _WORDS.get(part, part)
        parts.append(part)
        is_array = False
        follows_value = kind in ("string", "word", "close")
    if end != len(text):
        raise ValueError(f"unexpected {text[end]!r}")
    return "".join(parts)


def parse_list(value: Any) -> list[Any]:
    """Return a cell as a list: a list, a tuple, or the printed text of one; [] when empty.

    Raises:
        DataError: the cell holds anything else.
    """
    parsed = parse_literal(value)
    if parsed is None or (isinstance(parsed, str) and not parsed.strip()):
        return []
    if not isinstance(parsed, list | tuple):
        raise DataError(f"expected a list, got {value!r:.100}")
    return list(parsed)
