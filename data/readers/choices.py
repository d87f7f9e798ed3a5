"""Lists of choices in any form, and the letters that a gold answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.errors import DataError

LETTERS = ascii_uppercase[:10]
"""A free answer that is one of these letters refers to a choice shown in the image."""

_LETTERED = re.compile(r"\(?([A-Za-z])[).:：、]\s*(.*)", re.DOTALL)
_CHOICE_MARK = re.compile(r"(?:^|(?<=[\s;.,?!:)）]))\(?([A-Z])(?:\)|[.:：、)])[ \t]*")
_CHOICE_KEY = re.compile(r"\(?(?:[A-Za-z]|\d+)[).]?")
_TEXT_KEYS = ("text", "value", "content", "option")
"""Keys of an object that holds one choice's text, or the list of all texts."""


def append_choices(text: str, choices: Sequence[str]) -> str:
    """Append the choices to `text`, a line each: (A) first, (B) second."""
    lettered = zip(ascii_uppercase, choices, strict=False)
    return "\n".join((text.strip(), *(f"({letter}) {choice}" for letter, choice in lettered)))


def choice_letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter of a gold answer that is a choice's text, its letter, or both; else None.

    Both, as in "B. text", only counts when that is B's text.
    """
    folded = [fold(choice) for choice in choices]
    if fold(answer) in folded:
        return ascii_uppercase[folded.index(fold(answer))]
    letter = answer.strip().strip("()[]{}.: ").upper()
    allowed = ascii_uppercase[: len(choices)]
    if len(letter) == 1 and letter in allowed:
        return letter
    lettered = _LETTERED.fullmatch(answer.strip())
    if lettered and lettered[1].upper() in allowed:
        index = allowed.index(lettered[1].upper())
        return allowed[index] if fold(lettered[2]) == folded[index] else None
    return None


def choice_letters(answer: str, choices: Sequence[str] = ()) -> str | None:
    """Return "A, C" for an answer of several letters, else None.

    With `choices`, every letter must be one of theirs and "AC" is accepted. Without, "AC" may name
    a line segment, so that a separator is required.
    """
    text = answer.strip()
    letters = re.findall(r"[A-Z]", text)
    rest = re.sub(r"[A-Z\s,;()]|and", "", text)
    if len(set(letters)) < 2 or rest:
        return None
    allowed = ascii_uppercase[: len(choices)] if choices else LETTERS
    if not set(letters) <= set(allowed) or not (choices or re.search(r"[\s,;]", text)):
        return None
    return ", ".join(sorted(set(letters)))


def split_choices(text: str) -> tuple[str, ...]:
    """Split "A. one; B. two" or "(A) one (B) two" into its texts; () unless A and B occur."""
    marks: list[re.Match[str]] = []
    for match in _CHOICE_MARK.finditer(text):
        if match[1] == ascii_uppercase[len(marks)]:
            marks.append(match)
            if len(marks) == len(ascii_uppercase):
                break
    if len(marks) < 2:
        return ()
    ends = [m.start() for m in marks[1:]] + [len(text)]
    texts = tuple(text[m.end() : e].strip(" ;\n\t") for m, e in zip(marks, ends, strict=True))
    return texts if all(texts) else ()


def parse_choices(value: Any) -> tuple[str, ...]:
    """Return the texts of a cell's choices, () for an empty cell.

    Accepted: a list of texts or of objects with a text, an object keyed by letter or number, an
    object of lists ({"text": [..], "label": [..]}), the printed text of any of these, "A. x; B. y",
    and one choice per line. A leading "A. " of a choice is stripped. Empty entries at the end are
    left out.

    Raises:
        DataError: the cell holds anything else, or an empty choice between others, which may be
            left out only with a change of the letters after it.
    """
    parsed = parse_literal(value)
    if is_missing(parsed):
        return ()
    if isinstance(parsed, dict):
        lists = [parsed[k] for k in (*_TEXT_KEYS, "choices") if isinstance(parsed.get(k), list)]
        if lists:
            parsed = lists[0]
        elif all(_CHOICE_KEY.fullmatch(key) for key in parsed):
            parsed = [parsed[key] for key in sorted(parsed, key=lambda key: (len(key), key))]
    if isinstance(parsed, str):
        lines = [line.strip() for line in parsed.splitlines() if line.strip()]
        parsed = split_choices(parsed) or (lines if len(lines) > 1 else parsed)
    if not isinstance(parsed, list | tuple):
        raise DataError(
            "the choices cannot be read: expected a list, an object by letter, or A. x; B. y, got "
            f"{value!r:.100}"
        )
    texts = [_choice_text(choice) for choice in parsed]
    while texts and not texts[-1]:
        texts.pop()
    if "" in texts:
        letter = ascii_uppercase[min(texts.index(""), 25)]
        raise DataError(
            f"a choice is empty: {letter} of {len(texts)}; the letters after it may be wrong"
        )
    if len(texts) > len(ascii_uppercase):
        raise DataError(f"too many choices: {len(texts)}; at most {len(ascii_uppercase)}")
    return strip_letters(texts)


def strip_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """Strip "A. ", "B. ", .. when every choice starts with its own letter."""
    matches = [_LETTERED.fullmatch(choice) for choice in choices]
    if all(m and m[2] and m[1] == c for m, c in zip(matches, ascii_uppercase, strict=False)):
        return tuple(m[2] for m in matches if m)
    return tuple(choices)


def fold(text: str) -> str:
    """Return a text for comparison: blanks and case do not count."""
    return " ".join(text.split()).casefold()


def _choice_text(choice: Any) -> str:
    """Return a choice's text, "" for an empty one; the words None and nan are choices."""
    if isinstance(choice, dict):
        found = [choice[k] for k in _TEXT_KEYS if k in choice]
        if not found:
            raise DataError(f"a choice has no text: {choice!r:.100}")
        choice = next((text for text in found if text is not None), None)
    if isinstance(choice, list | dict):
        raise DataError(f"a choice has no text: {choice!r:.100}")
    if choice is None or (isinstance(choice, float) and choice != choice):
        return ""
    return str(choice).strip()
