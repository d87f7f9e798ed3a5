"""Nothing that a command did not make is deleted, and a damaged set is named in one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import make_sample, picture

from sapo_vl.cli.parser import main
from sapo_vl.data import shards, store
from sapo_vl.data.atomic import atomic_path
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.errors import DataError


@pytest.fixture
def source(tmp_path):
    rows = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(30)]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_folder_that_appears_meanwhile_is_left_alone_and_the_set_is_kept(source, tmp_path):
    out = tmp_path / "set"

    def appear(report):
        if report.read == 5:
            out.mkdir()
            (out / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError, match=r"thesis\.tex.*\.set\.partial"):
        prepare("generic", PrepareOptions(out, source=source, holdout=0), tick=appear)
    assert (out / "thesis.tex").read_text() == "years of work"
    assert len(store.load(tmp_path / ".set.partial", "train")) == 30
    out.rename(tmp_path / "writing")
    with pytest.raises(DataError, match="no preparation made"):  # and it is not written over
        prepare("generic", PrepareOptions(out, source=source, holdout=0))
    (tmp_path / ".set.partial").rename(out)
    assert len(store.load(out, "train")) == 30


def test_another_set_that_appears_meanwhile_is_not_replaced(source, tmp_path):
    out = tmp_path / "set"

    def appear(report):
        if report.read == 5:
            store.write(tmp_path / "other", [make_sample(name="theirs")])
            os.rename(tmp_path / "other", out)

    with pytest.raises(DataError, match="holds a data set already"):
        prepare("generic", PrepareOptions(out, source=source, holdout=0), tick=appear)
    assert store.load(out, "train").ids == ["theirs"]


def test_overwriting_spares_a_file_that_was_put_into_the_old_set(source, tmp_path):
    out = tmp_path / "set"
    store.write(out, [make_sample(name="old")])

    def appear(report):
        if report.read == 5:
            (out / "notes.txt").write_text("mine")

    with pytest.raises(DataError, match=r"notes\.txt"):
        prepare(
            "generic", PrepareOptions(out, source=source, holdout=0, overwrite=True), tick=appear
        )
    assert (out / "notes.txt").read_text() == "mine"
    assert store.load(out, "train").ids == ["old"]


@pytest.mark.parametrize("name", ["letter.txt", "train-00000.parquet", "checkpoint.json"])
def test_a_foreign_folder_with_the_hidden_name_is_left_alone(source, tmp_path, name):
    hidden = tmp_path / ".set.partial"
    hidden.mkdir()
    (hidden / name).write_text("mine")
    with pytest.raises(DataError, match=r"\.set\.partial holds files that no preparation made"):
        prepare("generic", PrepareOptions(tmp_path / "set", source=source, holdout=0))
    assert (hidden / name).read_text() == "mine"


def test_a_temporary_name_is_never_a_users_file(tmp_path):
    (tmp_path / ".out.new").write_text("mine")
    with atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("done")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.new", "out"]
    assert (tmp_path / ".out.new").read_text() == "mine"


def test_what_a_killed_checkpoint_left_does_not_stop_the_next_start(source, tmp_path):
    def stop(report):
        raise KeyboardInterrupt

    options = PrepareOptions(tmp_path / "set", source=source, holdout=0)
    writer = shards.DatasetWriter(tmp_path / "set", key="x")
    (writer.folder / ".checkpoint.json.new.abc").mkdir()
    writer._lock.close()
    assert prepare("generic", options).kept == {"train": 30}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.jsonl", "set"]


@pytest.fixture
def stored(tmp_path):
    samples = [make_sample([(40, 40)], seed=n, name=f"s{n}") for n in range(70)]
    store.write(tmp_path / "set", samples, shard_rows=30)
    return tmp_path / "set"


def test_a_missing_shard_is_noticed_in_the_middle_and_at_the_end(stored):
    report = {"kept": {"train": 70}}
    (stored / "report.json").write_text(json.dumps(report))
    assert len(store.load(stored, "train")) == 70
    (stored / "train-00002.parquet").rename(stored / "last")
    with pytest.raises(DataError, match="60 of the 70 records of train"):
        store.load(stored, "train")
    (stored / "train-00001.parquet").unlink()
    (stored / "last").rename(stored / "train-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001\.parquet is missing"):
        store.load(stored, "train")
    (stored / "report.json").write_text('{"kept": {"train": 70, "test": 4}}')
    (stored / "train-00002.parquet").unlink()
    with pytest.raises(DataError, match="no shard of test"):
        list(store.iter_samples(stored))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("metadata", None, "metadata"),
        ("metadata", "{", "metadata"),
        ("metadata", "[1]", "metadata"),
        ("answer", None, "answer"),
        ("id", None, "id"),
        ("images", [{"bytes": None, "path": "a.png"}], "no bytes"),
        ("images", [None], "no bytes"),
        ("choices", [None], "choices"),
    ],
)
def test_a_broken_column_of_a_prepared_set_names_the_record(stored, column, value, words):
    file = stored / "train-00001.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[3][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file, row_group_size=16)
    with pytest.raises(DataError, match=r"train-00001\.parquet") as raised:
        list(store.load(stored, "train"))
    assert words in str(raised.value)


def exit_code(command):
    try:
        main(command)
    except SystemExit as exit_:
        return exit_.code
    return 0


def test_a_damaged_shard_is_one_line_in_every_command(stored, tmp_path, capsys):
    whole, folder = (stored / "train-00001.parquet").read_bytes(), str(stored)
    commands = [
        ["data", "stats", folder],
        ["data", "show", folder, "--out", str(tmp_path / "page.html"), "--limit", "70"],
        ["data", "export", folder, "--to", "verl", "--out", str(tmp_path / "export")],
        ["data", "filter", folder, "--max-characters", "99", "--out", str(tmp_path / "f")],
        ["data", "decontaminate", folder, "--against", folder, "--out", str(tmp_path / "d")],
    ]  # fmt: skip
    random = np.random.default_rng(0)
    refused = 0
    for trial, command in enumerate(commands * 5):
        data = bytearray(whole if trial % 5 else whole[: len(whole) // 2])
        for place in random.integers(0, len(data), 200):
            data[place] = random.integers(256)
        (stored / "train-00001.parquet").write_bytes(data)
        code, error = exit_code(command), capsys.readouterr().err
        assert code in (0, 2)
        assert error.count("\n") == (code == 2), error
        refused += code == 2
    assert refused >= 15


def test_an_id_with_half_a_surrogate_or_escapes_is_counted_and_printed(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(
        '{"problem": "1 + 1?", "answer": "2"}\n'
        '{"id": "a\\ud800", "problem": "1 + 1?", "answer": ""}\n'
        '{"id": "b\\u001b[31m\\nsapo-vl: done", "problem": "1 + 1?", "answer": ""}\n'
    )
    source = ["--source", str(tmp_path / "a.jsonl"), "--on-error", "skip", "--holdout", "0"]
    main(["prepare", "generic", *source, "--out", str(tmp_path / "set")])
    shown = capsys.readouterr().out
    assert "a-a\\ud800" in shown
    assert "\x1b" not in shown
    assert "\nsapo-vl: done" not in shown
    assert json.loads((tmp_path / "set" / "report.json").read_text())["read"] == 3


def test_images_lie_below_the_sources_folder(tmp_path):
    (tmp_path / "src" / "images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(picture(40, 40))
    (tmp_path / "src" / "images" / "a.png").write_bytes(picture(40, 41))
    os.symlink(tmp_path / "secret.png", tmp_path / "src" / "link.png")
    os.symlink("images/a.png", tmp_path / "src" / "near.png")
    os.mkfifo(tmp_path / "src" / "pipe.png")
    paths = [
        *("images/a.png", "near.png", "images/../images/a.png"),
        *("../secret.png", "link.png", str(tmp_path / "secret.png"), "images/../../secret.png"),
        *("pipe.png", "/dev/zero", "images"),
    ]
    file = tmp_path / "src" / "a.jsonl"
    rows = [{"id": str(n), "problem": "?", "answer": "1", "image": p} for n, p in enumerate(paths)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = PrepareOptions(tmp_path / "set", source=file, on_error="skip", holdout=0)
    report = prepare("generic", options)
    assert report.kept == {"train": 3}
    assert [d.count for c, d in report.dropped.items() if "outside" in c] == [4]
    assert [d.count for c, d in report.dropped.items() if "missing" in c] == [3]
    every = replace(options, out=tmp_path / "all", allow_outside=True)
    assert prepare("generic", every).kept == {"train": 7}
