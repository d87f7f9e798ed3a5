"""Filters that sample a model: how often it solves a problem, and whether it needs the image.

    sapo-vl data filter runs/all --out runs/fit --pass-rate 0:0.9 --model DIR --samples 8
    sapo-vl data filter runs/all --out runs/seen --needs-image --model DIR --samples 8

A problem that is never or nearly always solved gives no learning signal: Qwen3-VL's recipe keeps
pass rates above 0 up to 0.9. A problem that is solved blind (with white images of the same size)
does not train vision: it is dropped when more than half of the blind responses are correct.
Scores are stored in a JSON lines file beside the output, so that an interrupted or repeated pass
samples only what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sapo_vl.config import Config
from sapo_vl.data.rewrite import RecordFilter
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.provenance import problem_fingerprint
from sapo_vl.generator.base import SamplingParams, build
from sapo_vl.generator.sampling import REQUESTS, SampleEngine, problem_seed, sample_and_grade
from sapo_vl.model.assets import open_assets
from sapo_vl.model.fingerprint import weights_fingerprint
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import build_rubric
from sapo_vl.schema import RolloutGroup, Sample
from sapo_vl.system import distributed

BLIND_LIMIT = 0.5
"""A larger share of correct blind responses drops a problem; guessing one of two stays at it."""


@dataclass(frozen=True, slots=True)
class PassRate:
    """A model's result on one problem."""

    id: str  # the sample's
    right: int  # correct responses
    judged: int  # responses with a verdict

    @property
    def rate(self) -> float | None:
        """Share of correct responses; None when none has a verdict."""
        return self.right / self.judged if self.judged else None


def solve(
    config: Config,
    samples: Iterable[Sample],
    k: int,
    cache: Path,
    *,
    blind: bool,
    tick: Callable[[int], None] | None = None,
) -> dict[str, PassRate]:
    """Return the configured model's pass rate on every sample, from `k` responses each.

    `cache` holds the rates that are known; `tick` is called with their number.

    Raises:
        ConfigError: the rewards cannot be used, or this is one of several ranks.
        DataError: the cache was written with other settings, or by another program.
    """
    if distributed.world_size() > 1:
        raise ConfigError("--pass-rate and --needs-image run as one process")
    params = SamplingParams(k, config.rollout.temperature, config.rollout.max_new_tokens)
    images = (config.data.instruction, config.data.min_pixels, config.data.max_pixels)
    terms = [term.fn for term in config.rewards]
    judge = [[config.judge.url, config.judge.model]] if config.judge else []
    model = [config.model.path, weights_fingerprint(config.model.path), config.run.seed]
    settings = json.dumps([*model, blind, asdict(params), images, terms, *judge])
    rubric = build_rubric(config)
    assets = open_assets(config.model.path)
    generator = build(config, assets, seed=config.run.seed)
    try:
        renderer = PromptRenderer(assets, config.data, blank=blind)
        engine = SampleEngine(generator, renderer, rubric)
        return pass_rates(engine, samples, params, cache, settings, config.run.seed, tick)
    finally:
        generator.close()
        rubric.close()


def pass_rates(
    engine: SampleEngine,
    samples: Iterable[Sample],
    params: SamplingParams,
    cache: Path,
    settings: str,
    seed: int,
    tick: Callable[[int], None] | None = None,
) -> dict[str, PassRate]:
    """Return every sample's pass rate; those that `cache` holds are not sampled again.

    Raises:
        DataError: the cache was written with other settings, for other problems, or by another
            program.
    """
    known = _read_cache(cache, settings)
    rates = {name: PassRate(**fields) for name, (fields, _) in known.items()}
    missing = (sample for sample in samples if not _is_known(sample, known, cache))
    with cache.open("a", encoding="utf-8") as lines:
        if lines.tell() == 0:
            lines.write(json.dumps({"settings": settings}) + "\n")
        while chunk := list(islice(missing, REQUESTS)):
            seeds = [problem_seed(seed, sample.id) for sample in chunk]
            for groups in sample_and_grade(engine, chunk, params, seeds):
                for group in groups:
                    result = _pass_rate(group)
                    rates[result.id] = result
                    problem = {"problem": problem_fingerprint(group.prompt.sample)}
                    lines.write(json.dumps(asdict(result) | problem) + "\n")
            lines.flush()
            if tick is not None:
                tick(len(rates))
    return rates


def _pass_rate(group: RolloutGroup) -> PassRate:
    verdicts = [r.verdict.correct for r in group.rollouts if r.verdict.valid]
    return PassRate(group.prompt.sample.id, sum(verdicts), len(verdicts))


def parse_range(text: str) -> tuple[float, float]:
    """Read "0:0.9" as the exclusive lower and the inclusive upper bound of a pass rate.

    Raises:
        ConfigError: `text` is not such a range within 0 and 1.
    """
    low, colon, high = text.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = (1.0, 0.0)
    if not colon or not 0 <= bounds[0] < bounds[1] <= 1:
        raise ConfigError(f"pass-rate: {text!r} is not LOW:HIGH with 0 <= LOW < HIGH <= 1")
    return bounds


def within(rates: dict[str, PassRate], low: float, high: float) -> RecordFilter:
    """Keep problems with low < pass rate <= high; one without any verdict is dropped."""

    def judge(sample: Sample) -> str | None:
        rate = rates[sample.id].rate
        if rate is None:
            return "no response could be judged"
        if rate <= low:
            return f"the pass rate is not over {low:g}: {rate:g}"
        return f"the pass rate is over {high:g}: {rate:g}" if rate > high else None

    return judge


def needs_image(rates: dict[str, PassRate]) -> RecordFilter:
    """Drop problems that are solved blind. Records without images count as blind as they are."""

    def judge(sample: Sample) -> str | None:
        rate = rates[sample.id].rate
        if rate is None:
            return "no response could be judged"
        return f"solved without the image: {rate:g}" if rate > BLIND_LIMIT else None

    return judge


Known = tuple[dict[str, Any], str]  # fields of a PassRate, fingerprint of its problem


def _is_known(sample: Sample, known: Mapping[str, Known], cache: Path) -> bool:
    """Whether the rate is stored. Raises DataError when the problem has changed since."""
    if sample.id not in known:
        return False
    if known[sample.id][1] != problem_fingerprint(sample):
        raise DataError(f"{cache}: record {sample.id!r} has changed since; remove the file")
    return True


def _read_cache(cache: Path, settings: str) -> dict[str, Known]:
    """Return the stored rates; an incomplete last line of a killed process is cut off."""
    if not cache.exists():
        return {}
    complete = cache.read_text(encoding="utf-8").rpartition("\n")[0]
    try:
        lines = [json.loads(line) for line in complete.split("\n") if line]
        if lines and lines[0].get("settings") != settings:
            raise DataError(
                f"{cache} was written with other settings; remove it or choose another --out"
            )
        rates = {line["id"]: (line, str(line.pop("problem"))) for line in lines[1:]}
        for fields, _ in rates.values():
            PassRate(**fields)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{cache} does not hold pass rates; remove it: {error!r}") from error
    cache.write_text(complete + "\n" if complete else "", encoding="utf-8")
    return rates
