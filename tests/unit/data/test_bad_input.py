"""Bad input through the command line: file and record are named, nothing is half written."""

from __future__ import annotations

import json
import struct
import zlib

import pytest
from helpers import cli, picture

GOOD = picture(40, 40)


def bomb():
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


CASES = {
    "missing image": ({"image": "gone.png"}, "missing image file: "),
    "broken image": ({"image": "broken.jpg"}, "an image cannot be read: broken.jpg: "),
    "bomb": ({"image": "bomb.png"}, "an image cannot be read: bomb.png: "),
    "no answer": ({"answer": ""}, "the gold answer is empty"),
    "a link": ({"image": "https://x/y.png"}, "an image is a link, download it first"),
}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "good.png").write_bytes(GOOD)
    (tmp_path / "broken.jpg").write_bytes(GOOD[: len(GOOD) // 2])
    (tmp_path / "bomb.png").write_bytes(bomb())

    def make(**changes):
        good = {"id": "fine", "question": "How many?", "answer": "3", "image": "good.png"}
        rows = [good, good | {"id": "bad"} | changes]
        (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return tmp_path / "mine.jsonl"

    return make


@pytest.mark.parametrize("case", CASES)
def test_a_bad_record_stops_or_is_counted(case, source, tmp_path):
    changes, words = CASES[case]
    file = source(**changes)
    stopped = cli("prepare", "generic", "--source", file, "--out", tmp_path / "set")
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("sapo-vl: generic record 'mine-bad'")
    assert words in stopped.stderr
    assert "mine.jsonl, record 1" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "set").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    skipped = cli(
        *("prepare", "generic", "--source", file, "--out", tmp_path / "set"),
        *("--on-error", "skip", "--holdout", "0"),
    )
    assert skipped.returncode == 0, skipped.stderr
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert (report["read"], report["kept"]) == (2, {"train": 1})
    assert [drops["count"] for drops in report["dropped"].values()] == [1]


def test_a_wrong_column_is_named_with_its_neighbours(source, tmp_path):
    done = cli(
        *("prepare", "generic", "--source", source(), "--out", tmp_path / "set"),
        *("--map", "answer=anwser", "--on-error", "skip"),
    )
    assert done.returncode == 2
    assert "no column 'anwser' for answer; did you mean 'answer'?" in done.stderr
