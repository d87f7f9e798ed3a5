"""Any table of problems, given which column is what.

    sapo-vl prepare generic --source FILE_OR_DIR --out DIR \\
        --map problem=question,answer=label,images=image,choices=options

SOURCE is a parquet, arrow, JSON, JSON lines, CSV or TSV file, a folder of them, or a hub name. One
row, with the map above:

    {"question": "How many cats?", "options": ["1", "2"], "label": "B", "image": "img/7.png"}

`images=image_1+image_2` joins columns, `answer=reward.gold` reads a key of an object and
`answer=golds.0` an entry of a list. Columns with a common name (question, answer, image, ..) need
no map, and neither do columns of one choice each (A, B, C, D; option_1, option_2).

- Images are read by image_refs.py, marks of their places by marks.py; a chat in place of the
  problem gives its last user turn, with what precedes it.
- The gold answer is a letter, a choice's text, its index, several of these in a list, or a free
  answer; of a worked solution the marked answer is taken (golds.py). Whether indices count from 0
  or 1, and whether pictures' marks do, is decided by the whole column, in a pass of its own.
- In a folder, files named after splits (train-*, validation-*, test.jsonl, val/..) keep them.
- Short unmapped columns go into the metadata, with the file and the record's number in it
  ("record"), and with what was changed or left out ("reading_notes").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from sapo_vl.data import READING_NOTES, Dropped, images
from sapo_vl.data.readers import chat, hub, marks
from sapo_vl.data.readers.choices import append_choices, parse_choices, split_choices
from sapo_vl.data.readers.columns import (
    COMMON_NAMES,
    cell,
    resolve,
    row_id,
    unmapped,
    with_common_names,
)
from sapo_vl.data.readers.escapes import MENDED, mend, mend_gold
from sapo_vl.data.readers.files import record_files
from sapo_vl.data.readers.golds import IndexVotes, as_index, read_gold_cell
from sapo_vl.data.readers.image_refs import (
    Place,
    file_names,
    load_image,
    split_refs,
)
from sapo_vl.data.readers.literals import is_missing
from sapo_vl.data.readers.source_rows import UNEXPECTED, drop_reason
from sapo_vl.data.readers.tables import Row, read_rows
from sapo_vl.data.readers.text import cell_text
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

PEEK = 32
"""Records read ahead to find a file's columns, since JSON records may differ. Few, because they
carry images."""

MAX_TEXT_CHARS = 2**20
"""Longest text of one cell but an image's. A problem of a million characters is none."""

MAX_SHARED_BYTES = 2**30
"""Images held that other records name by their record's index."""

_NUMBER = re.compile(r"(\d{1,3})(?:\.0*)?")
_TRAINING = ("train", "training")
_HELD_OUT = ("test", "testing", "testmini", "val", "valid", "validation", "dev", "eval")

Change = Callable[[Row], Row]


