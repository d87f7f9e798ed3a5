"""EMMA (Hao et al., 2501.05444): 2,788 multimodal reasoning problems, or EMMA-mini's 400.

Prompt: the repository's chain-of-thought one with a box. Extraction: a lone letter, "X:", a
number, the last box, or what follows "final answer is" and its kin. Equal as text, or as numbers
with two decimals, to the answer or (multiple choice) to the option's text. Metric beside accuracy:
maj@n, the most common extraction of a problem's n responses, ties drawn with seed 42.

Oddities kept: two decimals, and the readable beginning as a number (latex_value.py). Stricter and
beside it: `same_text`.

    Hugging Face:    luckychao/EMMA or luckychao/EMMA-mini (parquet, one folder per subject)
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.evaluation.benchmarks import sources
from sapo_vl.evaluation.benchmarks.latex_value import rounded
from sapo_vl.evaluation.benchmarks.protocol import (
    SEED,
    Benchmark,
    Extraction,
    Judgement,
    Problem,
    Row,
    Scored,
    cell,
    lettered,
)
from sapo_vl.rewards.parsing.extract import last_box

_MARKS = re.compile(r"<image_(\d+)>")
MULTIPLE = (
    "Answer with the option's letter from the given choices and put the letter in one "
    '"\\boxed{}". '
)
OPEN = 'Answer the question using a single word or phrase and put the answer in one "\\boxed{}". '
THINK = "Please solve the problem step by step."
_FLAGS = ("final answer is", "correct answer is", "answer should be", "answer is")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def problems(source: Path) -> Iterator[Problem]:
    """Yield all subjects that are there."""
    folder = sources.find(source, "emma", ["**/test*.parquet"], "luckychao/EMMA-mini")
    for row in sources.read_parquet(folder, ["pid", "question", "options", "answer"], "test*"):
        name = f"emma {row['pid']}"
        options = lettered(sources.literal_list(row["options"] or [], name), name)
        images = {
            str(i): sources.embedded(row[f"image_{i}"], name)
            for i in range(1, 6)
            if row.get(f"image_{i}")
        }
        listed = "\n".join(f"{letter}: {text}" for letter, text in options.items())
        text = "\n".join(
            part
            for part in (row.get("context"), row["question"], listed)
            if part and str(part).strip()
        )
        prompt, shown = sources.place(
            f"{text}\n{MULTIPLE if options else OPEN}{THINK}", _MARKS, images
        )
        yield Problem(
            id=row["pid"],
            prompt=prompt,
            images=shown,
            gold=row["answer"],
            options=options,
            question=row["question"],
            question_type="multi_choice" if options else "free_form",
            meta={key: row.get(key) for key in ("subject", "category", "task")},
        )


def extract(row: Row, draw: random.Random) -> Extraction:
    """Return the official answer string."""
    text = row.text.strip()
    if re.fullmatch(r"[A-Za-z]", text) or _is_number(text):
        return Extraction(text)
    if re.fullmatch(r"[A-Z]:.*", text):
        return Extraction(text[0])
    if box := last_box(text).answer:
        return Extraction(_TEXT.sub(r"\1", box).strip())
    for flag in _FLAGS:
        if flag in text:
            tail = text.split(flag)[-1].strip()
            return Extraction(tail.split("\n")[0].split(". ")[0].strip().rstrip("."))
    return Extraction(text[-500:] or None, "no answer was marked: the response's end")


def judge(row: Row, value: Any) -> Judgement:
    """Compare with the answer and with the gold option's text."""
    gold, text = str(row.gold), str(value or "").strip()
    option = row.options.get(gold, "")
    texts = [known.strip().lower() for known in (gold, option) if known.strip()]
    same = text.lower() in texts
    number = rounded(text) if text else None
    close = number is not None and any(number == rounded(known) for known in texts)
    return Judgement(same or close, f"{text[:80]!r} against {gold!r}", {"same_text": same})


def aggregate(scored: Sequence[Scored]) -> dict[str, Any]:
    """Return maj@n over problems."""
    draw = random.Random(SEED)
    groups: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        groups[item.row.problem_id].append(item)
    verdicts = [_majority(group, draw) for group in groups.values()]
    return {"maj": cell(verdicts) | {"n": max(map(len, groups.values()), default=0)}}


def _majority(group: Sequence[Scored], draw: random.Random) -> bool | None:
    counts = Counter(str(item.extraction.value) for item in group)
    most = max(counts.values())
    chosen = draw.choice([text for text, count in counts.items() if count == most])
    return next(item.correct for item in group if str(item.extraction.value) == chosen)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


BENCHMARK = Benchmark(
    "emma", "EMMA", problems, extract, judge, tables=("subject", "category", "task"),
    aggregate=aggregate,
)  # fmt: skip
