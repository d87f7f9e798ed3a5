"""The benchmarks: one file each, all with the same skeleton, and the table of their names.

A file has `prompt` (a sample of the data source to the protocol's prompt), `extract` (a response to
an answer), `judge` (an answer to a verdict) and a BENCHMARK that ties them to the source, whose
file in data/sources has the layouts that are read. To add one, write a file like them and add a
line here, or keep it outside and name it as path/to/file.py:BENCHMARK. Importing this package
imports neither torch nor sympy.
"""

from __future__ import annotations

from sapo_vl.errors import ConfigError
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
from sapo_vl.plugins import load

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


def named(name: str, key: str = "--benchmarks") -> Benchmark:
    """Return a built-in benchmark, or the one that `path/to/file.py:NAME` defines.

    `key` is the option or config key that holds `name`, for messages.

    Raises:
        ConfigError: the name or the file is unknown, or it defines no Benchmark of that NAME.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    benchmark = load(name, key, BENCHMARKS).value
    if not isinstance(benchmark, Benchmark):
        raise ConfigError(
            f"{key}: {name} is a {type(benchmark).__name__}, not a Benchmark "
            "(sapo_vl.evaluation.benchmarks.protocol)"
        )
    return benchmark
