"""Verifiers: what a response is worth, by a rule, a judge, or a function of yours.

A verifier is a function `score(sample: Sample, response: str) -> Verdict`. It never raises for what
the model wrote: a bad response is a `Verdict` with a score of 0 and a reason in words. It raises
for a fault of ours (a gold answer that cannot be read), and the rubric turns that into
`Outcome.NO_VERDICT`, which masks the response out of its group.

How to add one: write a file here, add its line to `VERIFIERS`, or keep the file outside the project
and name it in the config as `my/verifier.py:score`. Verifiers are imported when they are first
used, so importing this package imports neither torch nor sympy.
"""

VERIFIERS: dict[str, str] = {
    "boxed": "sapo_vl.rewards.boxed:score",  # last \boxed{} against the gold answer, exactly
    "format": "sapo_vl.rewards.format:score",  # thinking closed, then exactly one filled box
    "random": "sapo_vl.rewards.chance:score",  # control experiment: a reward that knows nothing
}
"""Name in the config -> "module:function"."""
