"""Read the lines of a responses file, and check that a benchmark's rule can score them.

    response = read_response(row, "responses.jsonl:7", BENCHMARKS["mathvista"])

A field that is missing or has a wrong type or value is an error that names line and field. A gold
answer is brought into the form in which its benchmark publishes it: `b`, `(B)`, "B " and a choice's
own text are its letter B. A gold that no answer can equal (E of four choices) makes the row
`unscorable`: it gets no verdict, with the reason. Benchmarks call the `require_..` and `.._gold`
functions in their `check`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any, TypeVar

from sapo_vl.data.readers.choices import parse_choices
from sapo_vl.data.readers.text import choices_by_letter
from sapo_vl.errors import DataError, printable
from sapo_vl.evaluation.benchmarks.protocol import Benchmark, Response

T = TypeVar("T")

_FIELDS = (
    "model", "problem_id", "gold", "answer", "choices", "options", "response",
    "official_extraction", "official_correct", "question_type", "answer_type", "precision", "unit",
    "question", "variant", "run", "sample", "meta", "fingerprint",
)  # fmt: skip
"""Keys of a responses file that are fields of `Response`; any other key goes into its meta.
`fingerprint` ties a line to its evaluation (responses.py) and is not read here."""

MAX_PRECISION = 30  # decimals; a record's precision is a power of ten
MAX_SAMPLE = 10**9
MAX_DEPTH = 20  # levels of lists and objects in a row
_COLUMN = re.compile(r"(?:(?:option|choice)[ _-]?)?([A-Z])", re.IGNORECASE)
_LETTER = re.compile(r"[\s(\[{$*]*([A-Za-z])[\s)\]}$*.:、]*")
_LETTERED = re.compile(r"\s*\(?([A-Za-z])[).:、]\s*(.*)", re.DOTALL)
_EMPTY_WORDS = ("nan", "<na>", "none", "null")


def read_response(
    record: Mapping[str, Any], where: str, benchmark: Benchmark | None = None
) -> Response:
    """Return the Response of one line of a responses file; `where` names the line in errors.

    A line needs model, problem_id and the answer (as "gold" or "answer"), and a response or what
    was published in its place. With `benchmark`, its own `check` follows.

    Raises:
        DataError: a key is missing or has a wrong value; names the line and the key.
    """
    answer_key = "answer" if "answer" in record and "gold" not in record else "gold"
    published = "official_extraction" in record or "official_correct" in record
    try:
        for key in ("model", "problem_id", answer_key, *(() if published else ("response",))):
            if key not in record:
                given = printable(", ".join(record))[:200]
                raise DataError(f"the key {key!r} is missing (a row has {given})")
        response = _response(record, answer_key)
        if benchmark is None or _is_label(benchmark, response):
            return response
        response = _with_gold(response)
        return benchmark.check(response) if benchmark.check else response
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _response(record: Mapping[str, Any], answer_key: str) -> Response:
    _check_depth(record)
    meta = dict(_typed(record, "meta", dict, "an object") or {})
    meta |= {k: v for k, v in record.items() if k not in _FIELDS and k not in meta}
    return Response(
        model=_name(record, "model"),
        problem_id=_name(record, "problem_id"),
        answer=_gold(record[answer_key], answer_key),
        content=_typed(record, "response", str, "text"),
        choices=_choices(record),
        official_extraction=record.get("official_extraction"),
        official_correct=_typed(record, "official_correct", bool, "true or false"),
        question_type=_typed(record, "question_type", str, "text"),
        answer_type=_typed(record, "answer_type", str, "text"),
        precision=_integer(record, "precision", MAX_PRECISION),
        unit=_typed(record, "unit", str, "text"),
        question=_typed(record, "question", str, "text") or "",
        variant=_name(record, "variant", optional=True),
        run=_name(record, "run", optional=True),
        sample=_integer(record, "sample", MAX_SAMPLE) or 0,
        meta=meta,
    )


def _check_depth(record: Mapping[str, Any]) -> None:
    """Refuse deeply nested values, which could be neither written nor shown."""
    layer: list[tuple[str, Any]] = list(record.items())
    for _ in range(MAX_DEPTH):
        layer = [
            (key, inner)
            for key, value in layer
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if layer:
        raise DataError(f"{printable(layer[0][0])[:60]} is nested deeper than {MAX_DEPTH} levels")


def _is_label(benchmark: Benchmark, response: Response) -> bool:
    """Whether the published verdict counts, so that nothing is compared."""
    return benchmark.labels and response.content is None and response.official_correct is not None


def _typed(record: Mapping[str, Any], key: str, kind: type[T], words: str) -> T | None:
    value = record.get(key)
    if value is None or isinstance(value, kind):
        return value
    raise DataError(f"{key} must be {words} or null, not {_shown(value)}")


def _name(record: Mapping[str, Any], key: str, *, optional: bool = False) -> str:
    """Return a text or a number as text; an optional one may be missing or null."""
    value = record.get(key)
    if value is None and optional:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers with an empty cell is one of decimals
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if optional and value == "":
        return ""
    raise DataError(f"{key} must be text or a number, not {_shown(value)}")


def _integer(record: Mapping[str, Any], key: str, most: int) -> int | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,12}\s*", value):
        value = int(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not 0 <= value <= most:
        raise DataError(
            f"{key} must be a whole number from 0 to {most} or null, not {_shown(value)}"
        )
    return int(value)


def _gold(value: Any, key: str) -> Any:
    """Return a gold answer as text, a list of texts, or None; 5.0 is "5"."""
    if isinstance(value, list):
        return [_gold_text(item, key) for item in value]
    return None if value is None else _gold_text(value, key)


def _gold_text(value: Any, key: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise DataError(f"{key} must be text, a number or a list of these, not {_shown(value)}")


def _choices(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the choices by letter: from "choices", "options" or columns A, B, .. (option_a, ..).

    They are a list, an object by letter, or the text of a list. The letter of a choice that is null
    stays unused.
    """
    given = {key: record[key] for key in ("choices", "options") if record.get(key)}
    if len(given) > 1 and given["choices"] != given["options"]:
        raise DataError("choices and options differ; keep the one that the model was shown")
    for key, value in given.items():
        return _by_letter(key, value)
    columns = {
        match[1].upper(): value
        for key, value in record.items()
        if (match := _COLUMN.fullmatch(key)) and isinstance(value, str | int | float)
    }
    is_run = len(columns) > 1 and sorted(columns) == list(ascii_uppercase[: len(columns)])
    return _by_letter("choices", dict(sorted(columns.items()))) if is_run else {}


