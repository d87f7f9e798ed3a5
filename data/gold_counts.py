"""How the verifiers read a data set's gold answers: by rule, with the doubtful ones by name.

A gold that is read as text is compared as words, so that "5 cm" typed text refuses every other way
to write it. What has a number in it and is text is therefore named, and so is a set whose free
golds are mostly text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sapo_vl.data.readers.text import gold_reading
from sapo_vl.errors import printable
from sapo_vl.schema import Sample

EXAMPLES = 5
"""Doubtful golds named per reason."""

MOSTLY = 0.5
"""Share of text among the free golds from which a warning is given."""

_CHOSEN = ("choice", "multi_choice")
_OWN_RULE = ("count", "boxes", "point", *_CHOSEN)
"""Answer types that a verifier of their own reads."""


@dataclass(slots=True)
class Doubts:
    """The gold answers that are doubtful for one reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)  # "id ('answer')", the first few


@dataclass(slots=True)
class GoldCounts:
    """Counts of gold answers by the rule that reads them."""

    rules: dict[str, int] = field(default_factory=dict)  # "answer type: rule" -> records
    doubtful: dict[str, Doubts] = field(default_factory=dict)  # reason -> records
    text: int = 0  # free golds that are compared as words
    free: int = 0  # golds that are no choices

    def add(self, sample: Sample) -> None:
        """Count a sample's gold answer."""
        kind = sample.answer_type
        if kind in _OWN_RULE:
            self._count(kind)
            self.free += kind not in _CHOSEN
            return
        reading = gold_reading(sample.answer, sample.unit)
        self.free += 1
        self.text += kind == "text"
        same = reading.answer_type == kind
        self._count(f"{kind}: {reading.rule}" if same else f"{kind}: as the source says")
        reason = reading.doubtful
        if kind == "text" and not same and any(char.isdigit() for char in sample.answer):
            reason = f"text by the source, but it reads as {reading.answer_type}"
        if reason:
            doubts = self.doubtful.setdefault(reason, Doubts())
            doubts.count += 1
            if len(doubts.examples) < EXAMPLES:
                doubts.examples.append(f"{sample.id} ({sample.answer[:60]!r})")

    def warning(self) -> str:
        """Return a line about a set whose golds are mostly text; "" for another."""
        if not self.free or self.text <= MOSTLY * self.free:
            return ""
        return (
            f"warning: {self.text:,} of {self.free:,} gold answers that are no choices are text, "
            "which is compared word by word"
        )

    def lines(self) -> list[str]:
        """Format the counts for the terminal, a line each."""
        lines = [f"{count:>9,}  {rule}" for rule, count in sorted(self.rules.items())]
        lines += [
            f"{doubts.count:>9,}  doubtful, {reason}: {printable(', '.join(doubts.examples))}"
            for reason, doubts in sorted(self.doubtful.items())
        ]
        return lines + [line for line in [self.warning()] if line]

    def _count(self, rule: str) -> None:
        self.rules[rule] = self.rules.get(rule, 0) + 1

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> GoldCounts:
        """Restore counts from `dataclasses.asdict`."""
        doubts = {reason: Doubts(**d) for reason, d in content["doubtful"].items()}
        return cls(**(content | {"doubtful": doubts}))
