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
    "aime_hmmt": "sapo_vl.data.sources.aime_hmmt",
    "chartqa": "sapo_vl.data.sources.chartqa",
    "clevr_count": "sapo_vl.data.sources.clevr_count",
    "dynamath": "sapo_vl.data.sources.dynamath",
    "easyr1": "sapo_vl.data.sources.easyr1",
    "emma": "sapo_vl.data.sources.emma",
    "generic": "sapo_vl.data.readers.generic",
    "geometry3k": "sapo_vl.data.sources.geometry3k",
    "geoqa": "sapo_vl.data.sources.geoqa",
    "logicvista": "sapo_vl.data.sources.logicvista",
    "mathverse": "sapo_vl.data.sources.mathverse",
    "mathvision": "sapo_vl.data.sources.mathvision",
    "mathvista": "sapo_vl.data.sources.mathvista",
    "mmk12": "sapo_vl.data.sources.mmk12",
    "mmmu": "sapo_vl.data.sources.mmmu",
    "mmmu_pro": "sapo_vl.data.sources.mmmu_pro",
    "olympiadbench": "sapo_vl.data.sources.olympiadbench",
    "open_r1": "sapo_vl.data.sources.open_r1",
    "sharegpt": "sapo_vl.data.sources.sharegpt",
    "superclevr": "sapo_vl.data.sources.superclevr",
    "synthetic": "sapo_vl.data.synthetic",
    "tabmwp": "sapo_vl.data.sources.tabmwp",
    "trl": "sapo_vl.data.sources.trl",
    "verl": "sapo_vl.data.sources.verl",
    "virl39k": "sapo_vl.data.sources.virl39k",
    "wemath": "sapo_vl.data.sources.wemath",
}
"""Name of a source -> the module that has its `rows`. A user's own is `my/source.py:rows`."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that a source cannot turn into a `Sample`; it is counted in the report."""

    id: str  # the id that the sample would have had
    reason: str  # "cause" or "cause: detail"; the cause is the same for every record like it
    by_rule: bool = False  # left out by a rule, not for a fault: it never stops a preparation
