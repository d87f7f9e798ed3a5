"""What is in a prepared data set: counts by task and answer type, histograms of tokens.

print(stats("runs/all").text())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sapo_vl.data import images
from sapo_vl.data.rewrite import every
from sapo_vl.schema import Sample

EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower ends of the histograms' bins."""

BAR = 40
"""Characters of the longest bar."""


@dataclass(slots=True)
class Stats:
    """Counts of records."""

    splits: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)  # "dataset: task"
    answer_types: Counter[str] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)  # pictures in a record
    visual_tokens: Counter[int] = field(default_factory=Counter)  # by the lower end of the bin
    characters: Counter[int] = field(default_factory=Counter)  # of the problem's text, as above

    def text(self) -> str:
        """Return all of it as lines for the terminal."""
        parts = [
            _counts("split", self.splits),
            _counts("task", self.tasks),
            _counts("answer type", self.answer_types),
            _counts("images in a record", self.images),
            _histogram("visual tokens of a record", self.visual_tokens),
            _histogram("characters of a problem", self.characters),
        ]
        return "\n\n".join(parts)


def stats(source: str | Path, tick: Callable[[], None] | None = None) -> Stats:
    """Count the records of all splits; pictures are read by their headers only.

    Raises:
        DataError: `source` is no data set.
    """
    found = Stats()
    for sample in every(source):
        _count(found, sample)
        if tick is not None:
            tick()
    return found


def _count(found: Stats, sample: Sample) -> None:
    found.splits[sample.split] += 1
    found.tasks[f"{sample.dataset}: {sample.task}"] += 1
    found.answer_types[sample.answer_type] += 1
    found.images[len(sample.images)] += 1
    found.visual_tokens[_bin(images.tokens(sample.images))] += 1
    found.characters[_bin(len(sample.problem))] += 1


def _bin(value: int) -> int:
    return max(edge for edge in EDGES if edge <= value)


def _counts(title: str, counts: Counter) -> str:
    lines = [f"  {n:>9,}  {name}" for name, n in counts.most_common()]
    return "\n".join((title, *lines))


def _histogram(title: str, counts: Counter[int]) -> str:
    most = max(counts.values(), default=1)
    lines = [title]
    for edge, following in zip(EDGES, (*EDGES[1:], None), strict=True):
        if counts[edge]:
            span = f"{edge:>6,} to {following - 1:,}" if following else f"{edge:>6,} or more"
            bar = "#" * max(1, round(BAR * counts[edge] / most))
            lines.append(f"  {counts[edge]:>9,}  {span:<18}{bar}")
    return "\n".join(lines)
