"""AIME and HMMT: competition problems of 2024 and 2025, a few with figures (MathArena; MIT).

    original layout: SOURCE/[data/]aime/aime_2024_I/problems/1.tex, answers.csv, config.yaml and
                     images/problem_5.png; SOURCE/[data/]hmmt/hmmt_feb_2025/...
    Hugging Face:    SOURCE = MathArena/aime_2025 (columns problem_idx, problem, answer)

One problem (1.tex, and its line of answers.csv):

    Every morning Aya goes for a $9$-kilometer-long walk and stops at a coffee shop afterwards. ..
    1,204

An AIME answer is an integer from 0 to 999 and loses its leading zeros (025 is 25). A problem with
an image loses its Asymptote code (<asy>..</asy>), which would describe the figure in words.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import yaml

from sapo_vl.data import Dropped
from sapo_vl.data.readers import hub
from sapo_vl.data.readers.image_refs import SourceFile, file_names, load_images
from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.source_rows import to_samples
from sapo_vl.data.readers.tables import Row
from sapo_vl.data.readers.text import cell_text, gold_type, prepend_marks
from sapo_vl.errors import DataError
from sapo_vl.schema import Sample

_ASY = re.compile(r"\s*(?:<asy>.*?</asy>|\[asy\].*?\[/asy\])\s*", re.DOTALL)


def rows(
    source: str | Path, contests: Sequence[str] = (), *, text_only: bool = False
) -> Iterator[Sample | Dropped]:
    """Yield the problems of the named contests (all by default); all are held out.

    `text_only` leaves images out and figures in the text, as Asymptote code.

    Raises:
        DataError: `source` has neither layout, a contest is missing, or a problem has no answer in
            answers.csv.
    """
    folders = {p.parent.name: p.parent for p in sorted(Path(source).rglob("answers.csv"))}
    missing = [name for name in contests if folders and name not in folders]
    if missing:
        raise DataError(f"aime_hmmt: {source} has no {missing[0]}/answers.csv")
    chosen = [folders[name] for name in contests or folders] if folders else []
    records = chain.from_iterable(map(_local, chosen)) if folders else _from_hub(str(source))
    if text_only:
        records = (row | {"image": None} for row in records)
    yield from to_samples(records, _name, _sample)


def _name(row: Row) -> str:
    return f"{row['contest']}-{row['problem_idx']}"


def _sample(row: Row) -> Sample:
    images = load_images(row["image"])
    answer = cell_text(row["answer"])
    aime = row["contest"].startswith("aime")
    if aime:
        answer = str(int(answer))
    published: Published = {
        "problem_id": _name(row),
        "answer": row["answer"],
        "question": row["problem"].strip(),
        "instruction": row.get("instruction"),
        "tables": {"contest": row["contest"]},
    }
    problem = _ASY.sub("\n", row["problem"]).strip() if images else row["problem"].strip()
    return Sample(
        id=_name(row),
        dataset="aime_hmmt",
        task=row["contest"],
        problem=prepend_marks(problem, len(images)),
        images=images,
        answer=answer,
        answer_type="number" if aime else gold_type(answer),
        split="test",
        metadata={
            "number": int(row["problem_idx"]),
            "published": published,
            "files": file_names(row["image"]),
        },
    )


def _local(contest: Path) -> Iterator[Row]:
    with (contest / "answers.csv").open(encoding="utf-8", newline="") as lines:
        answers = {line["id"]: line["answer"] for line in csv.DictReader(lines)}
    config = contest / "config.yaml"
    instruction = None
    if config.is_file():
        instruction = yaml.safe_load(config.read_text(encoding="utf-8")).get("instruction")
    for file in sorted((contest / "problems").glob("*.tex"), key=lambda p: int(p.stem)):
        if file.stem not in answers:
            raise DataError(f"{contest / 'answers.csv'}: no answer to problem {file.stem}")
        figure = SourceFile(contest / "images", f"problem_{file.stem}.png")
        yield {
            "contest": contest.name,
            "problem_idx": file.stem,
            "problem": file.read_text(encoding="utf-8"),
            "answer": answers[file.stem],
            "instruction": instruction,
            "image": figure if (figure.folder / figure.name).is_file() else None,
        }


def _from_hub(source: str) -> Iterator[Row]:
    for row in hub.rows(source, ("train",)):
        yield row | {"contest": Path(source).name, "image": row.get("image")}
