"""The preparation cases of ../shared/cases/data, one expectation each: read right, or refused.

`manifest.json` says in words what is right for a case; `EXPECTED` says it as a check. A case that
is in the manifest and not here fails.
"""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED

from sapo_vl.cli.gold_check import GoldCheck
from sapo_vl.data import images, store
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.report import Report
from sapo_vl.errors import DataError
from sapo_vl.rewards.verifiers import answer
from sapo_vl.schema import Sample

CASES = SHARED / "cases" / "data"
pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason="the preparation cases ../shared/cases/data are not here"
)


@dataclass
class Outcome:
    """What a preparation of a case gave: samples and report, or the line it was refused with."""

    samples: list[Sample]
    report: Report | None
    refusal: str = ""

    @property
    def golds(self) -> list[tuple[str, str]]:
        return [(s.answer, s.answer_type) for s in self.samples]


def prepared(command: str, source: Path, out: Path, on_error: str = "stop") -> Outcome:
    words = shlex.split(command)
    options = dict(zip(words[1::2], words[2::2], strict=True))
    with closing(GoldCheck("answer")) as check:
        try:
            report = prepare(
                words[0],
                PrepareOptions(
                    out,
                    source=source,
                    holdout=0,
                    columns=options.get("--map", ""),
                    on_error=options.get("--on-error", on_error),
                ),
                check=check,
            )
        except DataError as error:
            return Outcome([], None, str(error))
    return Outcome(list(store.iter_samples(out)), report)


def shown(data: bytes) -> np.ndarray:
    return np.asarray(images.open_image(data)).astype(int)


def case_picture(case: str, name: str) -> bytes:
    return (CASES / case / name).read_bytes()


def _pictures(case: str, *names: str):
    """All pictures of the one sample are the named files, each at its mark."""

    def check(outcome: Outcome) -> None:
        (sample,) = outcome.samples
        assert list(sample.images) == [case_picture(case, name) for name in names]
        assert sample.problem.count("<image>") == len(names)

    return check


def _golds(*golds: tuple[str, str]):
    def check(outcome: Outcome) -> None:
        assert not outcome.refusal
        assert outcome.golds == list(golds)

    return check


def _refused(*words: str):
    def check(outcome: Outcome) -> None:
        assert outcome.refusal
        assert "\n" not in outcome.refusal
        for word in words:
            assert word in outcome.refusal

    return check


def _one_picture_and_no_foreign_mark(outcome: Outcome) -> None:
    assert not outcome.refusal
    for sample in outcome.samples:
        assert len(sample.images) == 1
        rest = sample.problem.replace("<image>", "")
        assert "<" not in rest
        assert "|>" not in rest


def _base64_part(outcome: Outcome) -> None:
    (sample,) = outcome.samples
    assert shown(sample.images[0]).shape == (64, 64, 3)


def _first_exchange(outcome: Outcome) -> None:
    (sample,) = outcome.samples
    assert (sample.problem, sample.answer) == ("<image>\nHow many dots?", "1")
    assert sample.images == (case_picture("multi-turn", "a.png"),)
    assert outcome.report is not None
    assert sum(n for what, n in outcome.report.notes.items() if "later turns" in what) == 1


def _second_of_two(outcome: Outcome) -> None:
    (sample,) = outcome.samples
    assert list(sample.images) == [case_picture("marks-from-zero", n) for n in ("a.png", "b.png")]
    assert sample.problem.startswith("<image> shows one figure. <image> shows another.")
    assert sample.problem.endswith("How many dots has image 2?")


def _two_binary(outcome: Outcome) -> None:
    assert [shown(s.images[0]).shape for s in outcome.samples] == [(64, 64, 3)] * 2


def _choices_of_columns(outcome: Outcome) -> None:
    one, two, three = outcome.samples
    assert (one.choices, one.answer) == (("2", "3", "4", "5"), "B")
    assert (two.choices, two.answer) == (("yes", "no"), "A")
    assert (three.choices, three.answer) == (("red", "black"), "B")
    assert three.images == one.images


def _numpy_choices(outcome: Outcome) -> None:
    assert [s.choices for s in outcome.samples] == [("sky", "blood", "grass")] * 2


def _null_words(outcome: Outcome) -> None:
    assert outcome.golds == [("5", "number")]
    assert outcome.report is not None
    assert outcome.report.dropped["the gold answer is empty"].count == 5


def _escapes(outcome: Outcome) -> None:
    assert [gold for gold, _ in outcome.golds] == [r"\frac{1}{2}", r"5\times 10^{3}", r"\beta"]
    assert outcome.report is not None
    assert sum(n for what, n in outcome.report.notes.items() if "backslash" in what) == 3


def _verdicts(case: str):
    def check(outcome: Outcome) -> None:
        assert not outcome.refusal
        samples = {s.id.rpartition("-")[2]: s for s in outcome.samples}
        lines = (CASES / case / "responses.jsonl.txt").read_text().splitlines()
        wrong = []
        for row in map(json.loads, lines):
            verdict = answer.score(samples[row["id"]], row["response"])
            if (verdict.score == 1) is not row["expected_equal"]:
                wrong.append((row["id"], row["response"], verdict.reason))
        assert wrong == []

    return check


def _typed(outcome: Outcome) -> None:
    assert "text" not in {kind for _, kind in outcome.golds}
    _verdicts("gold-typed-text")(outcome)


