"""R1-V's GeoQA rule, math-verify of the response against the gold. Runs in a pool worker only.

`verify` gets the response's parse as its first argument (the gold's place) as R1-V has it.
Timeouts are math-verify's own off: the pool kills a worker that takes too long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from sapo_vl.schema import Outcome, Sample, Verdict

MAX_CHARS = 8000
"""math-verify's expressions are quadratic in places; an answer stands near the end."""


def verdict(sample: Sample, response: str) -> Verdict:
    """Return math-verify's verdict, with its first reading of the response."""
    found = _parse(response[-MAX_CHARS:])
    correct = bool(verify(found, _parse(sample.answer), timeout_seconds=None)) if found else False
    shown = str(found[0])[:200] if found else None
    reason = f"math-verify: {shown!r} against {sample.answer!r}"
    return Verdict(Outcome.CORRECT if correct else Outcome.WRONG, float(correct), reason, shown)


@lru_cache(maxsize=256)
def _parse(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)
