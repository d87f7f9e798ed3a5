"""The readers that data sources and benchmarks share: JSONL, parquet, lists in cells."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sapo_vl.data.readers.literals import parse_list
from sapo_vl.data.readers.tables import read_jsonl, read_parquet
from sapo_vl.data.readers.text import choices_by_letter
from sapo_vl.errors import DataError


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_jsonl_lines_have_their_place_packed_or_not(tmp_path, pack):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(pack(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\r\n{"a"'))
    rows = read_jsonl(file)
    assert next(rows) == (f"{file}:1", {"a": 1})
    assert next(rows) == (f"{file}:3", {"a": 2})
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        next(rows)


@pytest.mark.parametrize(
    "content", [gzip.compress(b'{"a": 1}\n' * 99)[:-12], b'{"a": "\xff"}', None]
)
def test_unreadable_jsonl_is_named(tmp_path, content):
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.jsonl: "):
        list(read_jsonl(file))


def test_parquet_columns_are_required_on_request(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "n": [1, 2]}), tmp_path / "x.parquet")
    assert list(read_parquet(tmp_path / "x.parquet", ["n"]))[1] == {"id": "b", "n": 2}
    with pytest.raises(DataError, match=r"x\.parquet.*'answer'"):
        list(read_parquet(tmp_path / "x.parquet", ["id", "answer"]))


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        (None, []),
        (" ", []),
        ([1, 2], [1, 2]),
        (("a",), ["a"]),
        ('["a", "it\'s"]', ["a", "it's"]),
        ("['$63,020', \"it's\"]", ["$63,020", "it's"]),
        ("[]", []),
    ],
)
def test_lists_in_cells(cell, items):
    assert parse_list(cell) == items


@pytest.mark.parametrize("cell", ["A", {"a": 1}, 3, "[1, 2"])
def test_other_cells_are_no_lists(cell):
    with pytest.raises(DataError, match="list"):
        parse_list(cell)


def test_choices_by_letter():
    assert choices_by_letter(("x", "y")) == {"A": "x", "B": "y"}
    assert choices_by_letter(()) == {}
    with pytest.raises(DataError, match="27"):
        choices_by_letter(["x"] * 27)
