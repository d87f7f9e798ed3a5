"""What the ranks of a shared engine are asked, by the worker and by the test that checks them."""

from __future__ import annotations

from helpers import make_sample

from sapo_vl.generator.base import SamplingParams
from sapo_vl.schema import Sample

COUNTS = (1, 63, 64, 65, 129)
"""Numbers of problems: one rank has none, both have as many, or one needs a call more."""

PARAMS = SamplingParams(2, 1.0, 4)


def problems(count: int) -> list[Sample]:
    """Return problems of which every eighth has a picture."""
    return [make_sample([(32, 32)] * (i % 8 == 0), seed=i, name=f"p{i}") for i in range(count)]
