"""What the sources share in words: image marks, listed choices, letters, kinds of answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from sapo_vl.data.readers.tables import written
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

IN_THE_PICTURE = "Answer the question that is shown in the image."
"""The problem's text where the source has the whole question in its picture."""

LETTERS = ascii_uppercase[:10]
"""A free answer that is one of these alone is the letter of a choice shown in the picture."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|[+-]?\.\d+")
_PLAIN_FRACTION = re.compile(r"[+-]?\d+\s*/\s*\d+")
_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname|mathbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|log|ln|lim|min|max|pi|sqrt)\b")
_TAG = re.compile(r"<image[ _]?(\d+)>")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTERED = re.compile(r"\(?([A-Za-z])[).:：、]\s*(.*)", re.DOTALL)
_TEXTS = ("text", "value", "content", "option")
"""Keys under which an object has a choice's text, or the texts of all choices."""
_OPTION = re.compile(r"(?:^|(?<=[\s;.,?!:)）]))\(?([A-Z])(?:\)|[.:：、)])[ \t]*")


class Placed(NamedTuple):
    """A text with its marks, and the pictures in the order of the marks."""

    text: str
    images: tuple[bytes, ...]


def front(text: str, count: int) -> str:
    """Return `text` with enough image marks put in front of it to have `count`."""
    missing = count - text.count(IMAGE_MARK)
    return "\n".join([IMAGE_MARK] * missing + [text.strip()]).strip() if missing > 0 else text


def place(text: str, numbered: dict[int, bytes]) -> Placed:
    """Put pictures where their tags are: `<image 1>`, `<image_1>` or `<image1>`.

    The first tag of a number becomes the mark; a later one becomes "image 1". Pictures without a
    tag go to the front.
    """
    order: list[int] = []

    def mark(tag: re.Match[str]) -> str:
        number = int(tag[1])
        if number in numbered and number not in order:
            order.append(number)
            return IMAGE_MARK
        return f"image {number}"

    marked = _TAG.sub(mark, text)
    loose = [n for n in sorted(numbered) if n not in order]
    return Placed(front(marked, len(numbered)), tuple(numbered[n] for n in (*loose, *order)))


def listed(text: str, choices: Sequence[str]) -> str:
    """Return `text` with the choices under it, a line each: (A) first, (B) second."""
    lines = (f"({letter}) {c}" for letter, c in zip(ascii_uppercase, choices, strict=False))
    return "\n".join((text.strip(), *lines))


def letter(answer: str, choices: Sequence[str]) -> str | None:
    """Return the letter of a gold answer: of the choice that reads so, or the letter it is.

    "B. text" is B where the text is that of B.
    """
    folded = [_fold(c) for c in choices]
    if _fold(answer) in folded:
        return ascii_uppercase[folded.index(_fold(answer))]
    bare = answer.strip().strip("()[]{}.: ").upper()
    allowed = ascii_uppercase[: len(choices)]
    if len(bare) == 1 and bare in allowed:
        return bare
    lettered = _LETTERED.fullmatch(answer.strip())
    if lettered and lettered[1].upper() in allowed:
        place = allowed.index(lettered[1].upper())
        return allowed[place] if _fold(lettered[2]) == folded[place] else None
    return None


def letters(answer: str, choices: Sequence[str] = ()) -> str | None:
    """Return "A, C" for an answer of several letters, or None.

    With `choices` each letter is one of theirs, and "AC" will do; without them that may be the name
    of a line.
    """
    text = answer.strip()
    found = re.findall(r"[A-Z]", text)
    rest = re.sub(r"[A-Z\s,;()]|and", "", text)
    if len(set(found)) < 2 or rest:
        return None
    allowed = ascii_uppercase[: len(choices)] if choices else LETTERS
    if not set(found) <= set(allowed) or not (choices or re.search(r"[\s,;]", text)):
        return None
    return ", ".join(sorted(set(found)))


def options(text: str) -> tuple[str, ...]:
    """Split "A. one; B. two" or "(A) one (B) two" into its texts; () when A, B.. is not there."""
    marks: list[re.Match[str]] = []
    for found in _OPTION.finditer(text):
        if found[1] == ascii_uppercase[len(marks)]:
            marks.append(found)
            if len(marks) == len(ascii_uppercase):
                break
    if len(marks) < 2:
        return ()
    ends = [m.start() for m in marks[1:]] + [len(text)]
    texts = tuple(text[m.end() : e].strip(" ;\n\t") for m, e in zip(marks, ends, strict=True))
    return texts if all(texts) else ()


