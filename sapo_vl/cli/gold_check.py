"""The check of gold answers that `sapo-vl prepare --verifier` runs."""

from __future__ import annotations

from sapo_vl.errors import DataError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Sample


class GoldCheck:
    """Grades a sample's own gold answer; called by `data.prepare.prepare`."""

    def __init__(self, verifier: str) -> None:
        """Raises ConfigError for an unknown verifier."""
        self._verifier = verifier
        self._rubric = Rubric.from_terms([(verifier, 1.0)])

    def __repr__(self) -> str:
        return f"GoldCheck({self._verifier!r})"

    def __call__(self, sample: Sample) -> str | None:
        """Return why `sample.answer` does not pass the verifier, or None."""
        try:
            self._rubric.check_gold([sample])
        except DataError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Terminate the verifier's processes."""
        self._rubric.close()
