"""AIME 2024/2025 and HMMT February 2024/2025, text only; layout and prompts of eth-sri/matharena.

Prompt: the problem and the `instruction` of the contest's config.yaml. Extraction: the last box.
AIME answers are whole numbers and compared as such; HMMT answers as mathematics, lists in any
order. The site reports the mean over four runs: `--samples 4`.

Six problems of AIME 2024 come with a figure, as asy code in the text: it stays there.

    original layout: SOURCE/data/aime/aime_2024_I/problems/1.tex, answers.csv, config.yaml
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks import sources, training_verifier
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    from_verdict,
    whole_gold,
)
from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.rewards.verifiers.count import whole_number


def _reader(name: str, folders: Sequence[str]) -> Callable[[Path], Iterator[Problem]]:
    def problems(source: Path) -> Iterator[Problem]:
        wanted = [f"data/{folder}/answers.csv" for folder in folders]
        root = next((f for f in (source, source / "aime_hmmt") if (f / wanted[0]).is_file()), None)
        root = root or sources.find(source, name, wanted)
        for folder in folders:
            yield from _contest(root / "data" / folder)

    return problems


def _contest(folder: Path) -> Iterator[Problem]:
    config = folder / "config.yaml"
    try:
        instruction = yaml.safe_load(config.read_text(encoding="utf-8"))["instruction"]
        with (folder / "answers.csv").open(encoding="utf-8", newline="") as lines:
            answers = {row["id"]: row["answer"] for row in csv.DictReader(lines)}
    except (OSError, KeyError, yaml.YAMLError) as error:
        raise DataError(f"{folder}: config.yaml or answers.csv can't be read: {error}") from error
    for number, gold in answers.items():
        file = folder / "problems" / f"{number}.tex"
        if not file.is_file():
            raise DataError(f"{folder.name} {number}: {file} is missing")
        text = file.read_text(encoding="utf-8").strip()
        yield Problem(
            id=f"{folder.name}-{number}",
            prompt=f"{_unescaped(instruction)}\n\n{text}",
            images=(),
            gold=gold,
            question=text,
            meta={"contest": folder.name},
        )


def _unescaped(instruction: str) -> str:
    """Undo the doubled braces of a format string."""
    return instruction.replace("{{", "{").replace("}}", "}")


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the inside of the last box."""
    box = last_box(row.text)
    return Extraction(box.answer, box.reason)


def judge_integer(row: Row, value: Any) -> Judgement:
    """Compare as whole numbers (the published golds have leading zeros)."""
    found = whole_number(str(value)) if value else None
    gold = whole_gold(row)
    return Judgement(found is not None and found == gold, f"{value!r} against {gold}")


def judge_maths(row: Row, value: Any) -> Judgement:
    """Compare as mathematics."""
    return (
        from_verdict(training_verifier.equal(row, str(value)))
        if value
        else Judgement(False, "no box")
    )


def _benchmark(
    name: str, title: str, folders: Sequence[str], judge: Callable[[Row, Any], Judgement]
) -> Benchmark:
    return Benchmark(name, title, _reader(name, folders), extract, judge, tables=("contest",))


AIME24, AIME25 = (
    _benchmark(
        f"aime{y}", f"AIME 20{y}", [f"aime/aime_20{y}_I", f"aime/aime_20{y}_II"], judge_integer
    )
    for y in (24, 25)
)
HMMT24, HMMT25 = (
    _benchmark(f"hmmt{y}", f"HMMT February 20{y}", [f"hmmt/hmmt_feb_20{y}"], judge_maths)
    for y in (24, 25)
)
