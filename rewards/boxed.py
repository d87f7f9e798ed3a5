"""The last `\\boxed{}` after thinking against the gold answer: exact, fast, no symbolic algebra.

`1/2`, `0.5` and `\\frac{1}{2}` are equal; `(B)` is `B` for a choice; other text is compared folded
(unicode, case, blanks). An unclosed or empty last box is wrong, even when an earlier one is right.
"""

from __future__ import annotations

from sapo_vl.rewards.exact import same
from sapo_vl.rewards.extract import last_box
from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT with 1 when the last box says what `sample.answer` says, else WRONG with 0."""
    found = last_box(response)
    if found.answer is None:
        return Verdict(Outcome.WRONG, 0.0, found.reason)
    if same(sample.answer, found.answer, is_choice=sample.answer_type == "choice"):
        reason = f"{found.answer[:80]} equals {sample.answer[:80]}"
        return Verdict(Outcome.CORRECT, 1.0, reason, extracted=found.answer)
    reason = f"{found.answer[:80]} is not {sample.answer[:80]}"
    return Verdict(Outcome.WRONG, 0.0, reason, extracted=found.answer)
