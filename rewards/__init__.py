"""Verifiers: score a response by a rule, by a judge model, or by a function of yours.

A verifier is a function `score(sample: Sample, response: str) -> Verdict`. It never raises for what
the model wrote: a bad response is a `Verdict` with a score of 0 and a reason. It raises for a fault
of ours (a gold answer that can't be read); the rubric turns that into `Outcome.NO_VERDICT`, which
masks the response out of its group.

To add one, write a file in verifiers/ and add its line to `VERIFIERS`, or keep the file outside the
project and name it in the config as `my/verifier.py:score`. Verifiers are imported on first use, so
importing this package imports neither torch nor sympy. docs/verifiers.md has the conventions and
the measurements.

    rubric.py     Rubric, build_rubric: a weighted sum of verifiers
    probe.py      tries each term on gold answers and on junk before a run
    verifiers/    one file per verifier
    parsing/      extracting, normalising and comparing answers
    pool/         worker processes for sympy and for user functions
"""

VERIFIERS: dict[str, str] = {
    "answer": "sapo_vl.rewards.verifiers.answer:score",  # by sample.answer_type
    "math": "sapo_vl.rewards.verifiers.maths:score",  # expressions, tuples, sets
    "choice": "sapo_vl.rewards.verifiers.choice:score",  # one letter or several
    "count": "sapo_vl.rewards.verifiers.count:score",  # exactly one whole number
    "boxes": "sapo_vl.rewards.verifiers.boxes:score",  # IoU matching, extra boxes cost
    "point": "sapo_vl.rewards.verifiers.point:score",  # one point inside a box or near a point
    "text": "sapo_vl.rewards.verifiers.text:score",  # case-folded words
    "boxed": "sapo_vl.rewards.verifiers.boxed:score",  # last \boxed{}, exact arithmetic only
    "judge": "sapo_vl.rewards.verifiers.judge:Judge",  # a model decides alone
    "answer_or_judge": "sapo_vl.rewards.verifiers.judge:Judge",  # rules first, then a judge
    "format": "sapo_vl.rewards.verifiers.format:score",  # think closed, one box
    "overlong": "sapo_vl.rewards.verifiers.overlong:score",  # near the limit (weight < 0)
    "shortness": "sapo_vl.rewards.verifiers.shortness:score",  # of correct responses
    "repetition": "sapo_vl.rewards.verifiers.repetition:score",  # 4-grams (weight < 0)
    "language": "sapo_vl.rewards.verifiers.language:score",  # script (weight < 0)
    "random": "sapo_vl.rewards.verifiers.random_control:score",  # a control
}
"""Name in the config -> "module:function"."""

DECIDE_FAST: dict[str, str] = {
    "answer": "sapo_vl.rewards.verifiers.answer:decide_fast",
    "math": "sapo_vl.rewards.verifiers.maths:decide_fast",
}
"""Verifiers that may need a worker: the rubric calls these and asks the pool in one batch."""

JUDGED = ("judge", "answer_or_judge")
"""Verifiers that ask the judge."""

PENALTIES = ("overlong", "repetition", "language")
"""Verifiers whose score measures a fault, so their weight has to be negative."""

IF_CORRECT = ("shortness",)
"""Verifiers whose score counts only where the first term is correct; a bonus, with weight > 0."""

CHECK_GOLD = ("answer", "math", "choice", "count", "boxes", "point", "text", "boxed")
"""Verifiers under which each gold answer, put into a box, has to be correct."""
