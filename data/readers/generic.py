"""Any table of problems, given which column is what.

    sapo-vl prepare generic --source FILE_OR_DIR --out DIR \\
        --map problem=question,answer=label,images=image,choices=options

SOURCE is a parquet, JSON, JSONL, CSV or TSV file, a folder of them, or a hub name. One row, with
the map above:

    {"question": "How many cats?", "options": ["1", "2"], "label": "B", "image": "img/7.png"}

`images=image_1+image_2` joins columns, `answer=reward.gold` reads a key of an object and
`answer=golds.0` an entry of a list. Columns with a common name (question, answer, image, ..) need
no map.

- Images are read by image_refs.py; a chat in place of the problem gives its last user turn.
- The gold answer is a letter, a choice's text, its index from 0, several of these in a list, or a
  free answer; a box or answer tags around it are stripped.
- In a folder, files named after splits (train-*, validation-*, test.jsonl, val/..) keep them.
- Short unmapped columns go into the metadata, with the file and the record's number in it
  ("record").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from math import isnan
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sapo_vl.data import Dropped, images
from sapo_vl.data.readers import chat, hub
from sapo_vl.data.readers.image_refs import file_names, load_image, load_images, split_refs
from sapo_vl.data.readers.source_rows import UNEXPECTED, drop_reason
from sapo_vl.data.readers.tables import Row, parse_literal, read_rows, record_files
from sapo_vl.data.readers.text import (
    answer_in_tags,
    append_choices,
    cell_text,
    choice_letter,
    choice_letters,
    guess_answer_type,
    parse_choices,
    place_images,
    split_choices,
    strip_answer,
)
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.schema import IMAGE_MARK, Sample

COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "query", "prompt", "instruction"),
    "answer": ("answer", "gold", "label", "ground_truth", "target", "solution"),
    "images": ("images", "image", "decoded_image", "image_path", "image_file", "img", "file_name"),
    "choices": ("choices", "options", "option"),
    "id": ("id", "pid", "qid", "question_id"),
    "task": ("task", "category", "subject"),
    "split": (),
    "answer_type": (),
    "precision": ("precision",),
    "unit": ("unit",),
}
"""Field of a sample -> column names it is read from when it is not mapped, best first."""

REQUIRED = ("problem", "answer")

SHORT = 200
"""Longest unmapped column, in characters of JSON, that goes into the metadata."""

PEEK = 32
"""Records read ahead to find a file's columns, since JSON records may differ. Few, because they
carry images."""

_ABSENT = object()
_NUMBER = re.compile(r"(\d+)(?:\.0*)?")
_TRAINING = ("train", "training")
_HELD_OUT = ("test", "testing", "testmini", "val", "valid", "validation", "dev", "eval")


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


def rows(
    source: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    dataset: str | None = None,
    change: Callable[[Row], Row] | None = None,
) -> Iterator[Sample | Dropped]:
    """Yield every record of every file, in order.

    Args:
        source: a file, a folder of files of one kind, or a hub name (its split train).
        columns: field of `COMMON_NAMES` -> column; "a+b" joins columns, "a.b" is a nested key.
        dataset: `Sample.dataset`; defaults to the name of the source.
        change: applied to each row first, to derive columns it lacks.

    Raises:
        DataError: a mapped column does not exist, or a file cannot be read.
    """
    name = dataset or Path(source).stem or "generic"
    path = Path(source)
    files = _local_files(path) if path.exists() else [_hub_file(str(source))]
    for file in files:
        records = _changed(file.rows, change)
        first = list(islice(records, PEEK))
        readable = [row for row, error in first if error is None]
        seen = dict.fromkeys(chain.from_iterable(readable))
        field_columns = _resolve(readable, seen, columns or {}, file.name) if readable else {}
        if readable and "images" not in field_columns:
            _refuse_unmapped_images(readable, field_columns, file)
        for number, (row, error) in enumerate(chain(first, records)):
            if error is None and not row.keys() <= seen.keys():
                seen |= dict.fromkeys(row)
                field_columns = _with_common_names(seen, columns or {}) | field_columns
            identity = f"{name}-{_row_id(row, field_columns) or f'{file.prefix}{number}'}"
            try:
                if error:
                    raise error
                yield _sample(identity, name, field_columns, file, number, row)
            except UNEXPECTED as failure:
                reason = drop_reason(failure, row)
                where = f"{file.name}, record {number}"
                yield Dropped(
                    identity, f"{reason} ({where})" if ": " in reason else f"{reason}: {where}"
                )


@dataclass(frozen=True, slots=True)
class _DataFile:
    """One file of records, or one split of a hub data set."""

    rows: Iterator[Row]
    name: str  # path or hub name, for messages
    folder: Path  # base of relative image paths
    prefix: str = ""  # of generated ids, when the source has several files
    split: str | None = None  # split that the path names, as it is spelled there


def _changed(
    rows: Iterator[Row], change: Callable[[Row], Row] | None
) -> Iterator[tuple[Row, Exception | None]]:
    """Yield (changed row, None), or (original row, error) when `change` fails."""
    for row in rows:
        try:
            yield (change(row) if change else row), None
        except UNEXPECTED as error:
            yield row, error


def _sample(
    identity: str, name: str, field_columns: dict[str, str], file: _DataFile, number: int, row: Row
) -> Sample:
    cells = {field: _cell(row, column) for field, column in field_columns.items()}
    images_column = field_columns.get("images", "")
    if images_column.lower() in COMMON_NAMES["images"] and images_column not in row:
        # Records may spell the column differently: image in one, images in the next.
        cells["images"] = _cell(row, _with_common_names(row, {}).get("images", "images"))
    problem, chat_images = _problem(cells["problem"])
    refs = split_refs(cells.get("images")) or chat_images
    pictures = load_images(refs, file.folder)
    choices = parse_choices(cells.get("choices"))
    only_letters = list(choices) == list(ascii_uppercase[: len(choices)])
    if not only_letters and len(split_choices(problem)) != len(choices):
        problem = append_choices(problem, choices)
    if problem.count(IMAGE_MARK) != len(pictures):
        problem, pictures, _ = place_images(problem, dict(enumerate(pictures, start=1)))
    answer, answer_type = _answer(cells["answer"], choices)
    split = cell_text(cells.get("split") or file.split)
    record = {"record": f"{Path(file.name).name}, record {number}"}
    return Sample(
        id=identity,
        dataset=name,
        task=str(cells.get("task") or name),
        problem=problem,
        images=pictures,
        answer=answer,
        answer_type=str(cells.get("answer_type") or answer_type),
        choices=choices,
        precision=_precision(cells.get("precision")),
        unit=cell_text(cells.get("unit")) or None,
        split="train" if (split or "train").lower() in _TRAINING else "test",
        metadata=record
        | _unmapped(row, field_columns)
        | ({"split": split} if split else {})
        | {"files": file_names(refs)},
    )


def _problem(value: Any) -> tuple[str, list[Any]]:
    """Return the problem's text, and the image references of a chat in its place."""
    if isinstance(value, dict):
        raise DataError("the problem is an object; map a key of it: --map problem=COLUMN.KEY")
    turn = chat.last_user_turn(value if isinstance(value, list) else cell_text(value))
    return chat.text(turn).strip(), chat.image_refs(turn)


