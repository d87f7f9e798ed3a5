"""Which column is what: the --map option, common names, nested keys and families of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import isnan
from string import ascii_uppercase
from typing import Any

from sapo_vl.data.readers.choices import choice_letter, parse_choices
from sapo_vl.data.readers.golds import SHORT_SOLUTION, as_index, is_marked
from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text
from sapo_vl.errors import ConfigError, DataError, nearest

COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "query", "prompt", "instruction"),
    "answer": ("answer", "gold", "label", "ground_truth", "target", "solution"),
    "images": ("images", "image", "decoded_image", "image_path", "image_file", "img", "file_name"),
    "choices": ("choices", "options", "option"),
    "context": ("system", "context", "passage"),
    "id": ("id", "pid", "qid", "question_id"),
    "task": ("task", "category", "subject"),
    "split": (),
    "answer_type": (),
    "precision": ("precision",),
    "rel_tol": (),
    "unit": ("unit",),
}
"""Field of a sample -> column names it is read from when it is not mapped, best first. `context` is
text that goes before the problem, joined from all of its columns."""

REQUIRED = ("problem", "answer")

SHORT = 200
"""Longest unmapped column, in characters of JSON, that goes into the metadata."""

_ABSENT = object()
_OPTION = re.compile(
    r"(?P<prefix>options?|opt?|choices?|answer|ans|sol)?(?P<gap>[ _.-]?)(?P<key>[A-Za-z]|\d{1,2})",
    re.IGNORECASE,
)


def parse_map(text: str) -> dict[str, str]:
    """Parse the --map option, "problem=question,answer=label", into field -> column.

    Raises:
        ConfigError: a part has no column, a field is unknown, or a field is mapped twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        field, equals, column = (p.strip() for p in part.partition("="))
        if not equals or not column:
            raise ConfigError(f"--map: {part!r} is not FIELD=COLUMN")
        if field not in COMMON_NAMES:
            hint = nearest(field, COMMON_NAMES)
            raise ConfigError(
                f"--map: {field!r} is unknown; allowed: {', '.join(COMMON_NAMES)}{hint}"
            )
        if field in columns:
            raise ConfigError(f"--map: {field} is mapped twice; A+B joins columns")
        columns[field] = column
    return columns


def resolve(
    rows: list[Row], seen: Mapping[str, Any], columns: Mapping[str, str], file: str
) -> dict[str, str]:
    """Return field -> column, from the map first, then by `COMMON_NAMES` and families of options.

    Raises:
        DataError: a mapped column, the problem or the answer is in none of the rows.
    """
    for field, column in columns.items():
        for part in [column] if column in seen else column.split("+"):
            if all(lookup(row, part) is _ABSENT for row in rows):
                raise DataError(
                    f"{file}: no column {part!r} for {field}{nearest(part, seen)}; "
                    f"columns: {', '.join(seen)}"
                )
    found = with_common_names(seen, columns)
    answer = found.get("answer", "")
    if "answer" not in columns and answer.lower() == "solution":
        cells = [cell_text(cell(row, answer)) for row in rows]
        if not all(len(text) <= SHORT_SOLUTION or is_marked(text) for text in cells):
            raise DataError(
                f"{file}: no column is the answer: {answer!r} holds worked solutions; say "
                f"--map answer=COLUMN; columns: {', '.join(seen)}"
            )
    for field in REQUIRED:
        if field not in found:
            raise DataError(
                f"{file}: no column is the {field}: say --map {field}=COLUMN; "
                f"columns: {', '.join(seen)}"
            )
    if "choices" not in found:
        family = _option_columns(rows, seen, found)
        found |= {"choices": family} if family else {}
    return found


