"""Read gold answers: from a worked solution to its answer, and from a column to its indices.

A cell may hold the answer, or the whole solution that ends in it. Of a solution only what its
author marked as the answer is taken: <answer> tags, `#### 7`, boxes, "the answer is 7". Without
such a mark the record is refused, since the last number may be anything.

Whether integers beside choices are indices from 0, from 1, or the choices' own texts is a property
of the column, not of a record (`IndexVotes`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any, NamedTuple

from sapo_vl.data.readers.choices import choice_letter, choice_letters, fold
from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.data.readers.text import (
    answer_in_tags,
    cell_text,
    find_boxes,
    gold_type,
    strip_answer,
)
from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.extract import final_answer
from sapo_vl.rewards.parsing.gold import MAX_GOLD_CHARS

TAKEN_OUT = "a worked solution as the gold answer, its marked answer taken"
"""The note of such a record."""

SHORT_SOLUTION = 100
"""Characters. A column `solution` is the answer by its name alone where no cell is longer."""

MOST_MISFITS = 0.01
"""Share of a column's integers that may contradict the reading of all others."""

MAX_SOLUTION_CHARS = 2**18
"""A longer cell is no gold answer, and no solution of one problem either."""

_NUMBER = re.compile(r"(\d{1,6})(?:\.0*)?")
_HASHES = re.compile(r"####[ \t]*([^\n#]*)\s*\Z")
_NAME = re.compile(r"[^\W\d_]+\s{0,3}=")
_STATES = re.compile(
    r"\b(?:answer|result)\b.{0,30}?(?:\bis\b|\bare\b|[:=])|答案(?:是|为|[:：])", re.IGNORECASE
)
_BETWEEN_BOXES = re.compile(
    r"[\s$.]*(?:,|;|&|and|or|, and|, or|,? ?\\text\{ ?(?:and|or) ?\}|、|和|或|与)?[\s$]*"
)
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}(?![\w{(])")
_COMMAND = re.compile(r"\\text\s{0,3}\{[^{}]*\}|\$[^$]*\$|\\[a-zA-Z]+")
_SENTENCE_END = re.compile(r"(?<=[^\s\d])[.!?](?=\s+[^\s\d])|[。！？](?!\Z)|\n")


class Gold(NamedTuple):
    """A gold answer as a sample holds it."""

    answer: str  # letters for a choice
    answer_type: str  # one of schema.ANSWER_TYPES
    notes: tuple[str, ...] = ()  # how it was taken out of the cell


@dataclass(slots=True)
class IndexVotes:
    """How many integers of a gold column fit each reading, over all records with choices."""

    total: int = 0
    texts: int = 0  # they are the text of a choice
    from_zero: int = 0  # 0 <= integer < number of choices
    from_one: int = 0  # 1 <= integer <= number of choices

    def add(self, value: Any, choices: Sequence[str]) -> None:
        """Count the integers of one record's gold cell."""
        if not choices:
            return
        value = parse_literal(value)
        for item in value if isinstance(value, list | tuple) else [value]:
            index = as_index(item)
            if index is None:
                continue
            self.total += 1
            self.texts += _text_letter(cell_text(item), choices) is not None
            self.from_zero += index < len(choices)
            self.from_one += 1 <= index <= len(choices)

    def reading(self) -> str:
        """Return "texts", "from 0" or "from 1", the first that fits all, or nearly all if it is the
        only one; "" when none does."""
        fits = {"texts": self.texts, "from 0": self.from_zero, "from 1": self.from_one}
        whole = [name for name, count in fits.items() if count == self.total]
        near = [n for n, count in fits.items() if self.total - count <= MOST_MISFITS * self.total]
        if whole:
            return whole[0]
        return near[0] if len(near) == 1 else ""


def as_index(value: Any) -> int | None:
    """Return an integer that a cell holds as 1, 1.0, "1" or "1.0"; None for anything else."""
    if isinstance(value, bool):
        return None
    number = _NUMBER.fullmatch(cell_text(value)) if isinstance(value, int | float | str) else None
    return int(number[1]) if number else None


def read_gold_cell(value: Any, choices: Sequence[str], indices: str, unit: str | None) -> Gold:
    """Return the gold answer of a cell.

    Args:
        value: the cell, as the file has it.
        choices: texts of the record's choices, () for a free answer.
        indices: how the column's integers beside choices are read, see `IndexVotes.reading`.
        unit: of the answer, where the source gives one.

    Raises:
        DataError: it is not a single answer, none of the choices, or a solution whose answer is not
            marked.
    """
    value = parse_literal(value) if choices or _is_list_text(value) else value
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        raise DataError("the gold answer is an object; map a key of it: --map answer=COLUMN.KEY")
    if isinstance(value, list | tuple):
        return _several(list(value), choices, indices)
    text = cell_text(value)
    is_text = as_index(text) is None or indices == "texts"
    if choices and is_text and (letter := _text_letter(text, choices)):
        return Gold(letter, "choice")
    if is_missing(value):
        return Gold("", "text")
    reduced = final_part(text)
    if is_missing(reduced):
        return Gold("", "text")
    notes = (TAKEN_OUT,) if _is_taken_out(text, reduced) else ()
    if not choices:
        return Gold(reduced, gold_type(reduced, unit), notes)
    letter = _letter(reduced, choices, indices) or _letter(strip_answer(text), choices, indices)
    if letter:
        return Gold(letter, "choice", notes)
    several = choice_letters(reduced, choices)
    if several:
        return Gold(several, "multi_choice", notes)
    raise DataError(_no_choice(reduced, choices, indices))


def final_part(text: str) -> str:
    """Return the answer at the end of a worked solution, and any other text without its dress.

    Raises:
        DataError: the text is a worked solution whose answer is not marked, or marked twice with
            different ones.
    """
    if len(text) > MAX_SOLUTION_CHARS:
        raise DataError(f"the gold answer is over {MAX_SOLUTION_CHARS} characters")
    close = text.rfind("</think>")
    if "<think>" in text[max(close, 0) :]:
        raise DataError("the gold answer's <think> is never closed")
    tagged = answer_in_tags(text[close + len("</think>") :] if close >= 0 else text)
    hashes = _HASHES.search(tagged)
    if hashes:
        tagged = hashes[1]
    boxed = _in_boxes(tagged)
    if boxed is not None:
        return strip_answer(boxed)
    answer = strip_answer(_CALCULATOR.sub("", tagged))
    return _stated(answer) if _is_prose(answer) else answer


def worked_answer(text: str) -> str | None:
    """Return the answer of a text that is a worked solution; None when it is an answer itself.

    Raises:
        DataError: as `final_part`.
    """
    if is_marked(text) or "<think>" in text or _is_prose(text):
        return final_part(text)
    return None


def is_marked(text: str) -> bool:
    """Whether a solution marks its answer by tags, boxes or `####`."""
    return "</answer>" in text or "\\boxed" in text or _HASHES.search(text) is not None


def _in_boxes(text: str) -> str | None:
    """Return the content of a solution's boxes; None when it has none."""
    boxes = find_boxes(text)
    if not boxes:
        if "\\boxed" in text:
            raise DataError(f"the gold answer's box is never closed: {text[-80:]!r}")
        return None
    contents = list(dict.fromkeys(box.content for box in boxes))
    if len(contents) == 1:
        return contents[0]
    between = [text[a.end : b.start] for a, b in pairwise(boxes)]
    if all(len(gap) < 40 and _BETWEEN_BOXES.fullmatch(gap) for gap in between):
        return ", ".join(contents)
    raise DataError(
        f"the gold answer has several boxes: {', '.join(contents)[:120]!r}; map a column of the "
        "final answer"
    )


def _is_prose(text: str) -> bool:
    """Whether a text reasons or says the answer in a sentence, and is no answer itself."""
    words = len(_WORD.findall(_NAME.sub(" ", _COMMAND.sub(" ", text))))
    if len(text) > MAX_GOLD_CHARS or _STATES.search(text):
        return True
    if words < 3:
        return text.count("\n") > 1 and "=" in text
    has_value = any(char.isdigit() for char in text)
    if has_value and _SENTENCE_END.search(text):
        return True
    return (words > 4 and "=" in text) or words > 60


def _stated(text: str) -> str:
    """Return what a text calls its answer.

    Raises:
        DataError: it does not.
    """
    found = final_answer(text)
    if found.answer and found.reason.startswith("after '"):
        answer = strip_answer(found.answer)
        if not _is_prose(answer):
            return answer
    raise DataError(
        f"the gold answer is a worked solution without a marked answer: {text[-100:]!r}; map a "
        "column of the final answer"
    )


def _is_taken_out(text: str, answer: str) -> bool:
    return len(text) > len(answer) + len("$$\\boxed{}$$.") and len(text.split()) > 2


def _is_list_text(value: Any) -> bool:
    """Whether a text is a printed list of texts or numbers, and no interval or point."""
    return isinstance(value, str) and value.lstrip().startswith(('["', "['", "array("))


def _several(items: list[Any], choices: Sequence[str], indices: str) -> Gold:
    """Return the gold answer of a list of several."""
    if choices:
        letters = {
            letter for item in items if (letter := _letter(cell_text(item), choices, indices))
        }
        if items and len(letters) == len(items):
            kind = "multi_choice" if len(letters) > 1 else "choice"
            return Gold(", ".join(sorted(letters)), kind)
        raise DataError(_no_choice(", ".join(map(cell_text, items)), choices, indices))
    if not items or not all(type(item) in (int, float) for item in items):
        raise DataError(
            "the gold answer is a list; map one entry: --map answer=COLUMN.0 for the first"
        )
    return Gold(json.dumps(items), "tuple")


def _text_letter(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the choice with this text, or with the same number as 1 or 1.0."""
    for normal in (fold, _whole_number):
        normals = [normal(choice) for choice in choices]
        if normal(text) in normals:
            return ascii_uppercase[normals.index(normal(text))]
    return None


def _whole_number(text: str) -> str:
    """Return "10" for 10, 10. and 10.0, and any other text folded."""
    folded = fold(text)
    whole, point, decimals = folded.partition(".")
    return whole if point and whole.isdecimal() and not decimals.strip("0") else folded


def _letter(text: str, choices: Sequence[str], indices: str) -> str | None:
    """Return the letter of a gold answer: a letter, a choice's text, or an index."""
    index = as_index(text)
    if index is None or indices == "texts":
        return choice_letter(text, choices) or (
            _text_letter(text, choices) if index is not None else None
        )
    if not indices:
        raise DataError(
            f"the gold answers beside choices are no indices from 0 and none from 1: {text!r} of "
            f"{len(choices)} choices; map a column of letters or texts"
        )
    position = index - (indices == "from 1")
    return ascii_uppercase[position] if 0 <= position < len(choices) else None


def _no_choice(text: str, choices: Sequence[str], indices: str) -> str:
    forms = "letter or text" if indices == "texts" else f"letter, text or index {indices}"
    return (
        f"the gold answer is none of the choices: {text!r:.100} is no {forms} of "
        f"{', '.join(choices)!s:.300}"
    )
