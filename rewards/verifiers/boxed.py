"""The last `\\boxed{}` after thinking against the gold answer: exact, fast, no symbolic algebra.

What exact arithmetic and the rules of equality.py can decide: `1/2`, `0.5` and `\\frac{1}{2}`
are equal, `(B)` is `B` for a choice, `\\{2,1\\}` is `1, 2`, words are compared folded. What needs
algebra (`\\sqrt{8}` and `2\\sqrt{2}`) counts as wrong here: the verifier `math` decides it. An
unclosed or empty last box is wrong, even when an earlier one is right.
"""

from __future__ import annotations

from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.rewards.verifiers import choice, maths
from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT with 1 when the last box says what `sample.answer` says, else WRONG with 0."""
    found = last_box(response)
    if found.answer is None:
        return Verdict(Outcome.WRONG, 0.0, found.reason)
    if sample.answer_type in ("choice", "multi_choice"):
        return choice.score(sample, f"\\boxed{{{found.answer}}}")
    looked = maths.compare(sample, found)
    if isinstance(looked, Verdict):
        return looked
    reason = f"{found.answer[:80]} is not exactly {sample.answer[:80]}"
    return Verdict(Outcome.WRONG, 0.0, reason, extracted=found.answer)
