"""Files of any packing and layout, and what a small file may cost."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapo_vl.data.readers import files, generic
from sapo_vl.data.readers.files import record_files
from sapo_vl.data.readers.tables import read_rows
from sapo_vl.errors import DataError

ROWS = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
COLUMNS = {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]}


def zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", LINES),
        ("a.json", b"\xef\xbb\xbf\n" + LINES),
        ("a.ndjson", LINES),
        ("a.txt", LINES),
        ("a.jsonl", json.dumps(ROWS).encode()),
        ("a.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json", json.dumps(COLUMNS).encode()),
        ("a.json", json.dumps({"columns": ["problem", "answer"], "index": [0, 1, 2],
                               "data": [list(row.values()) for row in ROWS]}).encode()),
        ("a.json", json.dumps({"schema": {"fields": []}, "data": ROWS}).encode()),
        ("a.json", json.dumps({n: [row[n] for row in ROWS] for n in ROWS[0]}).encode()),
        ("a.json", json.dumps({f"k{n}": row for n, row in enumerate(ROWS)}).encode()),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.bz2", bz2.compress(LINES)),
        ("a.jsonl.xz", lzma.compress(LINES)),
        ("a.jsonl.zst", zstd(LINES)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode())),
        ("a.csv.gz", gzip.compress(b"problem,answer\n0 + 1?,1\n1 + 1?,2\n2 + 1?,3\n")),
        ("a.csv", b"\xef\xbb\xbfproblem;answer\r\n0 + 1?;1\r\n1 + 1?;2\r\n2 + 1?;3\r\n"),
        ("a.csv", b"problem,answer\r0 + 1?,1\r1 + 1?,2\r2 + 1?,3\r"),
    ],
)  # fmt: skip
def test_the_same_records_however_they_are_written(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = list(generic.rows(tmp_path / name))
    assert [(s.problem, s.answer) for s in found] == [tuple(row.values()) for row in ROWS]


def test_one_record_in_a_json_file_is_a_record(tmp_path):
    chat = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    for row in (
        ROWS[0],
        {"id": "7", "messages": chat},
        {"problem": "?", "choices": [{"text": "x"}]},
    ):
        (tmp_path / "a.json").write_text(json.dumps(row))
        assert list(read_rows(tmp_path / "a.json")) == [row]


def test_a_saved_data_set_is_its_arrow_files(tmp_path):
    for split, count in (("train", 2), ("test", 1)):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist(ROWS[:count])
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text('{"_data_files": []}')
        (folder / "dataset_info.json").write_text("{}")
        (folder / "cache-1f.arrow").write_bytes(b"a cache of map()")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = list(generic.rows(tmp_path / "set"))
    assert [(s.answer, s.split) for s in found] == [("1", "test"), ("1", "train"), ("2", "train")]
    (tmp_path / "set" / "test" / "state.json").write_text('{"_indices_data_files": [{"f": "i"}]}')
    with pytest.raises(DataError, match="selection of rows"):
        list(generic.rows(tmp_path / "set"))


def test_notes_and_other_texts_in_a_folder_are_no_records(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(LINES)
    for name in ("dataset_info.json", "responses.jsonl.txt", "README.md", ".hidden.jsonl"):
        (tmp_path / name).write_text("[{}]")
    assert [file.name for file in record_files(tmp_path)] == ["train.jsonl"]
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="archive; unpack it"):
        list(read_rows(tmp_path / "a.zip"))


def test_utf_16_is_named(tmp_path):
    for coding in ("utf-16", "utf-16-le", "latin-1"):
        (tmp_path / "a.csv").write_bytes("problem,answer\nWas heißt größer?,2\n".encode(coding))
        with pytest.raises(DataError, match=r"a\.csv"):
            list(generic.rows(tmp_path / "a.csv"))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RATIO_FROM", 2**20)
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**22)
    (tmp_path / "many.jsonl.gz").write_bytes(gzip.compress(LINES * 60_000))
    (tmp_path / "long.jsonl.gz").write_bytes(gzip.compress(b'{"problem": "' + b"x" * 2**23))
    (tmp_path / "long.jsonl").write_bytes(b'{"problem": "' + b"x" * 2**23)
    (tmp_path / "whole.json.xz").write_bytes(lzma.compress(b"[" + b"1," * 2**22))
    table = pa.table(
        {"problem": pa.array(["x" * 2**25] * 2).dictionary_encode(), "answer": ["1"] * 2}
    )
    pq.write_table(table, tmp_path / "words.parquet", compression="zstd")
    started = time.perf_counter()
    for name in ("many.jsonl.gz", "long.jsonl.gz", "long.jsonl", "whole.json.xz", "words.parquet"):
        with pytest.raises(DataError, match=rf"{name}.*(times its size|MiB)"):
            list(generic.rows(tmp_path / name))
    assert time.perf_counter() - started < 5


def test_a_long_text_of_a_cell_is_one_records_fault(tmp_path):
    rows = [ROWS[0], {"problem": "x" * 2_000_000, "answer": "1"}, ROWS[1]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    one, long, two = generic.rows(tmp_path / "a.parquet")
    assert (one.answer, two.answer) == ("1", "2")
    assert long.reason.startswith("a text is over 1048576 characters: the problem")


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "a.x",
                                                 "a.arrow", "a.jsonl.gz"]))  # fmt: skip
def test_any_bytes_are_records_or_one_line(tmp_path_factory, data, name):
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(data)
    with contextlib.suppress(DataError):
        list(read_rows(file))
