"""What the sources share in words: image marks, listed choices, letters, kinds of answers."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

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
    """Return the letter of a gold answer: of the choice that reads so, or the letter it is."""
    folded = [_fold(c) for c in choices]
    if _fold(answer) in folded:
        return ascii_uppercase[folded.index(_fold(answer))]
    bare = answer.strip().strip("()[]{}.: ").upper()
    return bare if len(bare) == 1 and bare in ascii_uppercase[: len(choices)] else None


def letters(answer: str) -> str | None:
    """Return "A, C" for an answer of several letters in any spelling, or None."""
    found = re.findall(r"[A-Z]", answer)
    rest = re.sub(r"[A-Z\s,;()]|and", "", answer)
    return ", ".join(sorted(set(found))) if len(set(found)) > 1 and not rest else None


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
    """Return the choices of a cell: a list, a dict by letter, a written list, or "A. x; B. y"."""
    if isinstance(value, dict):
        return tuple(str(value[key]) for key in sorted(value) if value[key] is not None)
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            return options(str(value))
    if isinstance(value, list | tuple):
        return tuple(map(str, value))
    return options(value) if isinstance(value, str) else ()


def bare(answer: str) -> str:
    r"""Return an answer without its dress: $..$, \boxed{..}, an "=" before, a stop after."""
    text = answer.strip().rstrip("。").strip()
    if text.endswith(".") and not text.endswith(".."):
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
