"""The parquet schema of a sample, and the checks a sample passes before it is written."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from sapo_vl.data.images import header_size
from sapo_vl.errors import DataError
from sapo_vl.schema import ANSWER_TYPES, IMAGE_MARK, Sample

SPLITS = ("train", "test")
"""Values of `Sample.split`."""

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
    "unit": pa.string(),
    "split": pa.string(),
    "solution": pa.string(),
    "metadata": pa.string(),
}


def fault(sample: Sample) -> str | None:
    """Return why a sample is invalid, as "cause" or "cause: detail"; None when it is valid.

    The cause is the same text for all records with the same fault, so that causes can be counted.
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
    return _storage_fault(sample) or _image_fault(sample)


def validate(sample: Sample) -> None:
    """Check what later stages rely on; of images only the headers are read.

    Raises:
        DataError: names the record and its fault.
    """
    reason = fault(sample)
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


def _storage_fault(sample: Sample) -> str | None:
    try:
        row = {k: v for k, v in to_row(sample).items() if k != "images"}
        json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
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
    """Return the sample stored in a parquet row."""
    fields = dict(row)
    fields["images"] = tuple(image["bytes"] for image in row["images"] or ())
    fields["choices"] = tuple(row["choices"] or ())
    fields["metadata"] = json.loads(row["metadata"])
    return Sample(**fields)


def schema() -> pa.Schema:
    """Return the parquet schema, with the feature metadata by which `datasets` finds images."""
    features: dict[str, Any] = {
        name: {"dtype": str(kind), "_type": "Value"} for name, kind in COLUMNS.items()
    }
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["choices"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    info = json.dumps({"info": {"features": features}})
    return pa.schema(list(COLUMNS.items()), metadata={"huggingface": info})
