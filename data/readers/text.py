"""Text helpers of the sources: image marks, cells, and a free gold answer's notation and type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from sapo_vl.data.readers.choices import LETTERS, choice_letters
from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.gold import GoldReading, read_gold
from sapo_vl.schema import IMAGE_MARK

QUESTION_IN_IMAGE = "Answer the question that is shown in the image."
"""`Sample.problem` when the whole question is part of the image."""

_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_IMAGE_TAG = re.compile(r"<image[ _]?(\d+)>")


class MarkedText(NamedTuple):
    """A text with image marks, and the images in the order of the marks."""

    text: str
    images: tuple[bytes, ...]
    numbers: tuple[int, ...] = ()  # of the images, as their tags number them


class Box(NamedTuple):
    """A \\boxed{..} in a text."""

    start: int
    end: int
    content: str


def find_boxes(text: str) -> list[Box]:
    r"""Return the outermost complete \boxed{..} and \fbox{..} of a text, in one pass."""
    if "box" not in text:
        return []
    found: list[tuple[int, int]] = []
    opened: list[int] = []  # per open brace: where its box begins, -1 for another brace
    for token in _BRACE.finditer(text):
        if token[0].endswith("{") and not token[0].startswith("\\{"):
            opened.append(token.start() if len(token[0]) > 1 else -1)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start < 0:
                continue
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, token.end()))
    return [Box(s, e, text[text.index("{", s) + 1 : e - 1].strip()) for s, e in found]


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


def answer_in_tags(solution: str) -> str:
    """Return the content of the last <answer>..</answer>, or the whole text when there is none.

    Raises:
        DataError: <answer> is never closed.
    """
    opening = solution.rfind("<answer>")
    if opening < 0:
        return solution.strip()
    closing = solution.find("</answer>", opening)
    if closing < 0:
        raise DataError(f"the solution's <answer> is never closed: {solution[-80:]!r}")
    return solution[opening + len("<answer>") : closing].strip()


def strip_answer(answer: str) -> str:
    r"""Strip $..$, \boxed{..}, a leading "=" and a trailing period from an answer."""
    text = answer.strip().rstrip("。").strip()
    if text.endswith(".") and not re.search(r"\.\w?\.$", text[-3:]):  # keeps the period of "P.M."
        text = text[:-1].rstrip()
    boxes = find_boxes(text)
    if (
        len(boxes) == 1
        and not text[: boxes[0].start].strip("$ ")
        and not text[boxes[0].end :].strip("$ ")
    ):
        text = boxes[0].content
    for sign in ("$$", "$"):
        inner = text[len(sign) : -len(sign)]
        if text.startswith(sign) and text.endswith(sign) and inner.strip() and "$" not in inner:
            text = inner
    return text.strip().removeprefix("=").strip() or text.strip()


def gold_type(answer: str, unit: str | None = None) -> str:
    """Return the type of a free gold answer as the verifiers read it.

    A letter from A to J, or several with a separator, are choices shown in the image.
    """
    return gold_reading(answer, unit).answer_type


def gold_reading(answer: str, unit: str | None = None) -> GoldReading:
    """Return type, rule and doubts of a free gold answer, letters of choices included."""
    text = strip_answer(answer)
    if len(text) == 1 and text in LETTERS:
        return GoldReading("choice", "letter")
    if choice_letters(text):
        return GoldReading("multi_choice", "letters")
    return read_gold(text, unit)