def as_choices(value: Any) -> tuple[str, ...]:
    """Return the choices of a cell, () for an empty one.

    They are a list (of texts, or of objects with a text), an object by letter or number, one of
    lists ({"text": [..], "label": [..]}), any of these written in a string, or "A. x; B. y", or a
    line each. A choice's own "A. " is left out.

    Raises:
        DataError: it is none of these.
    """
    found = written(value)
    if found is None or found == "":
        return ()
    if isinstance(found, dict):
        lists = [found[key] for key in (*_TEXTS, "choices") if isinstance(found.get(key), list)]
        if lists:
            found = lists[0]
        elif all(re.fullmatch(r"\(?(?:[A-Za-z]|\d+)[).]?", key) for key in found):
            by_letter = sorted(found, key=lambda key: (len(key), key))
            found = [found[key] for key in by_letter if found[key] is not None]
    if isinstance(found, str):
        lines = [line.strip() for line in found.splitlines() if line.strip()]
        found = options(found) or (lines if len(lines) > 1 else found)
    if not isinstance(found, list | tuple):
        raise DataError(
            "the choices cannot be read: a list, an object by letter, or A. x; B. y is expected, "
            f"not {value!r:.100}"
        )
    return _unlettered([_choice(one) for one in found])


def _choice(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[key] for key in _TEXTS if value.get(key) is not None), None)
    if value is None or isinstance(value, list | dict):
        raise DataError(f"a choice has no text: {value!r:.100}")
    return str(value).strip()


def _unlettered(choices: list[str]) -> tuple[str, ...]:
    marked = [_LETTERED.fullmatch(c) for c in choices]
    if all(m and m[2] and m[1] == c for m, c in zip(marked, ascii_uppercase, strict=False)):
        return tuple(m[2] for m in marked if m)
    return tuple(choices)


def text(value: Any) -> str:
    """Return a cell as text without blanks around it; an empty cell is ""."""
    return "" if value is None else str(value).strip()


def tagged(solution: str) -> str:
    """Return what is in the last pair of answer tags, or the text when it has no tags.

    Raises:
        DataError: a tag is open.
    """
    found = _ANSWER.findall(solution)
    if not found and "<answer>" in solution:
        raise DataError(f"the solution's <answer> is never closed: {solution[-80:]!r}")
    return (found[-1] if found else solution).strip()


def bare(answer: str) -> str:
    r"""Return an answer without its dress: $..$, \boxed{..}, an "=" before, a stop after."""
    text = answer.strip().rstrip("。").strip()
    if text.endswith(".") and not re.search(r"\.\w?\.$", text):  # but not that of P.M.
        text = text[:-1].rstrip()
    boxed = re.fullmatch(r"\$*\\boxed\s*\{(.*)\}\$*", text, re.DOTALL)
    text = boxed[1] if boxed else text
    for sign in ("$$", "$"):
        inner = text[len(sign) : -len(sign)]
        if text.startswith(sign) and text.endswith(sign) and inner.strip() and "$" not in inner:
            text = inner
    return text.strip().removeprefix("=").strip() or text.strip()


def answer_type(answer: str) -> str:
    """Guess the kind of a free answer from how it is written: one of `schema.ANSWER_TYPES`."""
    text = bare(answer)
    if len(text) == 1 and text in LETTERS:
        return "choice"
    if _NUMBER.fullmatch(text) or _PLAIN_FRACTION.fullmatch(text):
        return "number"
    words = _FUNCTION.sub("", _COMMAND.sub(" ", text))
    if _WORD.search(words) or "\n" in text or not re.search(r"[\w\\]", text):
        return "text"
    opened, closed = text[:1] in "([", text[-1:] in ")]"
    if opened and closed and _comma_at_top(text[1:-1]):
        return "interval" if "[" in text[:1] + text[-1:] or "]" in text[-1:] else "tuple"
    if "=" in text:
        return "equation"
    return "set" if _comma_at_top(text) else "expression"


def _comma_at_top(text: str) -> bool:
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
