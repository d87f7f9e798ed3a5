"""The check of gold answers that `sapo-vl prepare --verifier` runs."""

from __future__ import annotations

import re

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.gold import read_gold
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Outcome, Sample

_VALUE = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?![\d./^])")
"""The number that a quantity begins with."""


def bare_value(sample: Sample) -> str | None:
    """Return the number of a gold of the type text that is a number with a unit; None for others.

    A gold of another type is compared as mathematics, where a unit's conventions hold: "5 million"
    is not 5.
    """
    if sample.choices or sample.answer_type != "text":
        return None
    if read_gold(sample.answer, sample.unit).rule != "quantity":
        return None
    value = _VALUE.match(sample.answer)
    unit = sample.answer[value.end() :].strip() if value else ""
    return value[0] if value and unit and not any(char.isdigit() for char in unit) else None


class GoldCheck:
    """Grades a sample's own gold answer; called by `data.prepare.prepare`."""

    def __init__(self, verifier: str) -> None:
        """Raises ConfigError for an unknown verifier."""
        self._verifier = verifier
        self._rubric = Rubric.from_terms([(verifier, 1.0)])

    def __repr__(self) -> str:
        return f"GoldCheck({self._verifier!r})"

    def __call__(self, sample: Sample) -> str | None:
        """Return why `sample.answer` does not pass the verifier, or None.

        A quantity of the type text has to pass without its unit too, since a unit may be left out:
        a gold "5 cm" that is compared as words accepts itself and nothing else.
        """
        try:
            self._rubric.check_gold([sample])
        except DataError as error:
            return str(error)
        value = bare_value(sample)
        if value is None or self._verifier not in ("answer", "maths"):
            return None
        (verdict,) = self._rubric.verdicts(self._verifier, [(sample, f"\\boxed{{{value}}}")])
        if verdict.outcome is Outcome.CORRECT:
            return None
        return f"record {sample.id!r}: {value} without the unit of {sample.answer[:80]!r} is wrong"

    def close(self) -> None:
        """Terminate the verifier's processes."""
        self._rubric.close()
