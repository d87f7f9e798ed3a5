"""Any table of problems: say which column is what, and it is read.

    sapo-vl prepare generic --source FILE_OR_DIR --out DIR \\
        --map problem=question,answer=label,images=image,choices=options

SOURCE is a parquet, JSON, JSONL, CSV or TSV file, a folder of them, or a hub name. One row, with
the map above:

    {"question": "How many cats?", "options": ["1", "2"], "label": "B", "image": "img/7.png"}

Pictures are bytes, base64 or paths relative to the file; `images=image_1+image_2` joins columns and
`answer=reward.gold` reads inside an object. A choice may be given by its letter, its text, or its
number from 0. Columns with a usual name (question, answer, image, ..) need no map. Everything that
is not mapped and is short goes into the metadata. A record with a fault is dropped with its file
and number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sapo_vl.data import Dropped, hub, pictures, tables, wording
from sapo_vl.data.reading import Row
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.schema import IMAGE_MARK, Sample

USUAL: dict[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "query", "prompt", "instruction"),
    "answer": ("answer", "gold", "label", "ground_truth", "target", "solution"),
    "images": ("images", "image", "decoded_image", "image_path", "image_file", "img", "file_name"),
    "choices": ("choices", "options"),
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

_TRAINING = ("train", "training")


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
    known: dict[str, str] = {}
    for where, row in _local(path) if path.exists() else _from_hub(str(source)):
        try:
            changed = change(row) if change else row
            fault = None
        except KeyError as error:
            raise DataError(f"{where} has no column {error}; it has: {', '.join(row)}") from error
        except DataError as error:
            changed, fault = row, error
        known = known or ({} if fault else _known(changed, columns or {}, where))
        identity = f"{name}-{_own(changed, known, where)}"
        try:
            if fault:
                raise fault
            yield _sample(identity, name, known, where, changed)
        except DataError as error:
            glue = " ({})" if ": " in str(error) else ": {}"
            yield Dropped(identity, str(error) + glue.format(where))


class _Place:
    """Where a row is: its file, its number from 0, and a name for it that is stable."""

    def __init__(self, file: str, number: int, folder: Path, key: str) -> None:
        self.file, self.number, self.folder, self.key = file, number, folder, key

    def __str__(self) -> str:
        return f"{self.file}, record {self.number}"


def _sample(identity: str, name: str, known: dict[str, str], where: _Place, row: Row) -> Sample:
    cell = {field: _cell(row, column) for field, column in known.items()}
    images = pictures.load_all(cell.get("images"), where.folder)
    choices = wording.as_choices(cell.get("choices"))
    problem = str(cell["problem"] or "").strip()
    if choices and not all(c.strip() in problem for c in choices):
        problem = wording.listed(problem, choices)
    if problem.count(IMAGE_MARK) != len(images):
        placed = wording.place(problem, dict(enumerate(images, start=1)))
        problem, images = placed.text, placed.images
    answer, kind = _answer(cell["answer"], choices)
    precision = cell.get("precision")
    return Sample(
        id=identity,
        dataset=name,
        task=str(cell.get("task") or name),
        problem=problem,
        images=images,
        answer=answer,
        answer_type=str(cell.get("answer_type") or kind),
        choices=choices,
        precision=None if precision in (None, "") else int(float(precision)),
        unit=str(cell["unit"]) if cell.get("unit") else None,
        split="train" if str(cell.get("split") or "train").lower() in _TRAINING else "test",
        metadata=_rest(row, known) | {"files": pictures.names(cell.get("images"))},
    )


def _answer(value: Any, choices: tuple[str, ...]) -> tuple[str, str]:
    """Return the gold answer and its kind."""
    text = "" if value is None else str(value).strip()
    if isinstance(value, list) and len(value) == 1:
        text = str(value[0]).strip()
    if not choices or not text:
        several = wording.letters(text)
        if several:
            return several, "multi_choice"
        return text, wording.answer_type(text)
    letter = wording.letter(text, choices)
    if letter is None and text.isdecimal() and int(text) < len(choices):
        letter = ascii_uppercase[int(text)]
    if letter:
        return letter, "choice"
    several = wording.letters(text)
    if several:
        return several, "multi_choice"
    raise DataError(f"the gold answer is none of the choices: {text!r}; {', '.join(choices)}")


def _known(row: Row, columns: Mapping[str, str], where: _Place) -> dict[str, str]:
    """Return field -> column: as mapped, else by the usual names.

    Raises:
        DataError: a mapped column, the problem or the answer is not in the first row.
    """
    for field, column in columns.items():
        for part in column.split("+"):
            if part.split(".")[0] not in row:
                raise DataError(
                    f"{where.file}: no column {part!r} for {field}{nearest(part, row)}; "
                    f"columns: {', '.join(row)}"
                )
    known = dict(columns)
    for field, names in USUAL.items():
        usual = [n for n in names if n in row and n not in columns.values()]
        if field not in known and usual:
            known[field] = usual[0]
    for field in REQUIRED:
        if field not in known:
            raise DataError(
                f"{where.file}: no column is the {field}: say --map {field}=COLUMN; "
                f"columns: {', '.join(row)}"
            )
    return known


def _cell(row: Row, column: str) -> Any:
    if "+" in column:
        cells = (_cell(row, part) for part in column.split("+"))
        return [c for c in cells if c is not None and c != ""]
    value: Any = row.get(column)
    if value is None and "." in column:
        value = row
        for key in column.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _own(row: Row, known: dict[str, str], where: _Place) -> str:
    own = _cell(row, known["id"]) if "id" in known else None
    return where.key if own is None or own == "" else str(own)


def _rest(row: Row, known: dict[str, str]) -> dict[str, Any]:
    """Return the short columns that no field was read from."""
    used = {part.split(".")[0] for column in known.values() for part in column.split("+")}
    kept = {}
    for column, value in row.items():
        if column in used or isinstance(value, bytes):
            continue
        try:
            if len(json.dumps(value, ensure_ascii=False)) <= SHORT:
                kept[column] = value
        except (TypeError, ValueError):
            kept[column] = str(value)[:SHORT]
    return kept


def _local(source: Path) -> Iterator[tuple[_Place, Row]]:
    files = tables.files(source)
    for file in files:
        own = f"{file.stem}-" if len(files) > 1 else ""
        for number, row in enumerate(tables.read(file)):
            yield _Place(str(file), number, file.parent, f"{own}{number}"), row


def _from_hub(source: str) -> Iterator[tuple[_Place, Row]]:
    for number, row in enumerate(hub.rows(source, ("train",))):
        yield _Place(source, number, Path(), str(number)), row
