"""The data commands as a user runs them: interrupted, continued, in the wrong place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from helpers import cli, environment, picture

from sapo_vl.cli.parser import main
from sapo_vl.data import store
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.errors import DataError

SLOW = """
import os
import time
from pathlib import Path
from sapo_vl.schema import Sample

passes = []

def rows(source):
    passes.append(source)
    for n in range(2100):
        if n == 2050 and len(passes) == 2 and "QUICK" not in os.environ:
            (Path(__file__).parent / "reached").touch()
            time.sleep(60)
        yield Sample(id=f"r{n}", dataset="own", task="t", problem=f"{n} + 1?", images=(),
                     answer=str(n + 1))
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(SLOW)
    return tmp_path


def _hear_interrupts() -> None:
    """A shell's background job is started deaf to Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(own):
    """Interrupt a preparation at its record 2050, and return what it said."""
    command = ("prepare", f"{own}/own.py:rows", "--source", "none", "--verifier", "none")
    command += ("--out", str(own / "set"))
    process = subprocess.Popen(
        [sys.executable, "-m", "sapo_vl.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=_hear_interrupts,
    )
    started = time.monotonic()
    while not (own / "reached").exists() and time.monotonic() - started < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    return said, command


def test_an_interrupted_command_says_so_in_one_line_and_goes_on(own):
    said, command = interrupted(own)
    assert said.startswith("sapo-vl: interrupted")
    assert said.count("\n") == 1
    assert not (own / "set").exists()
    note = json.loads((own / ".set.partial" / "checkpoint.json").read_text())
    assert note["state"]["read"] == 2000
    done = cli(*command, QUICK="1")
    assert done.returncode == 0, done.stderr
    report = json.loads((own / "set" / "report.json").read_text())
    assert report["read"] == sum(report["kept"].values()) == 2100
    assert not (own / ".set.partial").exists()


def test_what_was_written_of_a_changed_source_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("sapo_vl.data.prepare.CHECKPOINT_RECORDS", 10)
    file = tmp_path / "a.jsonl"

    def write(*answers):
        rows = ({"question": f"{n}?", "answer": a} for n, a in enumerate(answers))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(*["3"] * 25, "")
    with pytest.raises(DataError, match=r"record 'a-25' \(a.jsonl, record 25\) of .*a.jsonl: the"):
        prepare("generic", PrepareOptions(tmp_path / "set", source=file, holdout=0))
    assert (tmp_path / ".set.partial" / "checkpoint.json").exists()
    write(*["4"] * 26)
    prepare("generic", PrepareOptions(tmp_path / "set", source=file, holdout=0))
    assert {s.answer for s in store.load(tmp_path / "set", "train")} == {"4"}


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "a.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    source = ("generic", "--source", tmp_path / "a.jsonl", "--holdout", "0")
    assert cli("prepare", *source, "--out", tmp_path / "set").returncode == 0
    for command in (
        ("prepare", *source, "--out", tmp_path / "file" / "set"),
        ("data", "export", tmp_path / "set", "--to", "trl", "--out", tmp_path / "file" / "x"),
        ("data", "show", tmp_path / "set", "--out", tmp_path / "set"),
        ("data", "filter", tmp_path / "set", "--dedupe", "--out", tmp_path / "file" / "x"),
    ):
        done = cli(*command)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"sapo-vl: {tmp_path}")
        assert done.stderr.count("\n") == 1


def test_a_damaged_shard_is_named_when_it_is_read(tmp_path):
    rows = [{"question": f"{n}?" * 50, "answer": "2"} for n in range(64)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare("generic", PrepareOptions(tmp_path / "set", source=tmp_path / "a.jsonl", holdout=0))
    shard = tmp_path / "set" / "train-00000.parquet"
    data = bytearray(shard.read_bytes())
    middle = data.index(b"40?40?") - 200
    data[middle : middle + 400] = b"\xff" * 400
    shard.write_bytes(data)
    with pytest.raises(DataError, match="record 'a-"):
        list(store.load(tmp_path / "set", "train"))


def test_rows_of_another_form_are_drops_with_a_reason():
    def name(row):
        return row["id"]

    def sample(row):
        return row["answer"].strip()

    rows = [{"id": "1"}, {"answer": "2"}, {"id": "3", "answer": None}, {"id": "4", "answer": " x"}]
    one, two, three, four = to_samples(rows, name, sample)
    assert (one.id, one.reason) == ("1", "a column is missing: 'answer'; the record has id")
    assert (two.id, two.reason) == ("row 1", "a column is missing: 'id'; the record has answer")
    assert three.reason.startswith("unexpected value in a column: 'NoneType' object")
    assert three.reason.endswith("; empty: answer")
    assert four == "x"

    def breaking():
        yield {"id": "1", "answer": "2"}
        raise KeyError("image")

    with pytest.raises(DataError, match=r"row 1 .*KeyError\('image'\)"):
        list(to_samples(breaking(), name, sample))


def test_a_broken_picture_cell_of_a_source_is_one_record(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = {"image": {"bytes": picture(40, 40), "path": None}, "problem": "?", "solution": "3"}
    rows = [good, good | {"image": {"bytes": None, "path": None}}, good]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    report = prepare(
        "geoqa", PrepareOptions(tmp_path / "set", source=tmp_path, on_error="skip", holdout=0)
    )
    assert report.kept == {"train": 2}
    assert sum(d.count for d in report.dropped.values()) == 1


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["mathvision", "--source", "x", "--level", "1"], "level"),  # even at its default
        (["generic", "--source", "x", "--test-count", "480"], "test_count"),
        (["synthetic", "--holdout", "0.15"], "holdout"),
        (["synthetic", "--map", "answer=gold"], "map"),
        (["geometry3k", "--source", "x", "--map", "answer=gold"], "map"),
    ],
)
def test_options_of_other_sources_are_refused(arguments, option, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["prepare", *arguments, "--out", str(tmp_path / "set")])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(f"sapo-vl: {option}: ")
