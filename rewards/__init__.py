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
    "answer": "sapo_vl.rewards.answer:score",  # the rule for sample.answer_type: the usual choice
    "math": "sapo_vl.rewards.maths:score",  # numbers, expressions, equations, tuples, sets
    "choice": "sapo_vl.rewards.choice:score",  # one letter or several
    "count": "sapo_vl.rewards.count:score",  # exactly one whole number
    "boxes": "sapo_vl.rewards.boxes:score",  # IoU matching, extra boxes cost
    "point": "sapo_vl.rewards.point:score",  # one point inside a box or near a point
    "text": "sapo_vl.rewards.text:score",  # folded words
    "boxed": "sapo_vl.rewards.boxed:score",  # last \boxed{}, exact arithmetic only
    "judge": "sapo_vl.rewards.judge:Judge",  # a model decides alone
    "answer_or_judge": "sapo_vl.rewards.judge:Judge",  # rules first; the judge where they say no
    "format": "sapo_vl.rewards.format:score",  # thinking closed, then exactly one filled box
    "overlong": "sapo_vl.rewards.overlong:score",  # fault: near the length limit (weight < 0)
    "repetition": "sapo_vl.rewards.repetition:score",  # fault: repeated 4-grams (weight < 0)
    "language": "sapo_vl.rewards.language:score",  # fault: another script (weight < 0)
    "random": "sapo_vl.rewards.chance:score",  # control experiment: a reward that knows nothing
}
"""Name in the config -> "module:function"."""

STAGED: dict[str, str] = {
    "answer": "sapo_vl.rewards.answer:first_look",
    "math": "sapo_vl.rewards.maths:first_look",
}
"""Verifiers that may leave a question for the worker pool, which the rubric asks in one batch."""

JUDGED = ("judge", "answer_or_judge")
FAULTS = ("overlong", "repetition", "language")
"""Their score says how bad it is, so their weight has to be negative."""

CHECK_GOLD = ("answer", "math", "choice", "count", "boxes", "point", "text", "boxed")
"""First terms under which every gold answer has to pass when it is put into a box."""
