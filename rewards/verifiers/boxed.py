"""The last `\\boxed{}` after thinking against the gold answer: exact, fast, no symbolic algebra.

Decides what exact arithmetic and the rules of equality.py can: `1/2`, `0.5` and `\\frac{1}{2}`
are equal, `(B)` is `B` for a choice, `\\{2,1\\}` is `1, 2`, words are compared case-folded. An
answer that needs algebra (`\\sqrt{8}` for `2\\sqrt{2}`) is wrong here; the verifier `math` decides
it. An unclosed or empty last box is wrong, even when an earlier box is right.
"""

from __future__ import annotations

from sapo_vl.rewards.parsing.extract import last_box
from sapo_vl.rewards.verifiers import choice, maths
from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT with 1 when the last box equals `sample.answer`, else WRONG with 0."""
    box = last_box(response)
    if box.answer is None:
        return Verdict(Outcome.WRONG, 0.0, box.reason)
    if sample.answer_type in ("choice", "multi_choice"):
        return choice.score(sample, f"\\boxed{{{box.answer}}}")
    result = maths.compare(sample, box)
    if isinstance(result, Verdict):
        return result
    reason = f"{box.answer[:80]} is not exactly {sample.answer[:80]}"
    return Verdict(Outcome.WRONG, 0.0, reason, extracted=box.answer)
