"""Text helpers of the sources: image marks, lists of choices, gold answers and their types."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from sapo_vl.data.readers.tables import parse_literal
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

QUESTION_IN_IMAGE = "Answer the question that is shown in the image."
"""`Sample.problem` when the whole question is part of the image."""

LETTERS = ascii_uppercase[:10]
"""A free answer that is one of these letters refers to a choice shown in the image."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+")
_PLAIN_FRACTION = re.compile(r"[+-]?\d+\s*/\s*\d+")
_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname|mathbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|log|ln|lim|min|max|pi|sqrt)\b")
_IMAGE_TAG = re.compile(r"<image[ _]?(\d+)>")
_ANSWER_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTERED = re.compile(r"\(?([A-Za-z])[).:：、]\s*(.*)", re.DOTALL)
_CHOICE_MARK = re.compile(r"(?:^|(?<=[\s;.,?!:)）]))\(?([A-Z])(?:\)|[.:：、)])[ \t]*")
_CHOICE_KEY = re.compile(r"\(?(?:[A-Za-z]|\d+)[).]?")
_TEXT_KEYS = ("text", "value", "content", "option")
"""Keys of an object that holds one choice's text, or the list of all texts."""


class MarkedText(NamedTuple):
    """A text with image marks, and the images in the order of the marks."""

    text: str
    images: tuple[bytes, ...]
    numbers: tuple[int, ...] = ()  # of the images, as their tags number them


def cell_text(value: Any) -> str:
    """Return a cell as stripped text; an empty cell (None) gives ""."""
    return "" if value is None else str(value).strip()


def prepend_marks(text: str, count: int) -> str:
    """Prepend image marks, a line each, until `text` has `count` of them."""
    missing = count - text.count(IMAGE_MARK)
    return "\n".join([IMAGE_MARK] * missing + [text.strip()]).strip() if missing > 0 else text


def place_images(text: str, images: Mapping[int, bytes]) -> MarkedText:
    """Replace the tags `<image 1>`, `<image_1>` or `<image1>` by image marks.

    The first tag of each number becomes the mark; a repeated tag, or one without an image, becomes
    "image 1". Images without a tag go to the front.
    """
    order: list[int] = []

    def mark(tag: re.Match[str]) -> str:
        number = int(tag[1])
        if number in images and number not in order:
            order.append(number)
            return IMAGE_MARK
        return f"image {number}"

    marked = _IMAGE_TAG.sub(mark, text)
    untagged = [number for number in sorted(images) if number not in order]
    numbers = (*untagged, *order)
    shown = tuple(images[number] for number in numbers)
    return MarkedText(prepend_marks(marked, len(images)), shown, numbers)


def choices_by_letter(choices: Sequence[str]) -> dict[str, str]:
    """Return {"A": first, "B": second, ..}.

    Raises:
        DataError: there are more choices than letters.
    """
    if len(choices) > len(ascii_uppercase):
        raise DataError(f"{len(choices)} choices; at most {len(ascii_uppercase)} can be lettered")
    return dict(zip(ascii_uppercase, choices, strict=False))


def append_choices(text: str, choices: Sequence[str]) -> str:
    """Append the choices to `text`, a line each: (A) first, (B) second."""
    lettered = zip(ascii_uppercase, choices, strict=False)
    return "\n".join((text.strip(), *(f"({letter}) {choice}" for letter, choice in lettered)))


