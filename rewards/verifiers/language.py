"""Language mismatch penalty: the share of letters in a script that the problem does not use.

The score is the fault, 0 to 1, so give the term a negative weight. Scripts, not languages: it sees
Chinese in an answer to an English problem, it does not tell French from English. Formulas and
Latin letters never count, as every script's mathematics uses them.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from sapo_vl.schema import Outcome, Sample, Verdict

MIN_SHARE = 0.02  # a few foreign letters (names, quotations) are free
_MATHEMATICAL = {"LATIN", "GREEK", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK", "BLACK-LETTER"}
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "HANGUL"}


def score(sample: Sample, response: str) -> Verdict:
    """Return the share of letters in scripts that the problem does not use."""
    used = _scripts(sample.problem)
    found = _scripts(response)
    total = sum(found.values())
    foreign = sum(
        count
        for script, count in found.items()
        if script not in used and script not in _MATHEMATICAL
    )
    native = {script for script in used if script not in _MATHEMATICAL}
    if native and not native & found.keys() and found["LATIN"] > 40:
        foreign += found["LATIN"]  # a Latin answer to a problem in another script
    share = foreign / total if total else 0.0
    fault = share if share > MIN_SHARE else 0.0
    outcome = Outcome.WRONG if fault else Outcome.CORRECT
    return Verdict(outcome, fault, f"{share:.0%} of the letters are in another script")


def _scripts(text: str) -> Counter[str]:
    return Counter(script for char in text if char.isalpha() and (script := _script(char)))


@lru_cache(maxsize=8192)
def _script(char: str) -> str:
    name = unicodedata.name(char, "").split(" ")[0]
    return _TOGETHER.get(name, name)
