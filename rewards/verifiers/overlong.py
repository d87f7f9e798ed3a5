"""Soft overlong penalty: a response near the length limit loses up to the term's whole weight.

As in DAPO (arXiv 2503.14476, eq. 13) the penalty grows linearly over the last `BUFFER` of the
limit. The score measures the fault, 0 (short enough) to 1 (at the limit), so give the term a
negative weight.
"""

from __future__ import annotations

from sapo_vl.schema import Outcome, Sample, Verdict

BUFFER = 0.25  # share of the limit over which the penalty grows (the paper: 4096 of 20480 tokens)
CHARS_PER_TOKEN = 4  # estimate for a caller without token counts
DEFAULT_MAX_TOKENS = 2048


def score(
    sample: Sample, response: str, tokens: int | None = None, max_tokens: int | None = None
) -> Verdict:
    """Return the penalty of a response of `tokens` tokens under a limit of `max_tokens`."""
    limit = max_tokens or DEFAULT_MAX_TOKENS
    length = len(response) // CHARS_PER_TOKEN if tokens is None else tokens
    start = (1 - BUFFER) * limit
    fault = min(1.0, max(0.0, (length - start) / (limit - start)))
    outcome = Outcome.WRONG if fault else Outcome.CORRECT
    return Verdict(outcome, fault, f"{length} of {limit} tokens")
