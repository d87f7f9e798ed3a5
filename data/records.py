"""The parquet schema of a sample, and the checks a sample passes before it is written."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from sapo_vl.data.images import header_size
from sapo_vl.data.readers.escapes import control_character
from sapo_vl.data.readers.literals import is_missing
from sapo_vl.data.readers.marks import foreign_mark
from sapo_vl.errors import DataError, printable
from sapo_vl.schema import ANSWER_TYPES, IMAGE_MARK, Sample

SPLITS = ("train", "test")
"""Values of `Sample.split`."""

MAX_PROBLEM_CHARS = 2**20
"""A longer problem is not one."""

MAX_ANSWER_CHARS = 2**13
"""A longer gold answer is not one; bounds what comparing a response with it may cost."""

MAX_PRECISION = 30
"""Decimals. Comparing takes powers of ten, so that a large number costs hours."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "dataset": pa.string(),
    "task": pa.string(),
    "problem": pa.string(),
    "images": pa.list_(_IMAGE),
    "answer": pa.string(),
    "answer_type": pa.string(),
    "choices": pa.list_(pa.string()),
    "precision": pa.int32(),
    "rel_tol": pa.float64(),
    "unit": pa.string(),
    "split": pa.string(),
    "solution": pa.string(),
    "metadata": pa.string(),
}


_REQUIRED_TEXTS = (
    *("id", "dataset", "task", "problem", "answer", "answer_type", "split", "metadata"),
)


def fault(sample: Sample) -> str | None:
    """Return why a sample must not be prepared, as "cause: detail", or None.

    The cause is the same text for all records with the same fault, so that causes can be counted.
    """
    return storage_fault(sample) or _text_fault(sample)


def storage_fault(sample: Sample) -> str | None:
    """Return why a sample can't be written, as "cause: detail", or None.

    Left to `fault`: texts that no model or verifier can use. Training looks for those again, in
    sets that other programs wrote.
    """
    marks = sample.problem.count(IMAGE_MARK)
    letters = [chr(ord("A") + i) for i in range(len(sample.choices))]
    if not sample.id:
        return "the id is empty"
    if sample.split not in SPLITS:
        return f"the split is unknown: {sample.split!r}; allowed: {', '.join(SPLITS)}"
    if marks != len(sample.images):
        return f"marks and images differ: {marks} {IMAGE_MARK} for {len(sample.images)} images"
    if not sample.problem.replace(IMAGE_MARK, "").strip():
        return "the problem has no text"
    if not sample.answer.strip():
        return "the gold answer is empty"
    if sample.answer_type not in ANSWER_TYPES:
        allowed = ", ".join(ANSWER_TYPES)
        return f"the answer_type is unknown: {sample.answer_type!r}; allowed: {allowed}"
    if sample.answer_type == "choice" and letters and sample.answer not in letters:
        return f"the gold answer is not a choice's letter: {sample.answer!r}; {', '.join(letters)}"
    if sample.answer_type == "multi_choice" and letters:
        unknown = sorted(set(sample.answer.split(", ")) - set(letters))
        if unknown:
            return f"the gold answer has letters without a choice: {', '.join(unknown)}"
    return _json_fault(sample) or _image_fault(sample)


def _text_fault(sample: Sample) -> str | None:
    """Return what in a sample's texts or tolerances no model or verifier can use."""
    if len(sample.problem) > MAX_PROBLEM_CHARS:
        return f"the problem is over {MAX_PROBLEM_CHARS} characters: {len(sample.problem)}"
    if len(sample.answer) > MAX_ANSWER_CHARS:
        return f"the gold answer is over {MAX_ANSWER_CHARS} characters: {len(sample.answer)}"
    if sample.answer_type == "text" and not sample.choices and is_missing(sample.answer):
        return f"the gold answer is empty: {sample.answer!r} is how a missing value is written"
    for name, text in (("problem", sample.problem), ("gold answer", sample.answer)):
        if mark := foreign_mark(text):
            return f"the {name} has a mark that is neither text nor an image: {mark}"
        if char := control_character(text):
            return f"the {name} has a control character: {printable(char)}"
    if "\t" in sample.answer.strip():
        return "the gold answer has a control character: \\t"
    if sample.precision is not None and not 0 <= sample.precision <= MAX_PRECISION:
        return f"the precision is not from 0 to {MAX_PRECISION}: {str(sample.precision)[:40]}"
    if sample.rel_tol is not None and not 0 < sample.rel_tol < 1:
        return f"the rel_tol is not between 0 and 1: {sample.rel_tol}"
    return None


def validate(sample: Sample) -> None:
    """Check what later stages rely on; of images only the headers are read.

    Raises:
        DataError: names the record and its fault.
    """
    reason = storage_fault(sample)
    if reason:
        raise DataError(f"{sample.dataset} record {sample.id!r}: {reason}")


def _image_fault(sample: Sample) -> str | None:
    for number, data in enumerate(sample.images, start=1):
        try:
            header_size(data)
        except DataError as error:
            return f"an image cannot be read: {image_name(sample, number)}: {error}"
    return None


def image_name(sample: Sample, number: int) -> str:
    """Return the file name of a sample's image (from 1) if it is known, else "image 1"."""
    files = sample.metadata.get("files") or ()
    return files[number - 1] if len(files) == len(sample.images) else f"image {number}"


def _json_fault(sample: Sample) -> str | None:
    try:
        row = {k: v for k, v in to_row(sample).items() if k != "images"}
        json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        return f"the text or metadata cannot be stored: {error}"
    return None


def to_row(sample: Sample) -> dict[str, Any]:
    """Return a sample as a parquet row, a dict by `COLUMNS`."""
    row = {name: getattr(sample, name) for name in COLUMNS}
    row["images"] = [{"bytes": data, "path": None} for data in sample.images]
    row["choices"] = list(sample.choices)
    row["metadata"] = json.dumps(sample.metadata, ensure_ascii=False, allow_nan=False)
    return row


def from_row(row: dict[str, Any]) -> Sample:
    """Return the sample stored in a parquet row.

    Raises:
        DataError: a column is empty or not what `to_row` writes; names the record and the column.
    """
    where = f"record {row.get('id')!r}"
    for name in _REQUIRED_TEXTS:
        if not isinstance(row[name], str):
            raise DataError(
                f"{where}: {name} is {row[name]!r:.80}, not a text; prepare the set anew"
            )
    images = [image and image["bytes"] for image in row["images"] or ()]
    if not all(isinstance(data, bytes) for data in images):
        raise DataError(f"{where}: an image has no bytes; prepare the set anew")
    try:
        metadata = json.loads(row["metadata"])
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: metadata is not JSON: {error}; prepare the set anew") from error
    choices = tuple(row["choices"] or ())
    if not isinstance(metadata, dict) or not all(isinstance(choice, str) for choice in choices):
        raise DataError(f"{where}: metadata or choices are broken; prepare the set anew")
    parts = {"images": tuple(images), "choices": choices, "metadata": metadata}
    return Sample(**(row | parts))


def schema() -> pa.Schema:
    """Return the parquet schema, with the feature metadata by which `datasets` finds images."""
    features: dict[str, Any] = {
        name: {"dtype": str(kind), "_type": "Value"} for name, kind in COLUMNS.items()
    }
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["choices"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    info = json.dumps({"info": {"features": features}})
    return pa.schema(list(COLUMNS.items()), metadata={"huggingface": info})
