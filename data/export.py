"""Export a prepared data set in the format of another trainer: EasyR1, TRL or verl.

    export("runs/geometry", "runs/geometry-trl", "trl")

Each split becomes one parquet file with embedded images (train.parquet, test.parquet). The sources
of the same names read the folder back: problem, images, answer and split survive; of the other
fields, verl keeps the id. The sources in data/sources/ document the row layouts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sapo_vl.data import store
from sapo_vl.data.atomic import atomic_path
from sapo_vl.errors import ConfigError, DataError, nearest
from sapo_vl.schema import IMAGE_MARK, Sample

ROWS = 16
"""Rows written at a time; small, because each row carries images."""

Row = dict[str, Any]

_TEXT = pa.string()
_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", _TEXT)]))
_PART = pa.struct([("type", _TEXT), ("text", _TEXT)])


def export(
    source: str | Path, out: str | Path, form: str, tick: Callable[[], None] | None = None
) -> dict[str, int]:
    """Write a data set in another trainer's format; return the row count of each split.

    `tick` is called after each record.

    Raises:
        ConfigError: the format is unknown.
        DataError: `source` is not a data set, or `out` exists.
    """
    if form not in FORMS:
        raise ConfigError(f"to: {form!r}; allowed: {', '.join(FORMS)}{nearest(form, FORMS)}")
    to_row, schema = FORMS[form]
    target = Path(out)
    if target.exists():
        raise DataError(f"{target} already exists; choose another folder")
    counts = {}
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for split in store.splits(source):
            samples = store.load(source, split)
            rows = _convert(samples, to_row, tick)
            with pq.ParquetWriter(
                temporary / f"{split}.parquet", schema, compression="NONE"
            ) as writer:
                while batch := list(islice(rows, ROWS)):
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            counts[split] = len(samples)
    return counts


def _convert(
    samples: Iterable[Sample], to_row: Callable[[Sample], Row], tick: Callable[[], None] | None
) -> Iterator[Row]:
    for sample in samples:
        yield to_row(sample)
        if tick is not None:
            tick()


def _images(sample: Sample) -> list[Row]:
    return [{"bytes": data, "path": None} for data in sample.images]


def _easyr1(sample: Sample) -> Row:
    return {"images": _images(sample), "problem": sample.problem, "answer": sample.answer}


def _trl(sample: Sample) -> Row:
    parts: list[Row] = []
    for number, text in enumerate(sample.problem.split(IMAGE_MARK)):
        parts += [{"type": "image", "text": None}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return {
        "prompt": [{"role": "user", "content": parts}],
        "images": _images(sample),
        "solution": sample.answer,
    }


def _verl(sample: Sample) -> Row:
    return {
        "data_source": sample.dataset,
        "prompt": [{"role": "user", "content": sample.problem}],
        "images": _images(sample),
        "ability": sample.task,
        "reward_model": {"style": "rule", "ground_truth": sample.answer},
        "extra_info": {
            "split": sample.split,
            "index": sample.id,
            "answer": sample.answer,
            "question": sample.problem,
        },
    }


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Return the parquet schema with the feature metadata by which `datasets` decodes images."""
    features = {"images": {"feature": {"_type": "Image"}, "_type": "List"}}
    info = {"info": {"features": features | {n: _feature(c) for n, c in columns.items()}}}
    return pa.schema(
        [("images", _IMAGES), *columns.items()], metadata={"huggingface": json.dumps(info)}
    )


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}


def _turns(content: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([("role", _TEXT), ("content", content)]))


FORMS: dict[str, tuple[Callable[[Sample], Row], pa.Schema]] = {
    "easyr1": (_easyr1, _schema(problem=_TEXT, answer=_TEXT)),
    "trl": (_trl, _schema(prompt=_turns(pa.list_(_PART)), solution=_TEXT)),
    "verl": (
        _verl,
        _schema(
            data_source=_TEXT,
            prompt=_turns(_TEXT),
            ability=_TEXT,
            reward_model=pa.struct([("style", _TEXT), ("ground_truth", _TEXT)]),
            extra_info=pa.struct([(n, _TEXT) for n in ("split", "index", "answer", "question")]),
        ),
    ),
}
"""Trainer -> (sample to row, parquet schema)."""
