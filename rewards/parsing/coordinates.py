"""Coordinates in an answer: `[10, 20, 30, 40]`, `(10,20),(30,40)`, Qwen's and Molmo's forms.

Read are lists of numbers in brackets or parentheses, also as strings and with a comma at the end;
`{"x1": 10, "y1": 20, ..}`, `x=10, y=20`, `<point x="10" y="20">`; and a text that is nothing but
numbers. Other text in quotes, brackets and parentheses is passed over (`"label": "cup [red]"`). A
list in brackets that is nearly numbers (`[0, nan, 5, 5]`) is an error, so that nothing is guessed.
"""

from __future__ import annotations

import re

MAX_COORDINATE = 1e6
MAX_GROUPS = 4096
_NUMBER = r"[-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?"
_IS_NUMBER = re.compile(_NUMBER)
_NUMERIC = re.compile(r"[-+]?(?:nan|inf(?:inity)?|[\d.][\d.eE+-]{0,400})", re.I)
_QUOTED = re.compile(r"([:\[{,(]\s?)(?:\"([^\"\\\n]*+(?:\\.[^\"\\\n]*+)*+)\"|'([^'\n]*+)')")
_GROUP = re.compile(r"([\[(])([^\[\]()]{1,400})[\])]")
_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_JOINED = re.compile(r"[\s,;]{0,4}(?:to|and|-)?[\s,;]{0,4}")
_SIZES = re.compile(r"\\(?:left|right|bigg?|Bigg?)(?![a-zA-Z])|\\[,;! ]|<\|[a-z_]{1,20}\|>|\$")
_BLANKS = re.compile(r"\s+")
_KEYED_BOX = re.compile(
    rf"\bx_?(?:1|min|0)[\"']?\s?[:=]\s?[\"']?({_NUMBER})[\"']?,?\s?"
    rf"[\"']?y_?(?:1|min|0)[\"']?\s?[:=]\s?[\"']?({_NUMBER})[\"']?,?\s?"
    rf"[\"']?x_?(?:2|max|1)[\"']?\s?[:=]\s?[\"']?({_NUMBER})[\"']?,?\s?"
    rf"[\"']?y_?(?:2|max|1)[\"']?\s?[:=]\s?[\"']?({_NUMBER})"
)
_KEYED_POINT = re.compile(
    rf"\bx[\"']?\s?[:=]\s?[\"']?({_NUMBER})[\"']?(?:,| and)?\s?"
    rf"[\"']?y[\"']?\s?[:=]\s?[\"']?({_NUMBER})"
)

Numbers = tuple[float, ...]


def coordinates(text: str) -> list[Numbers] | str:
    """Return the points (2 numbers) and boxes (4) in order, or why the text can't be read.

    Two points that follow each other directly are left as points: `as_boxes` joins them.
    """
    text = _BLANKS.sub(" ", _SIZES.sub(" ", text)).strip()
    for pattern in (_KEYED_BOX, _KEYED_POINT):
        if found := pattern.findall(text):
            return _checked([tuple(map(float, numbers)) for numbers in found])
    text = _QUOTED.sub(_numeric_text, text)
    groups: list[Numbers] = []
    for match in _GROUP.finditer(text):
        parts = [part for part in _SEPARATOR.split(match[2].strip()) if part]
        numbers = [part for part in parts if _IS_NUMBER.fullmatch(part)]
        if len(numbers) == len(parts) and len(parts) in (2, 4):
            groups.append(tuple(map(float, parts)))
        elif match[1] == "[" and sum(map(bool, map(_NUMERIC.fullmatch, parts))) > 1:
            return f"[{match[2][:60]}] is not two or four finite numbers"
        if len(groups) > MAX_GROUPS:
            return f"more than {MAX_GROUPS} coordinates"
    if not groups:
        parts = [part for part in _SEPARATOR.split(text) if part]
        if len(parts) in (2, 4) and all(map(_IS_NUMBER.fullmatch, parts)):
            groups = [tuple(map(float, parts))]
    return _checked(groups)


def _checked(groups: list[Numbers]) -> list[Numbers] | str:
    for group in groups:
        if any(abs(number) > MAX_COORDINATE for number in group):
            return f"{list(group)} is beyond {MAX_COORDINATE:g}"
    return groups


def _numeric_text(match: re.Match[str]) -> str:
    """Keep a quoted number as a number; blank any other quoted text."""
    inner = (match[2] if match[2] is not None else match[3]).strip()
    return match[1] + (inner if _IS_NUMBER.fullmatch(inner) else "")