def choice_letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter of a gold answer that is a choice's text, its letter, or both; else None.

    Both, as in "B. text", only counts when that is B's text.
    """
    folded = [_fold(choice) for choice in choices]
    if _fold(answer) in folded:
        return ascii_uppercase[folded.index(_fold(answer))]
    letter = answer.strip().strip("()[]{}.: ").upper()
    allowed = ascii_uppercase[: len(choices)]
    if len(letter) == 1 and letter in allowed:
        return letter
    lettered = _LETTERED.fullmatch(answer.strip())
    if lettered and lettered[1].upper() in allowed:
        index = allowed.index(lettered[1].upper())
        return allowed[index] if _fold(lettered[2]) == folded[index] else None
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
    object of lists ({"text": [..], "label": [..]}), the JSON or Python text of any of these,
    "A. x; B. y", and one choice per line. A leading "A. " of a choice is stripped.

    Raises:
        DataError: the cell holds anything else.
    """
    parsed = parse_literal(value)
    if parsed is None or parsed == "":
        return ()
    if isinstance(parsed, dict):
        lists = [parsed[k] for k in (*_TEXT_KEYS, "choices") if isinstance(parsed.get(k), list)]
        if lists:
            parsed = lists[0]
        elif all(_CHOICE_KEY.fullmatch(key) for key in parsed):
            by_letter = sorted(parsed, key=lambda key: (len(key), key))
            parsed = [parsed[key] for key in by_letter if parsed[key] is not None]
    if isinstance(parsed, str):
        lines = [line.strip() for line in parsed.splitlines() if line.strip()]
        parsed = split_choices(parsed) or (lines if len(lines) > 1 else parsed)
    if not isinstance(parsed, list | tuple):
        raise DataError(
            "the choices cannot be read: expected a list, an object by letter, or A. x; B. y, got "
            f"{value!r:.100}"
        )
    return _strip_letters([_choice_text(choice) for choice in parsed])


def _choice_text(choice: Any) -> str:
    if isinstance(choice, dict):
        choice = next((choice[k] for k in _TEXT_KEYS if choice.get(k) is not None), None)
    if choice is None or isinstance(choice, list | dict):
        raise DataError(f"a choice has no text: {choice!r:.100}")
    return str(choice).strip()


def _strip_letters(choices: list[str]) -> tuple[str, ...]:
    """Strip "A. ", "B. ", .. when every choice starts with its own letter."""
    matches = [_LETTERED.fullmatch(choice) for choice in choices]
    if all(m and m[2] and m[1] == c for m, c in zip(matches, ascii_uppercase, strict=False)):
        return tuple(m[2] for m in matches if m)
    return tuple(choices)


def answer_in_tags(solution: str) -> str:
    """Return the content of the last <answer>..</answer>, or the whole text when there is none.

    Raises:
        DataError: <answer> is never closed.
    """
    answers = _ANSWER_TAGS.findall(solution)
    if not answers and "<answer>" in solution:
        raise DataError(f"the solution's <answer> is never closed: {solution[-80:]!r}")
    return (answers[-1] if answers else solution).strip()


def strip_answer(answer: str) -> str:
    r"""Strip $..$, \boxed{..}, a leading "=" and a trailing period from an answer."""
    text = answer.strip().rstrip("。").strip()
    if text.endswith(".") and not re.search(r"\.\w?\.$", text):  # keeps the period of "P.M."
        text = text[:-1].rstrip()
    boxed = re.fullmatch(r"\$*\\boxed\s*\{(.*)\}\$*", text, re.DOTALL)
    text = boxed[1] if boxed else text
    for sign in ("$$", "$"):
        inner = text[len(sign) : -len(sign)]
        if text.startswith(sign) and text.endswith(sign) and inner.strip() and "$" not in inner:
            text = inner
    return text.strip().removeprefix("=").strip() or text.strip()


def guess_answer_type(answer: str) -> str:
    """Guess the type of a free answer, one of `schema.ANSWER_TYPES`, from its notation."""
    text = strip_answer(answer)
    if len(text) == 1 and text in LETTERS:
        return "choice"
    if _NUMBER.fullmatch(text) or _PLAIN_FRACTION.fullmatch(text):
        return "number"
    words = _FUNCTION.sub("", _COMMAND.sub(" ", text))
    if _WORD.search(words) or "\n" in text or not re.search(r"[\w\\]", text):
        return "text"
    opened, closed = text[:1] in "([", text[-1:] in ")]"
    if opened and closed and _has_top_level_comma(text[1:-1]):
        return "interval" if "[" in text[:1] + text[-1:] or "]" in text[-1:] else "tuple"
    if "=" in text:
        return "equation"
    return "set" if _has_top_level_comma(text) else "expression"


def _has_top_level_comma(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return False
        if sign == "," and depth == 0:
            return True
    return False


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
