"""The synthetic source: drawn problems with exact answers, on three levels.

One row, seed 0 (the image, a 64x64 PNG, shows a red and a blue hand):

    Sample(id="synthetic-0-2", dataset="synthetic", task="angle",
           problem="<image>What is the angle in degrees?", images=(b"\\x89PNG..",), answer="90",
           answer_type="number", split="train",
           solution="<think>blue 0 red 90</think>\\\\boxed{90}",
           metadata={"level": 1, "teacher": "right", "kind": "angle", "blue": 0, "red": 90})

- Level 1 has six tasks on 64x64 pixels that a tiny model learns on a CPU in minutes (tasks.py).
- Levels 2 and 3 have ten others, in larger images with more to read (charts.py, figures.py).
- Training solutions come from a weak teacher: half are guesses, a tenth read the image right and
  slip in the last step. SFT on perfect solutions leaves reinforcement learning nothing to improve.
- The split is a function of the image (level 1) or of the puzzle's parameters (levels 2, 3), so
  that no puzzle is ever in both splits, for any seed.
- Images are reproducible with the same Pillow version; another may shift printed digits by a pixel.

draw.py makes the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sapo_vl.data.synthetic.draw import LEVELS, TEACHERS, Teacher, corpus, rows
from sapo_vl.errors import ConfigError
from sapo_vl.schema import Sample

__all__ = ["SyntheticOptions", "all_rows", "corpus", "rows"]


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """What to draw. Raises ConfigError for a value out of range."""

    seed: int = 0
    count: int = 10_000  # training records
    test_count: int = 480
    teacher: Teacher = "weak"  # of the training solutions: weak or exact
    level: int = 1  # 1 to 3, how much there is to read in an image

    def __post_init__(self) -> None:
        for name in ("count", "test_count"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is negative")
        if self.teacher not in TEACHERS:
            raise ConfigError(f"teacher: {self.teacher!r}; allowed: {', '.join(TEACHERS)}")
        if self.level not in LEVELS:
            raise ConfigError(f"level: {self.level}; allowed: {', '.join(map(str, LEVELS))}")


def all_rows(options: SyntheticOptions) -> Iterator[Sample]:
    """Yield the training records, then the test records."""
    for split, count in (("train", options.count), ("test", options.test_count)):
        yield from rows(
            seed=options.seed,
            split=split,
            count=count,
            teacher=options.teacher,
            level=options.level,
        )
