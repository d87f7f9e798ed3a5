"""The benchmarks: one file each, all with the same skeleton, and the table of their names.

A file has `problems` (its own files to prompts), `extract` (a response to an answer), `judge` (an
answer to a verdict) and a BENCHMARK that ties them together. To add one, write a file like them and
add its line here. Importing this package imports neither torch nor sympy.
"""

from __future__ import annotations

from sapo_vl.errors import ConfigError, nearest
from sapo_vl.evaluation.benchmarks import (
    aime_hmmt,
    dynamath,
    emma,
    geometry3k,
    geoqa,
    logicvista,
    mathverse,
    mathvision,
    mathvista,
    mmk12,
    mmmu,
    mmmu_pro,
    olympiadbench,
    superclevr,
    tabmwp,
    wemath,
)
from sapo_vl.evaluation.benchmarks.protocol import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "mathvista": mathvista.BENCHMARK,
    "mathverse": mathverse.BENCHMARK,
    "mathvision": mathvision.BENCHMARK,
    "wemath": wemath.BENCHMARK,
    "logicvista": logicvista.BENCHMARK,
    "dynamath": dynamath.BENCHMARK,
    "mmmu": mmmu.BENCHMARK,
    "mmmu_pro": mmmu_pro.BENCHMARK,
    "emma": emma.BENCHMARK,
    "olympiadbench": olympiadbench.BENCHMARK,
    "geoqa": geoqa.BENCHMARK,
    "superclevr": superclevr.BENCHMARK,
    "tabmwp": tabmwp.BENCHMARK,
    "geometry3k": geometry3k.BENCHMARK,
    "mmk12": mmk12.BENCHMARK,
    "aime24": aime_hmmt.AIME24,
    "aime25": aime_hmmt.AIME25,
    "hmmt24": aime_hmmt.HMMT24,
    "hmmt25": aime_hmmt.HMMT25,
}
"""Name on the command line -> benchmark."""


def named(name: str) -> Benchmark:
    """Return a benchmark. Raises ConfigError with the nearest known name."""
    if name not in BENCHMARKS:
        known = nearest(name, BENCHMARKS) or f"; known: {', '.join(BENCHMARKS)}"
        raise ConfigError(f"unknown benchmark {name!r}{known}")
    return BENCHMARKS[name]
