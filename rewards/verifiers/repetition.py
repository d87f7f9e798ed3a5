"""Repetition penalty: the share of word 4-grams that occur earlier in the response.

The score measures the fault, 0 (no repetition) to 1, so give the term a negative weight. Scripts
without blanks are split into characters. Follows the repetition reward of "Demystifying long
chain-of-thought reasoning" (arXiv 2502.03373), with a plain share instead of a learned weight.
"""

from __future__ import annotations

import re

from sapo_vl.schema import Outcome, Sample, Verdict

N = 4
FREE_SHARE = 0.2  # ordinary working repeats itself this much
MAX_WORDS = 20_000
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W_]+|[^\w\s]")


def score(sample: Sample, response: str) -> Verdict:
    """Return the share of repeated 4-grams above FREE_SHARE, scaled to [0, 1]."""
    words = _WORD.findall(response.casefold())[:MAX_WORDS]
    grams = [tuple(words[i : i + N]) for i in range(len(words) - N + 1)]
    if not grams:
        return Verdict(Outcome.CORRECT, 0.0, "too short to repeat")
    repeated = 1 - len(set(grams)) / len(grams)
    fault = max(0.0, (repeated - FREE_SHARE) / (1 - FREE_SHARE))
    outcome = Outcome.WRONG if fault else Outcome.CORRECT
    return Verdict(outcome, fault, f"{repeated:.0%} of the {N}-grams are repeated")
