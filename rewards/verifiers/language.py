"""Language mismatch penalty: the share of letters in a script that the problem does not use.

The score measures the fault, 0 to 1, so give the term a negative weight. It compares scripts, not
languages: it detects Chinese in an answer to an English problem, but not French. Formulas and Latin
letters are free, as mathematics in every script uses them; the exception is a response with more
than 40 Latin letters and none of the problem's own script.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

from sapo_vl.schema import Outcome, Sample, Verdict

MIN_SHARE = 0.02  # a few foreign letters (names, quotations) cost nothing
_MATHEMATICAL = {"LATIN", "GREEK", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK", "BLACK-LETTER"}
_MERGED = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "HANGUL"}


def score(sample: Sample, response: str) -> Verdict:
    """Return the share of letters in scripts that the problem does not use; 0 below MIN_SHARE."""
    expected = _count_scripts(sample.problem)
    scripts = _count_scripts(response)
    total = sum(scripts.values())
    foreign = sum(
        count
        for script, count in scripts.items()
        if script not in expected and script not in _MATHEMATICAL
    )
    native = {script for script in expected if script not in _MATHEMATICAL}
    if native and not native & scripts.keys() and scripts["LATIN"] > 40:
        foreign += scripts["LATIN"]  # a Latin answer to a problem in another script
    share = foreign / total if total else 0.0
    fault = share if share > MIN_SHARE else 0.0
    outcome = Outcome.WRONG if fault else Outcome.CORRECT
    return Verdict(outcome, fault, f"{share:.0%} of the letters are in another script")


def _count_scripts(text: str) -> Counter[str]:
    return Counter(script for char in text if char.isalpha() and (script := _script(char)))


@lru_cache(maxsize=8192)
def _script(char: str) -> str:
    name = unicodedata.name(char, "").split(" ")[0]
    return _MERGED.get(name, name)