def _by_letter(key: str, choices: Any) -> dict[str, str]:
    has_objects = isinstance(choices, list) and any(isinstance(text, dict) for text in choices)
    if has_objects or isinstance(choices, str):
        try:
            choices = list(parse_choices(choices))
        except DataError as error:
            raise DataError(f"{key} cannot be read: {error}") from error
    if isinstance(choices, list) and len(choices) <= len(ascii_uppercase):
        lettered: Mapping[Any, Any] = choices_by_letter(choices)
    elif isinstance(choices, Mapping):
        lettered = choices
    else:
        raise DataError(f"{key} must be a list of texts or letter -> text, not {_shown(choices)}")
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, text in lettered.items():
        letter = _LETTER.fullmatch(name)
        if letter is None or letter[1].upper() in seen:
            raise DataError(f"{key} must be a list of texts or letter -> text: key {_shown(name)}")
        seen.add(letter[1].upper())
        if not _is_empty(text):
            found[letter[1].upper()] = str(text)
    return found


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _shown(value: Any) -> str:
    return printable(repr(value))[:60]


# What a benchmark's `check` is made of.


def _with_gold(response: Response) -> Response:
    """Mark a row without an answer as unscorable: null, "", or a table's word for an empty cell."""
    gold = response.answer
    texts = gold if isinstance(gold, list) else [gold]
    if gold is None or not any(text and text.strip() for text in texts):
        return unscorable(response, "the row has no answer to compare with")
    if not response.choices and any(text.strip().lower() in _EMPTY_WORDS for text in texts):
        return unscorable(response, f"the row has no answer to compare with: {gold!r}")
    return response


def unscorable(response: Response, reason: str) -> Response:
    """Return the response as one that gets no verdict; an earlier reason stays."""
    return replace(response, unscorable=response.unscorable or reason)