def _answer(value: Any, choices: tuple[str, ...]) -> tuple[str, str]:
    """Return the gold answer and its type.

    Raises:
        DataError: it is not a single answer, or not one of the choices.
    """
    value = parse_literal(value) if choices else value
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict):
        raise DataError("the gold answer is an object; map a key of it: --map answer=COLUMN.KEY")
    if isinstance(value, list) and choices:
        letters = {letter for item in value if (letter := _letter(cell_text(item), choices))}
        if len(letters) == len(value):
            return ", ".join(sorted(letters)), "multi_choice"
    elif isinstance(value, list):
        if not value or not all(isinstance(item, int | float) for item in value):
            raise DataError(
                "the gold answer is a list; map one entry: --map answer=COLUMN.0 for the first"
            )
        return json.dumps(value), "tuple"
    tagged = answer_in_tags(cell_text(value))
    text = strip_answer(tagged)
    letter = (_letter(tagged, choices) or _letter(text, choices)) if text else None
    if letter:
        return letter, "choice"
    several = choice_letters(text, choices)
    if several:
        return several, "multi_choice"
    if text and choices:
        raise DataError(
            f"the gold answer is none of the choices: {text!r} is no letter, text or index from 0 "
            f"of {', '.join(choices)}"
        )
    return text, guess_answer_type(text) if text else "text"


