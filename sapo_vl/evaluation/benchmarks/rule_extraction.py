"""Rule-based extraction for protocols that ask an LLM, when no endpoint is given.

Based on the training verifiers' extraction (rewards/): a box, a tag, a stated answer, the end of
the response. Results are labelled accordingly.
"""

from __future__ import annotations

import re

from sapo_vl.evaluation.benchmarks.protocol import Response
from sapo_vl.rewards.parsing.extract import answer_part, final_answer
from sapo_vl.rewards.parsing.latex import clean
from sapo_vl.rewards.verifiers import choice
from sapo_vl.rewards.verifiers.text import extract_text

_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?|[-+]?\.\d+")
_LIST = re.compile(r"\[[^\[\]]*\]")
MAX_DISTANCE_CHARS = 2000
IN_PLACE = "rule in place of the LLM"
"""Note of an extraction that the protocol asks an LLM for."""


def letters(response: Response) -> list[str]:
    """Return the choice letters that the response claims, sorted; empty when it claims none."""
    known = "".join(response.choices) or "ABCDEFGH"
    claimed, _ = choice.claim(response.text, known, tuple(response.choices.values()))
    return sorted(claimed)


def short_answer(response: Response) -> str:
    """Return a choice as `(X)`, a number, a list or words; empty when there is none."""
    if response.question_type in ("multi_choice", "multi-choice"):
        claimed = letters(response)
        if len(claimed) == 1:
            return f"({claimed[0]})"
        return "" if claimed else (extract_text(response.text).answer or "")
    if response.answer_type == "list":
        lists = _LIST.findall(answer_part(response.text) or "")
        return lists[-1] if lists else ""
    answer = final_answer(response.text).answer or ""
    if response.answer_type in ("integer", "float"):
        tail = answer_part(response.text) or ""
        numbers = _NUMBER.findall(clean(answer)) or _NUMBER.findall(tail)
        return numbers[-1].replace(",", "") if numbers else answer
    return answer


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance of the first `MAX_DISTANCE_CHARS` characters."""
    left, right = left[:MAX_DISTANCE_CHARS], right[:MAX_DISTANCE_CHARS]
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
