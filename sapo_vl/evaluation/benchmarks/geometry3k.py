"""Geometry3K (Lu et al., 2105.04165) as it is used for RL: typed answers, choices not shown.

Prompt and scoring are those of MMK12: the last box, judged as mathematics by the training
verifier against the value of the right choice (EasyR1 and verl use mathruler, which rejects some
right answers and accepts some wrong ones; figures in docs/verifiers.md). Other rule: `math_verify`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.sources import geometry3k
from sapo_vl.evaluation.benchmarks.mmk12 import check, extract, judge, prompt
from sapo_vl.evaluation.benchmarks.protocol import Benchmark
from sapo_vl.schema import Sample


def rows(folder: Path) -> Iterator[Sample | Dropped]:
    """Yield test, or train where the original layout has no test."""
    has_train = any(folder.glob("geometry3k/train/*/data.json"))
    has_test = any(folder.glob("geometry3k/test/*/data.json"))
    return geometry3k.rows(folder, ("train",) if has_train and not has_test else ("test",))


BENCHMARK = Benchmark(
    name="geometry3k",
    title="Geometry3K",
    rows=rows,
    prompt=prompt,
    extract=extract,
    judge=judge,
    check=check,
    files=(*(f"geometry3k/{s}/*/data.json" for s in ("test", "train")), "**/test*.parquet"),
    hub="hiyouga/geometry3k",
    tables=("goal",),
)