def single_gold(response: Response) -> Response:
    """Return a list of one accepted answer as that answer. Raises DataError for a longer list."""
    if not isinstance(response.answer, list):
        return response
    if len(response.answer) > 1:
        raise DataError(
            f"gold must be one answer for this benchmark, not {_shown(response.answer)}"
        )
    return replace(response, answer="".join(response.answer))


def require(response: Response, key: str, allowed: Sequence[str] = ()) -> None:
    """Raise DataError when a field that decides the rule is missing or none of `allowed`."""
    value = getattr(response, key)
    if value is None or value == {}:
        raise DataError(f"{key} is missing: it decides by which rule the row is scored")
    if allowed and value not in allowed:
        raise DataError(f"{key} must be one of {', '.join(allowed)}, not {_shown(value)}")


def letter_gold(response: Response, letters: str = "") -> Response:
    """Return the response with the gold answer as the letter of a choice.

    The gold is the letter in any dress, a choice's text, or both ("B. 15"). `letters` are allowed
    where the row lists no choices.
    """
    response = single_gold(response)
    gold, choices = response.answer, response.choices
    allowed = "".join(choices) or letters
    if response.unscorable or gold in list(allowed):
        return response
    dressed = _LETTER.fullmatch(gold)
    by_letter = dressed[1].upper() if dressed and dressed[1].upper() in allowed else None
    named = [name for name, text in choices.items() if _fold(text) == _fold(gold)]
    if len(named) == 1 and by_letter in (None, named[0]):
        return replace(response, answer=named[0])
    if by_letter is not None and not named:
        return replace(response, answer=by_letter)
    both = _LETTERED.fullmatch(gold)
    if both and both[1].upper() in allowed:
        letter = both[1].upper()
        if not choices or _fold(choices.get(letter, "")) == _fold(both[2]):
            return replace(response, answer=letter)
    known = ", ".join(allowed)
    several = " or several" if named else ""
    return unscorable(response, f"the gold {gold[:80]!r} is none{several} of the choices {known}")


def choice_gold(response: Response) -> Response:
    """Return the gold answer as a letter where the row lists choices, else as one answer."""
    return letter_gold(response) if response.choices else single_gold(response)


def text_gold(response: Response) -> Response:
    """Return the response with the gold answer as the text of a choice, given so or as a letter."""
    response = single_gold(response)
    if response.unscorable or response.answer in response.choices.values():
        return response
    lettered = letter_gold(response)
    if lettered.unscorable:
        return lettered
    return replace(response, answer=response.choices[lettered.answer])


def letters_gold(response: Response) -> Response:
    """Return the response with a gold of one or several letters as "B" or "A, C".

    Raises DataError for a list that holds other texts; any other text is left as it is.
    """
    gold = response.answer
    if isinstance(gold, list):
        gold = ", ".join(gold)
    if response.unscorable:
        return replace(response, answer=gold)
    text = gold.strip()
    if re.fullmatch(r"[A-H]{2,8}", text) and list(text) == sorted(set(text)):
        found = list(text)
    else:
        parts = re.split(r"[,;/&\s]+|\band\b", text)
        marks = [_LETTER.fullmatch(part) for part in parts if part]
        found = [mark[1].upper() for mark in marks if mark] if marks and all(marks) else []
    if not found:
        return replace(response, answer=gold)
    beyond = [letter for letter in found if response.choices and letter not in response.choices]
    if beyond:
        known = ", ".join(response.choices)
        reason = f"the gold {gold[:80]!r} is none of the choices {known}"
        return replace(unscorable(response, reason), answer=gold)
    return replace(response, answer=", ".join(found))


def integer_gold(response: Response) -> Response:
    """Return the response with a whole number as gold. Raises DataError when it is none."""
    response = single_gold(response)
    if response.unscorable:
        return response
    number = whole(response.answer)
    if number is None:
        raise DataError(f"gold must be a whole number, not {_shown(response.answer)}")
    return replace(response, answer=str(number))


def whole(text: str) -> int | None:
    """Return the value of "7", "007", "1,000" or "7.0", else None."""
    text = text.strip().replace(",", "")
    match = re.fullmatch(r"([+-]?\d{1,400})(?:\.0{0,20})?", text)
    return int(match[1]) if match else None


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()
