"""Any table of problems: say which column is what, and it is read.

    sapo-vl prepare generic --source FILE_OR_DIR --out DIR \\
        --map problem=question,answer=label,images=image,choices=options

SOURCE is a parquet, JSON, JSONL, CSV or TSV file, a folder of them, or a hub name. One row, with
the map above:

    {"question": "How many cats?", "options": ["1", "2"], "label": "B", "image": "img/7.png"}

`images=image_1+image_2` joins columns, `answer=reward.gold` reads inside an object and
`answer=golds.0` inside a list. Columns with a usual name (question, answer, image, ..) need no map.

- Pictures are what pictures.py reads; a chat in the place of the problem gives its last user turn.
- The gold is a letter, a choice's text or its number from 0, several of them in a list, or a free
  answer, without a box or answer tags around it.
- In a folder, files of splits (train-*, validation-*, test.jsonl, val/..) keep theirs.
- Everything that is not mapped and is short goes into the metadata, with the file and the record's
  number there ("record").
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
from sapo_vl.data.readers import chat, hub, tables
from sapo_vl.data.readers import image_refs as pictures
from sapo_vl.data.readers import text as wording
from sapo_vl.data.readers.source_rows import UNEXPECTED, Row, reason
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.schema import IMAGE_MARK, Sample

USUAL: dict[str, tuple[str, ...]] = {
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
"""Field of a sample -> columns it is read from, without a map, when the table has one of them."""

REQUIRED = ("problem", "answer")
SHORT = 200
"""Characters of a column that goes into the metadata unasked."""

PEEK = 32
"""Records of a file that are looked at for its columns: in JSON each may have others. Few, because
they carry pictures."""

_ABSENT = object()
_NUMBER = re.compile(r"(\d+)(?:\.0*)?")
_TRAINING = ("train", "training")
_HELD_OUT = ("test", "testing", "testmini", "val", "valid", "validation", "dev", "eval")


def parse_map(text: str) -> dict[str, str]:
    """Read "problem=question,answer=label" of the command line.

    Raises:
        ConfigError: a part has no column, or the field is unknown.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        field, equals, column = (p.strip() for p in part.partition("="))
        if not equals or not column:
            raise ConfigError(f"--map: {part!r} is not FIELD=COLUMN")
        if field not in USUAL:
            hint = nearest(field, USUAL)
            raise ConfigError(f"--map: {field!r} is unknown; allowed: {', '.join(USUAL)}{hint}")
        if field in columns:
            raise ConfigError(f"--map: {field} comes twice; A+B joins columns")
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
        columns: field of `USUAL` -> column; "a+b" joins columns, "a.b" goes into an object.
        dataset: name of the samples' data set; the source's own name when None.
        change: makes the columns out of a row that has them elsewhere.

    Raises:
        DataError: a mapped column is not there, or a file cannot be read.
    """
    name = dataset or Path(source).stem or "generic"
    path = Path(source)
    for table in _local(path) if path.exists() else [_hub(str(source))]:
        records = _changed(table.rows, change)
        first = list(islice(records, PEEK))
        good = [row for row, error in first if error is None]
        seen = dict.fromkeys(chain.from_iterable(good))
        known = _known(good, seen, columns or {}, table.file) if good else {}
        if good and "images" not in known:
            _refuse_pictures(good, known, table)
        for number, (row, error) in enumerate(chain(first, records)):
            if error is None and not row.keys() <= seen.keys():
                seen |= dict.fromkeys(row)
                known = _usual(seen, columns or {}) | known
            identity = f"{name}-{_own(row, known, f'{table.prefix}{number}')}"
            try:
                if error:
                    raise error
                yield _sample(identity, name, known, table, number, row)
            except UNEXPECTED as found:
                why = reason(found, row)
                glue = " ({})" if ": " in why else ": {}"
                yield Dropped(identity, why + glue.format(f"{table.file}, record {number}"))


@dataclass(frozen=True, slots=True)
class _Table:
    """One file of records."""

    rows: Iterator[Row]
    file: str  # for messages
    folder: Path  # where its pictures' paths start
    prefix: str = ""  # of its records' ids, where there are several files
    split: str | None = None  # that its place in a folder says


def _changed(
    rows: Iterator[Row], change: Callable[[Row], Row] | None
) -> Iterator[tuple[Row, Exception | None]]:
    """Yield each row as `change` makes it; or as it is, with the reason why it could not."""
    for row in rows:
        try:
            yield (change(row) if change else row), None
        except UNEXPECTED as error:
            yield row, error


def _sample(
    identity: str, name: str, known: dict[str, str], table: _Table, number: int, row: Row
) -> Sample:
    cell = {field: _cell(row, column) for field, column in known.items()}
    if known.get("images", "").lower() in USUAL["images"] and known["images"] not in row:
        cell["images"] = _cell(row, _usual(row, {}).get("images", "images"))  # each row its own
    problem, attached = _problem(cell["problem"])
    cells = pictures.listed(cell.get("images")) or attached
    files = pictures.load_all(cells, table.folder)
    choices = wording.as_choices(cell.get("choices"))
    lettered = list(choices) == list(ascii_uppercase[: len(choices)])
    if not lettered and len(wording.options(problem)) != len(choices):
        problem = wording.listed(problem, choices)
    if problem.count(IMAGE_MARK) != len(files):
        problem, files = wording.place(problem, dict(enumerate(files, start=1)))
    answer, kind = _answer(cell["answer"], choices)
    split = wording.text(cell.get("split") or table.split)
    about = {"record": f"{Path(table.file).name}, record {number}"}
    return Sample(
        id=identity,
        dataset=name,
        task=str(cell.get("task") or name),
        problem=problem,
        images=files,
        answer=answer,
        answer_type=str(cell.get("answer_type") or kind),
        choices=choices,
        precision=_precision(cell.get("precision")),
        unit=wording.text(cell.get("unit")) or None,
        split="train" if (split or "train").lower() in _TRAINING else "test",
        metadata=about
        | _rest(row, known)
        | ({"split": split} if split else {})
        | {"files": pictures.names(cells)},
    )


def _problem(value: Any) -> tuple[str, list[Any]]:
    """Return the problem's text, and the pictures that a chat in its place holds."""
    if isinstance(value, dict):
        raise DataError("the problem is an object: say --map problem=COLUMN.KEY")
    turn = chat.last_user_turn(value if isinstance(value, list) else wording.text(value))
    return chat.text(turn).strip(), chat.pictures(turn)


