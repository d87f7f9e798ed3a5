"""Length penalty by correctness: a bonus for what a correct response leaves of the length limit.

The score is 1 - tokens / max_new_tokens where the rubric's first term is correct, and 0 elsewhere:
a short wrong response gains nothing, and a right one always earns more than a wrong one. The rubric
knows the first term's verdict and applies `if_correct`. Linear in the length, as the reward of L1
(arXiv 2503.04697) and the penalty of DAPO's overlong term are; not relative to the group as Kimi
k1.5's (arXiv 2501.12599), whose score of one response depends on the others.
"""

from __future__ import annotations

from sapo_vl.rewards.verifiers.overlong import CHARS_PER_TOKEN, DEFAULT_MAX_TOKENS
from sapo_vl.schema import Outcome, Sample, Verdict


def score(
    sample: Sample, response: str, tokens: int | None = None, max_tokens: int | None = None
) -> Verdict:
    """Return the share of `max_tokens` that a response of `tokens` tokens leaves, right or not."""
    limit = max_tokens or DEFAULT_MAX_TOKENS
    length = len(response) // CHARS_PER_TOKEN if tokens is None else tokens
    return Verdict(Outcome.CORRECT, max(0.0, 1 - length / limit), f"{length} of {limit} tokens")


def if_correct(verdict: Verdict, first: Verdict) -> Verdict:
    """Return `verdict` if that of the first term is correct, else a score of 0."""
    if first.outcome is Outcome.CORRECT:
        return verdict
    return Verdict(Outcome.WRONG, 0.0, "only correct responses are rewarded for their length")
