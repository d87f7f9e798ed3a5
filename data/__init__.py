"""Data pipelines: from a source's own files to parquet with embedded pictures.

    source --rows--> Sample | Dropped --prepare--> store: train-*.parquet, test-*.parquet

Every source is one module with a function `rows` that yields `Sample`s in a stable order, and a
`Dropped` for each record it cannot use. `prepare.prepare` runs one of them once, offline;
training and evaluation read the result with `store.load`. Importing this package is cheap: a
source's module is imported when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

DATASETS: dict[str, str] = {
    "mathvision": "sapo_vl.data.mathvision",
    "synthetic": "sapo_vl.data.synthetic",
}
"""Name of a source -> the module that has its `rows`. A user's own is `my/source.py:rows`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that a source cannot turn into a `Sample`; it is counted in the report."""

    id: str  # the id that the sample would have had
    reason: str  # the same words for every record dropped for the same cause
