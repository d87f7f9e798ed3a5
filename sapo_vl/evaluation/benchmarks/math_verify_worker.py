"""R1-V's GeoQA rule: math-verify on the response and the answer. Runs in a pool worker only.

As in R1-V, `verify` gets the response's parse as its first argument, which is the answer's place.
math-verify's own timeouts are off: the pool kills a worker that takes too long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from sapo_vl.schema import Outcome, Sample, Verdict

MAX_CHARS = 8000
"""Characters parsed, from the end: math-verify's regular expressions are partly quadratic."""


def verdict(sample: Sample, response: str) -> Verdict:
    """Return math-verify's verdict; `extracted` is its first reading of the response."""
    parsed = _parse(response[-MAX_CHARS:])
    correct = bool(verify(parsed, _parse(sample.answer), timeout_seconds=None)) if parsed else False
    shown = str(parsed[0])[:200] if parsed else None
    reason = f"math-verify: {shown!r} against {sample.answer!r}"
    return Verdict(Outcome.CORRECT if correct else Outcome.WRONG, float(correct), reason, shown)


@lru_cache(maxsize=256)
def _parse(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)