def rows(
    source: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    dataset: str | None = None,
    change: Change | None = None,
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
    tables = [_Table(file, columns or {}, change) for file in files]
    reader = _RowReader(name, _Survey(tables))
    for table in tables:
        for number, (row, error) in enumerate(table.records()):
            identity = f"{name}-{table.row_id(row) or f'{table.file.prefix}{number}'}"
            try:
                if error:
                    raise error
                yield reader.sample(identity, table, number, row)
            except UNEXPECTED as failure:
                reason = drop_reason(failure, row)
                where = f"{table.file.name}, record {number}"
                yield Dropped(
                    identity, f"{reason} ({where})" if ": " in reason else f"{reason}: {where}"
                )


@dataclass(frozen=True, slots=True)
class _DataFile:
    """One file of records, or one split of a hub data set."""

    open: Callable[[], Iterator[Row]]  # its rows from the first, each time anew
    name: str  # path or hub name, for messages
    place: Place  # base of relative image paths
    prefix: str = ""  # of generated ids, when the source has several files
    split: str | None = None  # split that the path names, as it is spelled there


class _Table:
    """A file's records, and which of its columns is what."""

    def __init__(self, file: _DataFile, columns: Mapping[str, str], change: Change | None) -> None:
        self.file = file
        self.field_columns: dict[str, str] = {}
        self._columns, self._change = columns, change

    def records(self) -> Iterator[tuple[Row, Exception | None]]:
        """Yield (row, None), or (row, error) when deriving its columns fails.

        Raises:
            DataError: a column is missing, or images are in a column that is not mapped.
        """
        records = self._changed()
        first = list(islice(records, PEEK))
        readable = [row for row, error in first if error is None]
        seen = dict.fromkeys(chain.from_iterable(readable))
        if readable:
            self.field_columns = resolve(readable, seen, self._columns, self.file.name)
            if "images" not in self.field_columns:
                self._refuse_unmapped_images(readable)
        for row, error in chain(first, records):
            if error is None and not row.keys() <= seen.keys():
                seen |= dict.fromkeys(row)
                self.field_columns = with_common_names(seen, self._columns) | self.field_columns
            yield row, error

    def cells(self, row: Row) -> dict[str, Any]:
        """Return the fields' cells of a row."""
        found = {field: cell(row, column) for field, column in self.field_columns.items()}
        images_column = self.field_columns.get("images", "")
        if images_column.lower() in COMMON_NAMES["images"] and images_column not in row:
            # Records may spell the column differently: image in one, images in the next.
            found["images"] = cell(row, with_common_names(row, {}).get("images", "images"))
        for field, value in found.items():
            if field != "images" and isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
                raise DataError(f"a text is over {MAX_TEXT_CHARS} characters: the {field}")
        return found

    def row_id(self, row: Row) -> str:
        """Return the row's own id; "" when it has none."""
        return row_id(row, self.field_columns)

    def index(self, row: Row) -> str:
        """Return the number by which other records may name this one's image."""
        return cell_text(row.get("index")) or self.row_id(row)

    def _changed(self) -> Iterator[tuple[Row, Exception | None]]:
        for row in self.file.open():
            try:
                yield (self._change(row) if self._change else row), None
            except UNEXPECTED as error:
                yield row, error

    def _refuse_unmapped_images(self, rows: list[Row]) -> None:
        """Raise DataError for a column that holds images but is not mapped to a field."""
        mapped = self.field_columns.values()
        for column, value in chain.from_iterable(row.items() for row in rows):
            for ref in split_refs(value)[:1] if column not in mapped else ():
                try:
                    images.file_format(load_image(ref, self.file.place))
                except DataError:
                    continue
                name = self.file.name
                raise DataError(f"{name}: {column!r} holds images: say --map images={column}")


class _Survey:
    """What only whole columns tell, over all files; read when it is first asked for."""

    def __init__(self, tables: list[_Table]) -> None:
        self._tables = [_Table(t.file, t._columns, t._change) for t in tables]

    @cached_property
    def indices(self) -> str:
        """How integers beside choices are read: "texts", "from 0", "from 1" or ""."""
        votes = IndexVotes()
        for _, _, cells in self._read():
            try:
                votes.add(cells.get("answer"), parse_choices(cells.get("choices")))
            except DataError:
                continue
        return votes.reading()

    @cached_property
    def marks_from_zero(self) -> bool:
        """Whether the numbered marks of pictures start at 0."""
        return any(
            marks.numbers_from_zero(str(cells.get("problem"))) for _, _, cells in self._read()
        )

    @cached_property
    def shared_images(self) -> dict[str, list[Any]]:
        """Image references by the index of their record, of those that another record names."""
        wanted = {index for _, _, cells in self._read() if (index := _image_index(cells))}
        found: dict[str, list[Any]] = {}
        held = 0
        for table, row, cells in self._read():
            index = table.index(row)
            if index in wanted and not _image_index(cells):
                found[index] = split_refs(cells.get("images"))
                held += sum(len(ref) for ref in found[index] if isinstance(ref, str | bytes))
            if held > MAX_SHARED_BYTES:
                break
        return found

    def _read(self) -> Iterator[tuple[_Table, Row, dict[str, Any]]]:
        """Yield each readable row with its cells, up to where a file is damaged."""
        for table in self._tables:
            try:
                for row, error in table.records():
                    cells = _cells_or_none(table, row) if error is None else None
                    if cells is not None:
                        yield table, row, cells
            except DataError:
                continue  # the reader of the records raises it again, in its place


def _cells_or_none(table: _Table, row: Row) -> dict[str, Any] | None:
    try:
        return table.cells(row)
    except UNEXPECTED:
        return None


class _RowReader:
    """Turns rows into samples."""

    def __init__(self, dataset: str, survey: _Survey) -> None:
        self._dataset, self._survey = dataset, survey

    def sample(self, identity: str, table: _Table, number: int, row: Row) -> Sample:
        """Return a row's sample. Raises DataError, or one of `UNEXPECTED`, for a bad row."""
        _refuse_other_media(row)
        cells = table.cells(row)
        asked = _question(cells)
        choices = tuple(mend(choice) for choice in parse_choices(cells.get("choices")))
        problem, notes = mend(asked.text).strip(), list(asked.notes)
        only_letters = list(choices) == list(ascii_uppercase[: len(choices)])
        if not only_letters and len(split_choices(problem)) != len(choices):
            problem = append_choices(problem, choices)
        refs = self._image_refs(cells, table) or asked.image_refs
        from_zero = marks.has_numbers(problem) and self._survey.marks_from_zero
        placed = marks.place(problem, refs, from_zero=from_zero)
        unit = "" if is_missing(cells.get("unit")) else cell_text(cells["unit"])
        answer = cells["answer"]
        mended = mend_gold(answer) if isinstance(answer, str) else answer
        indices = self._survey.indices if _may_be_index(mended, choices) else "from 0"
        gold = read_gold_cell(mended, choices, indices, unit or None)
        if mended != answer or mend(asked.text) != asked.text:
            notes.append(MENDED)
        if placed.has_foreign_marks:
            notes.append("another toolkit's mark of an image, read as its place")
        split = next((cell_text(s) for s in (cells.get("split"), table.file.split)
                      if not is_missing(s)), "")  # fmt: skip
        record = {"record": f"{Path(table.file.name).name}, record {number}"}
        given_type, task = cells.get("answer_type"), cells.get("task")
        return Sample(
            id=identity,
            dataset=self._dataset,
            task=self._dataset if is_missing(task) else cell_text(task),
            problem=placed.text,
            images=tuple(load_image(ref, table.file.place) for ref in placed.refs),
            answer=gold.answer,
            answer_type=gold.answer_type if is_missing(given_type) else cell_text(given_type),
            choices=choices,
            precision=_precision(cells.get("precision")),
            rel_tol=_rel_tol(cells.get("rel_tol")),
            unit=unit or None,
            split="train" if (split or "train").lower() in _TRAINING else "test",
            metadata=record
            | unmapped(row, table.field_columns)
            | ({"split": split} if split else {})
            | {"files": file_names(placed.refs)}
            | ({READING_NOTES: [*notes, *gold.notes]} if notes or gold.notes else {}),
        )

    def _image_refs(self, cells: dict[str, Any], table: _Table) -> list[Any]:
        """Return the references of the images' cell; one that names another record gives its."""
        index = _image_index(cells)
        if index and not (table.file.place.folder / index).exists():
            shared = self._survey.shared_images.get(index)
            if shared:
                return shared
        return split_refs(cells.get("images"))


def _image_index(cells: dict[str, Any]) -> str:
    """Return the index of another record in the place of an image (VLMEvalKit); "" else."""
    value = cells.get("images")
    text = cell_text(value) if isinstance(value, str | int) else ""
    return text if text.isdecimal() and len(text) < 13 else ""


def _may_be_index(value: Any, choices: tuple[str, ...]) -> bool:
    if not choices:
        return False
    votes = IndexVotes()
    votes.add(value, choices)
    return votes.total > 0 or as_index(value) is not None


def _question(cells: dict[str, Any]) -> chat.Asked:
    """Return the problem with the context before it, and the image references of a chat."""
    value = cells["problem"]
    if isinstance(value, chat.Asked):
        return _with_context(value, cells)
    if isinstance(value, dict):
        raise DataError("the problem is an object; map a key of it: --map problem=COLUMN.KEY")
    if isinstance(value, list) and not any(isinstance(part, dict) for part in value):
        value = "\n".join(cell_text(part) for part in value if not is_missing(part))
    asked = chat.last_question(value if isinstance(value, list) else cell_text(value))
    return _with_context(asked, cells)


def _with_context(asked: chat.Asked, cells: dict[str, Any]) -> chat.Asked:
    if is_missing(asked.text):
        return asked._replace(text="")
    found = cells.get("context")
    parts = [part for part in (found if isinstance(found, list) else [found])
             if not is_missing(part)]  # fmt: skip
    texts = [part.strip() for part in parts if isinstance(part, str)]
    notes = ["a context that is no text, left out"] if len(texts) < len(parts) else []
    before = [text for text in texts if text not in asked.text]
    if before:
        notes.append("a context, put in front of the problem")
    return asked._replace(text="\n\n".join((*before, asked.text)), notes=(*asked.notes, *notes))


def _refuse_other_media(row: Row) -> None:
    column = marks.media_column(row, is_missing)
    if column:
        raise DataError(f"the record has a video or a sound: column {column!r}")
    history = next((column for column in row if column.lower() == "history"), None)
    if history and not is_missing(row[history]):
        raise DataError(f"the record has earlier turns beside the problem: column {history!r}")


def _precision(value: Any) -> int | None:
    if is_missing(value):
        return None
    number = _NUMBER.fullmatch(cell_text(value))
    if number is None:
        raise DataError(f"the precision is not a number of decimals: {value!r:.80}")
    return int(number[1])


def _rel_tol(value: Any) -> float | None:
    if is_missing(value):
        return None
    try:
        return float(cell_text(value))
    except ValueError as error:
        raise DataError(f"the rel_tol is not a number between 0 and 1: {value!r:.80}") from error


def _local_files(source: Path) -> list[_DataFile]:
    files = record_files(source)
    root = source if source.is_dir() else source.parent
    return [
        _DataFile(
            partial(read_rows, file),
            str(file),
            Place(file.parent, root),
            f"{file.stem}-" if len(files) > 1 else "",
            _split_name(file.relative_to(source)) if source.is_dir() else None,
        )
        for file in files
    ]


def _split_name(file: Path) -> str | None:
    """Return the split named by a file (train-00000.parquet) or by one of its folders."""
    words = [re.split(r"[-_.]", file.name.lower())[0], *map(str.lower, reversed(file.parts[:-1]))]
    return next((word for word in words if word in (*_TRAINING, *_HELD_OUT)), None)


def _hub_file(source: str) -> _DataFile:
    return _DataFile(
        partial(hub.rows, source, ("train",)),
        source,
        Place(Path("/nonexistent"), Path("/nonexistent")),
    )
