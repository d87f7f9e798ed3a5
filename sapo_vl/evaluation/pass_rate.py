"""Filters that ask a model: how often it solves a problem, and whether it needs the picture.

    sapo-vl data filter runs/all --out runs/fit --pass-rate 0:0.9 --model DIR --samples 8
    sapo-vl data filter runs/all --out runs/seen --needs-image --model DIR --samples 8

A problem that is never or nearly always solved teaches nothing: Qwen3-VL's recipe keeps pass rates
over 0 up to 0.9. A problem that is solved without seeing its picture (a white one of the same size
stands in) teaches no seeing: it is dropped when more than half of the blind responses are right.
Scores lie in a file of JSON lines beside the output, so that an interrupted or repeated pass asks
the model for what is missing only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from sapo_vl.config import Config
from sapo_vl.data.rewrite import RecordFilter
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.evaluation.heldout import problem_seed
from sapo_vl.generator import base as generator
from sapo_vl.generator.base import Generator, Sampling
from sapo_vl.model import assets as model
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.schema import Sample

CHUNK = 64
"""Problems sampled at once: bounds the pictures in memory, and what an interruption may cost."""

BLIND_LIMIT = 0.5
"""A larger share of right blind responses drops a problem; guessing one of two stays at it."""


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on one problem."""

    id: str  # the sample's
    right: int  # correct responses
    judged: int  # responses with a verdict

    @property
    def rate(self) -> float | None:
        """Share of right responses; None when no response could be judged."""
        return self.right / self.judged if self.judged else None


class Solver:
    """Samples k responses to problems and remembers how many were right."""

    def __init__(
        self, engine: Generator, renderer: PromptRenderer, rubric: Rubric, sampling: Sampling
    ) -> None:
        self._engine, self._renderer = engine, renderer
        self._rubric, self._sampling = rubric, sampling

    def scores(
        self,
        samples: Iterable[Sample],
        cache: Path,
        settings: str,
        seed: int,
        tick: Callable[[int], None] | None = None,
    ) -> dict[str, Score]:
        """Return every sample's score; those in `cache` of the same settings are not asked again.

        Raises:
            DataError: the cache was made with other settings.
        """
        known = _cached(cache, settings)
        missing = (sample for sample in samples if sample.id not in known)
        with cache.open("a", encoding="utf-8") as lines:
            if lines.tell() == 0:
                lines.write(json.dumps({"settings": settings}) + "\n")
            while chunk := list(islice(missing, CHUNK)):
                for score in self._ask(chunk, seed):
                    known[score.id] = score
                    lines.write(json.dumps(asdict(score)) + "\n")
                lines.flush()
                if tick is not None:
                    tick(len(known))
        return known

    def _ask(self, chunk: Sequence[Sample], seed: int) -> list[Score]:
        prompts = self._renderer.render(chunk)
        seeds = [problem_seed(seed, sample.id) for sample in chunk]
        responses = self._engine.generate(prompts, self._sampling, seeds)
        found = []
        for sample, completions in zip(chunk, responses, strict=True):
            rewards = self._rubric.grade([(sample, c.text) for c in completions])
            valid = [reward for reward in rewards if reward.valid]
            found.append(Score(sample.id, sum(r.correct for r in valid), len(valid)))
        return found


def solve(
    config: Config,
    samples: Iterable[Sample],
    k: int,
    cache: Path,
    *,
    blind: bool,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Score]:
    """Start the configured model and score every sample with `k` responses.

    `tick` is called with the number of scores so far.
    """
    folder = model.open_folder(config.model.path)
    rubric = Rubric.from_terms([(term.fn, term.weight) for term in config.rewards])
    renderer = PromptRenderer(folder, config.data, blank=blind)
    engine = generator.build(config, folder, seed=config.run.seed)
    sampling = Sampling(k, config.rollout.temperature, config.rollout.max_new_tokens)
    looks = (config.data.instruction, config.data.min_pixels, config.data.max_pixels)
    graded = [term.fn for term in config.rewards]
    settings = json.dumps([str(config.model.path), blind, asdict(sampling), looks, graded])
    try:
        solver = Solver(engine, renderer, rubric, sampling)
        return solver.scores(samples, cache, settings, config.run.seed, tick)
    finally:
        engine.close()
        rubric.close()


def parse_range(text: str) -> tuple[float, float]:
    """Read "0:0.9" as the open lower and the closed upper bound of a pass rate.

    Raises:
        ConfigError: it is no such range within 0 and 1.
    """
    low, colon, high = text.partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        bounds = (1.0, 0.0)
    if not colon or not 0 <= bounds[0] < bounds[1] <= 1:
        raise ConfigError(f"pass-rate: {text!r} is not LOW:HIGH with 0 <= LOW < HIGH <= 1")
    return bounds


def within(scores: dict[str, Score], low: float, high: float) -> RecordFilter:
    """Keep problems with low < pass rate <= high; without any verdict they are dropped."""

    def judge(sample: Sample) -> str | None:
        rate = scores[sample.id].rate
        if rate is None:
            return "no response could be judged"
        if rate <= low:
            return f"the pass rate is not over {low:g}: {rate:g}"
        return f"the pass rate is over {high:g}: {rate:g}" if rate > high else None

    return judge


def needs_image(scores: dict[str, Score]) -> RecordFilter:
    """Drop problems that are solved blind; records without pictures are solved blind anyway."""

    def judge(sample: Sample) -> str | None:
        rate = scores[sample.id].rate
        if rate is None:
            return "no response could be judged"
        return f"solved without the image: {rate:g}" if rate > BLIND_LIMIT else None

    return judge


def _cached(cache: Path, settings: str) -> dict[str, Score]:
    """Return the scores of a cache; a last line that was cut by an interruption is cut off."""
    if not cache.exists():
        return {}
    whole = cache.read_text(encoding="utf-8").rpartition("\n")[0]
    try:
        lines = [json.loads(line) for line in whole.split("\n") if line]
        if lines and lines[0].get("settings") != settings:
            raise DataError(
                f"{cache} was made with other settings; remove it or choose another --out"
            )
        known = {line["id"]: Score(**line) for line in lines[1:]}
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{cache} holds no scores: remove it: {error!r}") from error
    cache.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return known
