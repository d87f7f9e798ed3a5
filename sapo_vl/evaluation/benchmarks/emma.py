"""EMMA (Hao et al., 2501.05444): 2,788 multimodal reasoning problems, or EMMA-mini's 400.

Prompt: the repository's, with a chain of thought and a box. Extraction: a lone letter, "X:", a
number, the last box, or the text after "final answer is" and similar phrases. Equal as text, or as
numbers with two decimals, to the answer or (multiple choice) to the text of its choice. Metric
besides accuracy: maj@n, the most common extraction of a problem's n responses, ties drawn with
seed 42.

Oddities kept: two decimals, and the readable beginning of a text as its number (latex_value.py).
Stricter rule: `same_text`.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.readers.text import MarkedText, choices_by_letter
from sapo_vl.data.sources import emma
from sapo_vl.evaluation.benchmarks.accuracy import cell
from sapo_vl.evaluation.benchmarks.latex_value import rounded
from sapo_vl.evaluation.benchmarks.protocol import (
    SEED,
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    ScoredResponse,
    mark_images,
)
from sapo_vl.evaluation.benchmarks.rows import choice_gold
from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.schema import Sample

MULTIPLE = (
    "Answer with the option's letter from the given choices and put the letter in one "
    '"\\boxed{}". '
)
OPEN = 'Answer the question using a single word or phrase and put the answer in one "\\boxed{}". '
THINK = "Please solve the problem step by step."
_FLAGS = ("final answer is", "correct answer is", "answer should be", "answer is")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def prompt(sample: Sample) -> MarkedText:
    """Return context, question and choices, then the request for a box and a chain of thought."""
    published: Published = sample.metadata["published"]
    choices = choices_by_letter(published["choices"])
    listed = "\n".join(f"{letter}: {text}" for letter, text in choices.items())
    parts = (published["context"], published["question"], listed)
    text = "\n".join(part for part in parts if part and part.strip())
    return mark_images(f"{text}\n{MULTIPLE if choices else OPEN}{THINK}", sample)


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return the official extraction."""
    text = response.text.strip()
    if re.fullmatch(r"[A-Za-z]", text) or _is_number(text):
        return ExtractedAnswer(text)
    if re.fullmatch(r"[A-Z]:.*", text):
        return ExtractedAnswer(text[0])
    if box := last_box(text).answer:
        return ExtractedAnswer(_TEXT.sub(r"\1", box).strip())
    for flag in _FLAGS:
        if flag in text:
            tail = text.split(flag)[-1].strip()
            return ExtractedAnswer(tail.split("\n")[0].split(". ")[0].strip().rstrip("."))
    return ExtractedAnswer(text[-500:] or None, "no marked answer: the end of the response")


def judge(response: Response, value: Any) -> Judgement:
    """Compare with the answer and with the text of its choice."""
    expected, text = str(response.answer), str(value or "").strip()
    choice = response.choices.get(expected, "")
    texts = [known.strip().lower() for known in (expected, choice) if known.strip()]
    same = text.lower() in texts
    number = rounded(text) if text else None
    close = number is not None and any(number == rounded(known) for known in texts)
    return Judgement(same or close, f"{text[:80]!r} against {expected!r}", {"same_text": same})


def aggregate(scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """Return maj@n over problems."""
    draw = random.Random(SEED)
    groups: dict[str, list[ScoredResponse]] = defaultdict(list)
    for item in scored:
        groups[item.response.problem_id].append(item)
    verdicts = [(name, _majority(group, draw)) for name, group in groups.items()]
    return {"maj": cell(verdicts) | {"n": max(map(len, groups.values()), default=0)}}


def _majority(group: Sequence[ScoredResponse], draw: random.Random) -> bool | None:
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
    name="emma",
    title="EMMA",
    rows=partial(emma.rows, subjects=sorted(emma.SUBJECTS)),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=choice_gold,
    files=("**/test*.parquet",),
    hub="luckychao/EMMA-mini",
    tables=("subject", "category", "task"),
    aggregate=aggregate,
)
