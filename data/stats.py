"""Statistics of a prepared data set: counts by task and answer type, token histograms.

print(stats("runs/all").text())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sapo_vl.data import images
from sapo_vl.data.gold_counts import GoldCounts
from sapo_vl.data.store import iter_samples
from sapo_vl.errors import printable

EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower bounds of the histogram bins."""

BAR = 40
"""Width of the longest bar in characters."""


@dataclass(slots=True)
class Stats:
    """Record counts by property."""

    splits: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)  # "dataset: task"
    answer_types: Counter[str] = field(default_factory=Counter)
    golds: GoldCounts = field(default_factory=GoldCounts)  # by the rule that reads them
    images: Counter[int] = field(default_factory=Counter)  # images per record
    visual_tokens: Counter[int] = field(default_factory=Counter)  # by lower bound of the bin
    characters: Counter[int] = field(
        default_factory=Counter
    )  # length of the problem's text, likewise

    def text(self) -> str:
        """Format the statistics for the terminal."""
        parts = [
            _counts("split", self.splits),
            _counts("task", self.tasks),
            _counts("answer type", self.answer_types),
            "\n".join(("gold answers by rule", *(f"  {line}" for line in self.golds.lines()))),
            _counts("images per record", self.images),
            _histogram("visual tokens per record", self.visual_tokens),
            _histogram("characters per problem", self.characters),
        ]
        return "\n\n".join(parts)


def stats(source: str | Path, tick: Callable[[], None] | None = None) -> Stats:
    """Count the records of all splits; of images only the headers are read.

    `tick` is called after each record.

    Raises:
        DataError: `source` is no data set.
    """
    counts = Stats()
    for sample in iter_samples(source):
        counts.splits[sample.split] += 1
        counts.tasks[f"{sample.dataset}: {sample.task}"] += 1
        counts.answer_types[sample.answer_type] += 1
        counts.golds.add(sample)
        counts.images[len(sample.images)] += 1
        counts.visual_tokens[_bin(images.count_tokens(sample.images))] += 1
        counts.characters[_bin(len(sample.problem))] += 1
        if tick is not None:
            tick()
    return counts


def _bin(value: int) -> int:
    return max(edge for edge in EDGES if edge <= value)


def _counts(title: str, counts: Counter) -> str:
    lines = [f"  {n:>9,}  {printable(name)}" for name, n in counts.most_common()]
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
