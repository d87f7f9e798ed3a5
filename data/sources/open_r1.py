"""multimodal-open-r1-8k: 7,689 problems from Geometry3K, GeoQA, ScienceQA .. (lmms-lab).

    Hugging Face:    SOURCE = lmms-lab/multimodal-open-r1-8k-verified, or a folder of its parquet

One row:

    {"image": {"bytes": .., "path": ..}, "problem": "Based on the image, find x. A. 3 B. 4",
     "solution": "<think>Let's think ..</think>\\n\\n<answer>B. 4</answer>",
     "original_question": "Find x.", "original_answer": "B"}

An answer that opens with a letter and a stop ("B. 4") is a choice, its options are read from the
problem. Left out: the model-written thinking, which is not a response in our format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sapo_vl.data import Dropped
from sapo_vl.data.readers.choices import split_choices
from sapo_vl.data.sources.clevr_count import answered
from sapo_vl.schema import Sample

_LETTER = re.compile(r"\(?([A-H])(?:[.:)]|$)")


def rows(source: str | Path) -> Iterator[Sample | Dropped]:
    """Yield every problem.

    Raises:
        DataError: `source` has neither layout.
    """
    for record in answered(source, "open_r1", task="mixed"):
        yield _lettered(record) if isinstance(record, Sample) else record


def _lettered(sample: Sample) -> Sample:
    letter = _LETTER.match(sample.answer)
    if letter is None:
        return sample
    choices = split_choices(sample.problem)
    known = letter[1] in "ABCDEFGH"[: len(choices)]
    return replace(sample, answer=letter[1], answer_type="choice", choices=choices if known else ())