def _answer(value: Any, choices: tuple[str, ...]) -> tuple[str, str]:
    """Return the gold answer and its kind.

    Raises:
        DataError: it is no single answer, or none of the choices.
    """
    value = tables.written(value) if choices else value
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict):
        raise DataError("the gold answer is an object: say --map answer=COLUMN.KEY")
    if isinstance(value, list) and choices:
        several = {letter for one in value if (letter := _letter(wording.text(one), choices))}
        if len(several) == len(value):
            return ", ".join(sorted(several)), "multi_choice"
    elif isinstance(value, list):
        if not value or not all(isinstance(one, int | float) for one in value):
            raise DataError(
                "the gold answer is a list: say --map answer=COLUMN.0 for its first entry"
            )
        return json.dumps(value), "tuple"
    whole = wording.tagged(wording.text(value))
    text = wording.bare(whole)
    letter = (_letter(whole, choices) or _letter(text, choices)) if text else None
    if letter:
        return letter, "choice"
    listed = wording.letters(text, choices)
    if listed:
        return listed, "multi_choice"
    if text and choices:
        raise DataError(
            f"the gold answer is none of the choices: {text!r} is no letter, text or number from "
            f"0 of {', '.join(choices)}"
        )
    return text, wording.answer_type(text) if text else "text"


def _letter(text: str, choices: tuple[str, ...]) -> str | None:
    """Return the letter of a gold: a letter, a choice's text or its number from 0, as 1 or 1.0."""
    number = _NUMBER.fullmatch(text)
    whole = number[1] if number else text
    found = wording.letter(text, choices) or wording.letter(whole, choices)
    if found is None and number and int(whole) < len(choices):
        return ascii_uppercase[int(whole)]
    return found