EXPECTED = {
    "chat-part-path": _pictures("chat-part-path", "a.png", "b.png"),
    "chat-part-base64": _base64_part,
    "chat-image-object": _pictures("chat-image-object", "a.png", "b.png"),
    "chat-foreign-mark": _one_picture_and_no_foreign_mark,
    "mark-qwen": _one_picture_and_no_foreign_mark,
    "mark-img-tag": _one_picture_and_no_foreign_mark,
    "mark-imgpad": _one_picture_and_no_foreign_mark,
    "grounding-placeholders": _refused("<ref-object>"),
    "video-mark": _refused("video"),
    "video-generic": _refused("video"),
    "multi-turn": _first_exchange,
    "marks-numbered": _pictures("marks-numbered", "a.png", "b.png"),
    "marks-from-zero": _second_of_two,
    "marks-fewer": _pictures("marks-fewer", "a.png", "b.png"),
    "images-nested": _pictures("images-nested", "a.png", "b.png"),
    "images-int-list": _two_binary,
    "images-nopad": _two_binary,
    "images-http": _refused("download it first"),
    "gold-index-numeric-choices": _golds(*[("B", "choice")] * 3),
    "gold-index-from-one": _golds(("B", "choice"), ("A", "choice"), ("C", "choice")),
    "gold-worked-gsm8k": _golds(("7", "number"), ("5", "number")),
    "gold-worked-math": _golds(("5", "number"), ("7", "number")),
    "gold-chat-sentence": _golds(("1", "number")),
    "gold-escapes": _escapes,
    "gold-null-words": _null_words,
    "choices-numpy": _numpy_choices,
    "choices-columns": _choices_of_columns,
    "choices-empty-entries": _refused("a choice is empty"),
    "jsonl-named-json": _golds(*((n, "number") for n in "123")),
    "jsonl-gz": _golds(("2", "number")),
    "saved-to-disk": _golds(("2", "number")),
    "shards-schemas": _golds(("2", "number"), ("3", "number")),
    "parquet-decimal-date": _golds(("2.50", "number")),
    "ids-twice": _refused("n1", "the id is repeated", "--map id="),
    "csv-utf16": _refused("not UTF-8"),
    "csv-bom": _golds(("2", "number")),
    "gold-typed-text": _typed,
    "gold-colon-hyphen": _verdicts("gold-colon-hyphen"),
}

MANIFEST = json.loads((CASES / "manifest.json").read_text()) if CASES.is_dir() else []


@pytest.mark.parametrize("case", MANIFEST, ids=lambda case: case["case"])
def test_case(case, tmp_path):
    command = (
        case["command"].partition(",")[0] if "verifier" in case["command"] else case["command"]
    )
    outcome = prepared(command, CASES / case["case"], tmp_path / "set")
    EXPECTED[case["case"]](outcome)


def _ramp(outcome: Outcome) -> None:
    """The picture's greys rise over most of the range, and that is counted."""
    grey = shown(outcome.samples[0].images[0])[..., 0]
    assert grey.min() < 20
    assert grey.max() > 235
    assert len(np.unique(grey)) > 40
    assert outcome.report is not None
    assert any("grey" in change for change in outcome.report.changed)


def _counted(*words: str):
    def check(outcome: Outcome) -> None:
        assert outcome.report is not None, outcome.refusal
        assert len(outcome.samples) == 1
        for word in words:
            assert any(word in change for change in outcome.report.changed), outcome.report.changed

    return check


def _white_stays_white(outcome: Outcome) -> None:
    assert shown(outcome.samples[0].images[0]).max() > 245


def _strokes(outcome: Outcome) -> None:
    grey = shown(outcome.samples[0].images[0])
    assert grey.min() < 30
    assert grey.max() == 255


def _upright(outcome: Outcome) -> None:
    assert shown(outcome.samples[0].images[0]).shape[:2] == (96, 64)


PICTURES = {
    "00-rgb.png": _counted(),
    "01-cmyk.jpg": _white_stays_white,
    "02-mpo.jpg": _counted(),
    "03-a.avif": _refused("AVIF"),
    "04-ico.ico": _refused("ICO"),
    "05-svg.svg": _refused("SVG"),
    "06-html.jpg": _refused("HTML"),
    "07-lfs.png": _refused("Git LFS"),
    "08-empty.png": _refused("empty"),
    "09-grey16.png": _ramp,
    "10-grey12in16.png": _ramp,
    "11-int32.tiff": _ramp,
    "12-float.tiff": _refused("floating-point"),
    "13-la.png": _strokes,
    "14-white_on_clear.png": _counted("one colour"),
    "15-all_clear.png": _counted("one colour"),
    "16-pal_transparent.png": _counted("transparent"),
    "17-one_bit.png": _counted(),
    "18-anim.gif": _counted("animation"),
    "19-anim.webp": _counted("animation"),
    "20-apng.png": _counted("animation"),
    "21-pages.tiff": _counted("animation"),
    "22-cut.jpg": _refused("cut.jpg"),
    "23-tail.jpg": _counted(),
    "24-cut.png": _refused("cut.png"),
    "25-one.png": _counted("under 32 pixels"),
    "26-row.png": _counted("under 32 pixels"),
    "27-row201.png": _refused("200:1"),
    "28-tall.png": _counted(),
    "29-turned.jpg": _upright,
    "30-bomb.png": _refused("bomb.png", "claims"),
    "31-jp2.jp2": _counted(),
}

ROWS = (
    [line.split("\t") for line in (CASES / "pictures" / "EXPECTED.tsv").read_text().splitlines()]
    if CASES.is_dir()
    else []
)


@pytest.mark.parametrize("file", [row[0] for row in ROWS])
def test_picture(file, tmp_path):
    outcome = prepared("generic", CASES / "pictures" / file, tmp_path / "set")
    PICTURES[file.removesuffix(".jsonl")](outcome)
