"""The records of a JSON document, whichever way it lays them out.

[{"q": ..}, ..]                         a list of records
{"k1": {"q": ..}, ..}                   records keyed by their ids
{"data": [{"q": ..}, ..]}               an object around one list
{"q": ["..", ".."], "a": [..]}          columns
{"q": {"0": "..", "1": ".."}, ..}       columns keyed by row, pandas' `to_json`
{"columns": [..], "data": [[..], ..]}   pandas' `to_json(orient="split")`
{"q": "..", "a": ".."}                  one record
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sapo_vl.errors import DataError


def json_records(content: Any, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of parsed JSON; a record keyed by its id gets the key as "id".

    Raises:
        DataError: no accepted layout, or a record is not an object; names the file and record.
    """
    if isinstance(content, dict) and content:
        content = _records_of(content, file)
    if not isinstance(content, list):
        raise DataError(f"{file}: neither a list nor an object of records")
    for number, row in enumerate(content):
        yield require_object(row, f"{file}: record {number}")


def require_object(row: Any, where: str) -> dict[str, Any]:
    """Return `row` if it is an object.

    Raises:
        DataError: it is not; names `where`.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def _records_of(content: dict[str, Any], file: Path) -> Any:
    values = list(content.values())
    lists = {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    columns = {key: value for key, value in content.items() if isinstance(value, list)}
    if all(isinstance(value, dict) for value in values):
        if _is_by_row(values):
            rows = sorted(values[0], key=int)
            return [{name: column[row] for name, column in content.items()} for row in rows]
        return [{"id": key} | row for key, row in content.items()]
    if {"columns", "data"} <= columns.keys() <= {"columns", "data", "index"}:
        return _split_records(content, file)
    if len(columns) == len(content) and len(set(map(len, values))) == 1 and len(content) > 1:
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    if len(lists) > 1:
        raise DataError(
            f"{file}: several lists of records ({', '.join(lists)}); save the one to read as "
            "its own file"
        )
    if len(lists) == 1 and not any(map(_is_a_records, content)):
        return next(iter(lists.values()))
    if len(columns) == len(content) == 1:
        return [{name: cell} for name, cells in columns.items() for cell in cells]
    return [content] if len(columns) < len(content) else None


def _is_by_row(values: list[dict[str, Any]]) -> bool:
    """Whether all objects have the keys "0", "1", ..: columns keyed by the number of the row."""
    keys = values[0].keys()
    numbered = bool(keys) and all(key.isdecimal() and len(key) < 19 for key in keys)
    return numbered and all(value.keys() == keys for value in values)


def _is_a_records(key: str) -> bool:
    """Whether a key is a record's own, so that the object is one record and wraps no list."""
    return key.lower() in (
        *("problem", "question", "query", "prompt", "answer", "solution"),
        *("messages", "conversations", "conversation", "choices", "options"),
    )


def _split_records(content: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    names, data = content["columns"], content["data"]
    if not all(isinstance(row, list) and len(row) == len(names) for row in data):
        raise DataError(f"{file}: a row of data has not the {len(names)} entries of columns")
    return [dict(zip(map(str, names), row, strict=True)) for row in data]
