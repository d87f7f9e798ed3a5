"""MathVerse (Zhang et al., 2403.14624): 788 problems in six versions; ZrrSkywalker/MathVerse.

Prompt: the data set's own `query_cot`. An LLM extracts the answer and an LLM judges it; without an
endpoint the training verifiers do both, and the result is labelled. Other rules: `quick_match`, the
repository's own text equality, and with an endpoint `by_rule`, the verifiers' verdict. The format
of the website's explorer is read too; its prompt lists the choices.

Accuracy is the paper's "w/o" score; CoT-E, which needs GPT-4V, is left out. Five versions have an
image, Text Only has none. Oddity: in 25 of the explorer's 121 problems the answer's text differs
between versions, and some answers have two letters.
"""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

from sapo_vl.data.readers.published import Published
from sapo_vl.data.sources import mathverse
from sapo_vl.evaluation.benchmarks import rule_extraction
from sapo_vl.evaluation.benchmarks.protocol import (
    Benchmark,
    ExtractedAnswer,
    Judgement,
    Response,
    from_verdict,
)
from sapo_vl.evaluation.benchmarks.rows import (
    letter_gold,
    letters_gold,
    require,
    single_gold,
    unscorable,
)
from sapo_vl.evaluation.benchmarks.training_verifier import equal
from sapo_vl.schema import IMAGE_MARK, Sample

_LETTER = re.compile(r"\b[A-Z]\b")
QUESTION_TYPES = ("multi-choice", "free-form")
_ASK = {  # by whether there are choices
    True: "provide the correct option letter, e.g., A, B, C, D, at the end.",
    False: "provide the final value, e.g., 1, 2.5, 300, at the end.",
}


def prompt(sample: Sample) -> str:
    """Return the data set's `query_cot`, or one like it for a problem of the website."""
    published: Published = sample.metadata["published"]
    marks = IMAGE_MARK * len(sample.images)
    if "choice_text" not in published:
        if published["query"] is None:
            raise KeyError("query_cot")
        return marks + published["query"]
    listed = f"\nChoices:\n{published['choice_text']}" if published["choice_text"] else ""
    ask = f"Please first conduct reasoning, and then answer the question and {_ASK[bool(listed)]}"
    return f"{marks}{ask}\nQuestion: {published['question']}{listed}"


def check(response: Response) -> Response:
    """Require the type of question, which decides the rule; a choice's gold has a letter."""
    require(response, "question_type", QUESTION_TYPES)
    if response.question_type == "free-form" or response.unscorable:
        return single_gold(response)
    one = letter_gold(response) if response.choices else response
    found = letters_gold(response) if one.unscorable or not response.choices else one
    if not _LETTER.search(found.answer):
        return unscorable(found, f"the gold {found.answer[:80]!r} of a choice has no letter")
    return found


def extract(response: Response, draw: random.Random) -> ExtractedAnswer:
    """Return letters or a short answer, by rule_extraction.py."""
    if response.question_type == "multi-choice":
        claimed = "\n".join(rule_extraction.letters(response))
        return ExtractedAnswer(claimed or None, rule_extraction.IN_PLACE)
    return ExtractedAnswer(rule_extraction.short_answer(response) or None, rule_extraction.IN_PLACE)


def judge(response: Response, value: Any) -> Judgement:
    """Compare a letter as text, a free answer as mathematics."""
    quick = value is not None and str(value).strip() == str(response.answer).strip()
    reason, others = f"{value!r} against {response.answer!r}", {"quick_match": quick}
    if quick or value is None:
        return Judgement(quick, reason, others)
    if response.question_type == "multi-choice":
        letters = [set(_LETTER.findall(str(text))) for text in (value, response.answer)]
        return Judgement(letters[0] == letters[1] != set(), reason, others)
    return from_verdict(equal(response, str(value)), quick_match=quick)


BENCHMARK = Benchmark(
    name="mathverse",
    title="MathVerse (w/o)",
    rows=partial(mathverse.rows, one_release=True),
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=("data/testmini.json", "data/testmini_text_only.json", mathverse.WEBSITE),
    hub="AI4Math/MathVerse",
    tables=("problem_version", "subject", "subfield", ("problem_version", "subject")),
    llm=True,
    llm_judge=True,
)
