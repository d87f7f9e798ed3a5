"""Data pipelines: from a data set's original files to parquet with embedded images.

    source --rows--> Sample | Dropped --prepare--> store: train-*.parquet, test-*.parquet

A source is one module with a function `rows` that yields `Sample`s in a stable order, and a
`Dropped` for each record it cannot use. `prepare.prepare` runs it once, offline; training and
evaluation read the result with `store.load`. Source modules are imported on use, so that importing
this package is cheap.

    prepare  rewrite           make a data set from a source, or from a data set and a filter
    store  shards  records     read it, write it, its schema and checks
    images  split  report      decoding and sizes, train or test, counts of kept and dropped records
    stats  show  export        statistics, contact sheet, formats of other trainers
    readers/  sources/         shared readers, one file per data set
    filters/  synthetic/       record filters and decontamination, drawn problems
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
"""Source name -> module with its `rows`. Users name their own as `my/source.py:rows`."""


READING_NOTES = "reading_notes"
"""Key of a sample's metadata: what reading the record changed or left out, a list of texts that the
report counts."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that cannot become a `Sample`; the report counts it."""

    id: str  # the id the sample would have had
    reason: str  # "cause" or "cause: detail"; the cause is the same text for all such records
    by_rule: bool = False  # dropped by a rule, not as invalid: it never stops a preparation