def _letter(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the letter of a gold answer: a letter, a choice's text, or its index as 1 or 1.0."""
    number = _NUMBER.fullmatch(text)
    whole = number[1] if number else text
    letter = choice_letter(text, choices) or choice_letter(whole, choices)
    if letter is None and number and int(whole) < len(choices):
        return ascii_uppercase[int(whole)]
    return letter


def _precision(value: Any) -> int | None:
    text = cell_text(value)
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise DataError(f"the precision is not a number of decimals: {value!r}")
    return int(float(text))


def _resolve(
    rows: list[Row], seen: Mapping[str, Any], columns: Mapping[str, str], file: str
) -> dict[str, str]:
    """Return field -> column, from the map first, then by `COMMON_NAMES`.

    Raises:
        DataError: a mapped column, the problem or the answer is in none of the rows.
    """
    for field, column in columns.items():
        for part in [column] if column in seen else column.split("+"):
            if all(_lookup(row, part) is _ABSENT for row in rows):
                raise DataError(
                    f"{file}: no column {part!r} for {field}{nearest(part, seen)}; "
                    f"columns: {', '.join(seen)}"
                )
    field_columns = _with_common_names(seen, columns)
    for field in REQUIRED:
        if field not in field_columns:
            raise DataError(
                f"{file}: no column is the {field}: say --map {field}=COLUMN; "
                f"columns: {', '.join(seen)}"
            )
    return field_columns


def _refuse_unmapped_images(
    rows: list[Row], field_columns: dict[str, str], file: _DataFile
) -> None:
    """Raise DataError for a column that holds images but is not mapped to a field."""
    for column, value in chain.from_iterable(row.items() for row in rows):
        for ref in split_refs(value)[:1] if column not in field_columns.values() else ():
            try:
                images.file_format(load_image(ref, file.folder))
            except DataError:
                continue
            raise DataError(f"{file.name}: {column!r} holds images: say --map images={column}")


def _with_common_names(seen: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the mapped columns, plus each other field's first common name, in any case."""
    field_columns = dict(columns)
    by_lower = {
        column.lower(): column for column in reversed(list(seen)) if column not in columns.values()
    }
    for field, names in COMMON_NAMES.items():
        present = [by_lower[name] for name in names if name in by_lower]
        if field not in field_columns and present:
            field_columns[field] = present[0]
    return field_columns


def _cell(row: Row, column: str) -> Any:
    """Return the value of a column; None when it is absent or NaN."""
    if "+" in column and column not in row:
        cells = (_cell(row, part) for part in column.split("+"))
        return [cell for cell in cells if cell is not None and cell != ""]
    value = _lookup(row, column)
    missing = value is _ABSENT or (isinstance(value, float) and isnan(value))
    return None if missing else value


def _lookup(row: Row, column: str) -> Any:
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


def _row_id(row: Row, field_columns: dict[str, str]) -> str:
    """Return the row's own id; "" when it has none."""
    cell = _cell(row, field_columns["id"]) if "id" in field_columns else None
    return "-".join(map(str, cell)) if isinstance(cell, list) else cell_text(cell)


def _unmapped(row: Row, field_columns: dict[str, str]) -> dict[str, Any]:
    """Return the short columns that no field is read from, for the metadata."""
    used = {part.split(".")[0] for column in field_columns.values() for part in column.split("+")}
    short = {}
    for column, value in row.items():
        if column in used:
            continue
        try:
            if len(json.dumps(value, ensure_ascii=False, allow_nan=False)) <= SHORT:
                short[column] = value
        except (TypeError, ValueError):  # not JSON: bytes, a date, NaN
            if not isinstance(value, bytes | dict | list | float):
                short[column] = str(value)[:SHORT]
    return short


def _local_files(source: Path) -> Iterator[_DataFile]:
    files = record_files(source)
    for file in files:
        prefix = f"{file.stem}-" if len(files) > 1 else ""
        split = _split_name(file.relative_to(source)) if source.is_dir() else None
        yield _DataFile(read_rows(file), str(file), file.parent, prefix, split)


def _split_name(file: Path) -> str | None:
    """Return the split named by a file (train-00000.parquet) or by one of its folders."""
    words = [re.split(r"[-_.]", file.name.lower())[0], *map(str.lower, reversed(file.parts[:-1]))]
    return next((word for word in words if word in (*_TRAINING, *_HELD_OUT)), None)


def _hub_file(source: str) -> _DataFile:
    return _DataFile(hub.rows(source, ("train",)), source, Path())
