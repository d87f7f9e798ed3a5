"""GeoQA-8K: 8,031 plane geometry problems with free answers, for training (R1-V's set of GeoQA).

    Hugging Face:    SOURCE = leonardPKU/GEOQA_R1V_Train_8K, or a folder of its parquet files

One row:

    {"image": {"bytes": .., "path": ..}, "problem": "As shown in the figure, in triangle ABC, ..
     then the size of angle CED is ()", "solution": "<answer> 140° </answer>"}

Left out: GeoQA's options, which this set doesn't have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.sources.clevr_count import answered
from sapo_vl.schema import Sample


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem.

    Raises:
        DataError: `source` has neither form.
    """
    yield from answered(source, "geoqa", task="plane geometry")