def _precision(value: Any) -> int | None:
    text = wording.text(value)
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise DataError(f"the precision is no number of decimals: {value!r}")
    return int(float(text))


def _known(
    rows: list[Row], seen: Mapping[str, Any], columns: Mapping[str, str], file: str
) -> dict[str, str]:
    """Return field -> column: as mapped, else by the usual names.

    Raises:
        DataError: a mapped column, the problem or the answer is in none of the rows.
    """
    for field, column in columns.items():
        for part in [column] if column in seen else column.split("+"):
            if all(_reach(row, part) is _ABSENT for row in rows):
                raise DataError(
                    f"{file}: no column {part!r} for {field}{nearest(part, seen)}; "
                    f"columns: {', '.join(seen)}"
                )
    known = _usual(seen, columns)
    for field in REQUIRED:
        if field not in known:
            raise DataError(
                f"{file}: no column is the {field}: say --map {field}=COLUMN; "
                f"columns: {', '.join(seen)}"
            )
    return known


def _refuse_pictures(rows: list[Row], known: dict[str, str], table: _Table) -> None:
    """Raise DataError for a column of pictures that no field is read from."""
    for column, value in chain.from_iterable(row.items() for row in rows):
        for cell in pictures.listed(value)[:1] if column not in known.values() else ():
            try:
                images.kind(pictures.load(cell, table.folder))
            except DataError:
                continue
            raise DataError(f"{table.file}: {column!r} holds pictures: say --map images={column}")


def _usual(seen: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the mapped columns, and for other fields the first usual name seen, in any case."""
    known = dict(columns)
    spelt = {
        column.lower(): column for column in reversed(list(seen)) if column not in columns.values()
    }
    for field, names in USUAL.items():
        usual = [spelt[n] for n in names if n in spelt]
        if field not in known and usual:
            known[field] = usual[0]
    return known


def _cell(row: Row, column: str) -> Any:
    """Return what is in a column; None where it is not there or a table has no number there."""
    if "+" in column and column not in row:
        cells = (_cell(row, part) for part in column.split("+"))
        return [c for c in cells if c is not None and c != ""]
    value = _reach(row, column)
    missing = value is _ABSENT or (isinstance(value, float) and isnan(value))
    return None if missing else value


def _reach(row: Row, column: str) -> Any:
    """Return a column, or what is inside one: `a.b` of an object, or of each in a list, `a.0`."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        value = tables.written(value)
        if isinstance(value, list) and key.isdecimal():
            value = dict(enumerate(value)).get(int(key), _ABSENT)
        elif isinstance(value, list):
            value = [one.get(key) for one in value if isinstance(one, dict)]
        else:
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _own(row: Row, known: dict[str, str], otherwise: str) -> str:
    own = _cell(row, known["id"]) if "id" in known else None
    return ("-".join(map(str, own)) if isinstance(own, list) else wording.text(own)) or otherwise


def _rest(row: Row, known: dict[str, str]) -> dict[str, Any]:
    """Return the short columns that no field was read from."""
    used = {part.split(".")[0] for column in known.values() for part in column.split("+")}
    kept = {}
    for column, value in row.items():
        if column in used:
            continue
        try:
            if len(json.dumps(value, ensure_ascii=False, allow_nan=False)) <= SHORT:
                kept[column] = value
        except (TypeError, ValueError):  # bytes, a date, no number
            if not isinstance(value, bytes | dict | list | float):
                kept[column] = str(value)[:SHORT]
    return kept


def _local(source: Path) -> Iterator[_Table]:
    files = tables.files(source)
    for file in files:
        prefix = f"{file.stem}-" if len(files) > 1 else ""
        split = _split(file.relative_to(source)) if source.is_dir() else None
        yield _Table(tables.read(file), str(file), file.parent, prefix, split)


def _split(file: Path) -> str | None:
    """Return the split that a file's name (train-00000.parquet) or its folders' names say."""
    words = [re.split(r"[-_.]", file.name.lower())[0], *map(str.lower, reversed(file.parts[:-1]))]
    return next((word for word in words if word in (*_TRAINING, *_HELD_OUT)), None)


def _hub(source: str) -> _Table:
    return _Table(hub.rows(source, ("train",)), source, Path())
