"""Verifiers: what a response is worth, by a rule, a judge, or a function of yours.

A verifier is a function `score(sample: Sample, response: str) -> Verdict`. It never raises for what
the model wrote: a bad response is a `Verdict` with a score of 0 and a reason in words. It raises
for a fault of ours (a gold answer that cannot be read), and the rubric turns that into
`Outcome.NO_VERDICT`, which masks the response out of its group.

How to add one: write a file here, add its line to `VERIFIERS`, or keep the file outside the project
and name it in the config as `my/verifier.py:score`. Verifiers are imported when they are first
used, so importing this package imports neither torch nor sympy. docs/verifiers.md has the
conventions and what was measured.
"""

VERIFIERS: dict[str, str] = {
    "answer": "sapo_vl.rewards.verifiers.answer:score",  # by sample.answer_type
    "math": "sapo_vl.rewards.verifiers.maths:score",  # expressions, tuples, sets
    "choice": "sapo_vl.rewards.verifiers.choice:score",  # one letter or several
    "count": "sapo_vl.rewards.verifiers.count:score",  # exactly one whole number
    "boxes": "sapo_vl.rewards.verifiers.boxes:score",  # IoU matching, extra boxes cost
    "point": "sapo_vl.rewards.verifiers.point:score",  # one point inside a box or near a point
    "text": "sapo_vl.rewards.verifiers.text:score",  # folded words
    "boxed": "sapo_vl.rewards.verifiers.boxed:score",  # last \boxed{}, exact arithmetic only
    "judge": "sapo_vl.rewards.verifiers.judge:Judge",  # a model decides alone
    "answer_or_judge": "sapo_vl.rewards.verifiers.judge:Judge",  # rules first, then a judge
    "format": "sapo_vl.rewards.verifiers.format:score",  # think closed, one box
    "overlong": "sapo_vl.rewards.verifiers.overlong:score",  # near the limit (weight < 0)
    "repetition": "sapo_vl.rewards.verifiers.repetition:score",  # 4-grams (weight < 0)
    "language": "sapo_vl.rewards.verifiers.language:score",  # script (weight < 0)
    "random": "sapo_vl.rewards.verifiers.random_control:score",  # a control
}
"""Name in the config -> "module:function"."""

STAGED: dict[str, str] = {
    "answer": "sapo_vl.rewards.verifiers.answer:first_look",
    "math": "sapo_vl.rewards.verifiers.maths:first_look",
}
"""Verifiers that may leave a question for the worker pool, which the rubric asks in one batch."""

JUDGED = ("judge", "answer_or_judge")
FAULTS = ("overlong", "repetition", "language")
"""Their score says how bad it is, so their weight has to be negative."""

CHECK_GOLD = ("answer", "math", "choice", "count", "boxes", "point", "text", "boxed")
"""First terms under which every gold answer has to pass when it is put into a box."""