def with_common_names(seen: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the mapped columns, plus each other field's first common name, in any case."""
    field_columns = dict(columns)
    by_lower = {
        column.lower(): column for column in reversed(list(seen)) if column not in columns.values()
    }
    for field, names in COMMON_NAMES.items():
        present = [by_lower[name] for name in names if name in by_lower]
        if field not in field_columns and present:
            field_columns[field] = "+".join(present) if field == "context" else present[0]
    if field_columns.get("problem", "").lower() == "instruction" and "input" in by_lower:
        field_columns["problem"] += f"+{by_lower['input']}"  # Alpaca's two halves of a problem
    return field_columns


def cell(row: Row, column: str) -> Any:
    """Return the value of a column; None when it is absent or NaN; a list for joined columns."""
    if "+" in column and column not in row:
        return [cell(row, part) for part in column.split("+")]
    value = lookup(row, column)
    missing = value is _ABSENT or (isinstance(value, float) and isnan(value))
    return None if missing else value


def lookup(row: Row, column: str) -> Any:
    """Return a column or a nested value: `a.b` of an object or of each in a list, `a.0` of a list.

    `_ABSENT` when there is no such value.
    """
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = parse_literal(value)
        if isinstance(value, list) and key.isdecimal():
            value = dict(enumerate(value)).get(int(key), _ABSENT)
        elif isinstance(value, list):
            value = [item.get(key) for item in value if isinstance(item, dict)]
        else:
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def row_id(row: Row, field_columns: Mapping[str, str]) -> str:
    """Return the row's own id; "" when it has none."""
    found = cell(row, field_columns["id"]) if "id" in field_columns else None
    parts = found if isinstance(found, list) else [found]
    return "-".join(cell_text(part) for part in parts if not is_missing(part))


def unmapped(row: Row, field_columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the short columns that no field is read from, for the metadata."""
    used = {part.split(".")[0] for column in field_columns.values() for part in column.split("+")}
    short = {}
    for column, value in row.items():
        if column in used or not _may_be_short(value):
            continue
        try:
            if len(json.dumps(value, ensure_ascii=False, allow_nan=False)) <= SHORT:
                short[column] = value
        except (TypeError, ValueError, RecursionError):  # not JSON: bytes, a date, NaN
            if not isinstance(value, bytes | dict | list | float):
                short[column] = str(value)[:SHORT]
    return short


def _may_be_short(value: Any, depth: int = 4) -> bool:
    """Whether a value's JSON may be within `SHORT`, without writing it."""
    if isinstance(value, str | bytes | list | dict) and len(value) > SHORT:
        return False
    if isinstance(value, list | dict):
        inner = chain(value, value.values()) if isinstance(value, dict) else value
        return depth > 0 and all(_may_be_short(item, depth - 1) for item in inner)
    return not isinstance(value, bytes)


def _option_columns(rows: list[Row], seen: Mapping[str, Any], found: Mapping[str, str]) -> str:
    """Return the joined columns that hold one choice each, as "A+B+C+D"; "" when there are none.

    They count only where a gold answer is one of them, since columns A and B may be anything.
    """
    families: dict[tuple[str, str], dict[str, str]] = {}
    for column in seen:
        match = _OPTION.fullmatch(column)
        if match is None or column in found.values():
            continue
        prefix, key = (match["prefix"] or "").lower(), match["key"]
        if not prefix and (match["gap"] or key not in ascii_uppercase):
            continue
        kind = "digit" if key.isdigit() else "letter"
        families.setdefault((prefix + match["gap"], kind), {})[key.upper()] = column
    for (prefix, kind), members in families.items():
        first = "0" if kind == "digit" and "0" in members else "1"
        keys: Sequence[str] = ascii_uppercase
        if kind == "digit":
            keys = [str(number) for number in range(int(first), int(first) + 26)]
        columns = []
        for key in keys:
            if key not in members:
                break
            columns.append(members[key])
        joined = "+".join(columns)
        if len(columns) > 1 and any(_names_one(row, joined, found, prefix) for row in rows):
            return joined
    return ""


def _names_one(row: Row, joined: str, found: Mapping[str, str], prefix: str) -> bool:
    gold = cell_text(cell(row, found["answer"]))
    try:
        choices = parse_choices(cell(row, joined))
    except DataError:
        return False
    return choice_letter(gold, choices) is not None or (prefix != "" and as_index(gold) is not None)
