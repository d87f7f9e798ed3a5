"""Sampling and grading for training, held-out evaluation, pass rates and benchmarks alike.

engine = SampleEngine(generator, renderer, rubric)
for groups in sample_and_grade(engine, samples, params, seeds):
    ...                             # RolloutGroups of the next CHUNK samples, with rewards
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sapo_vl.generator.base import Generator, SamplingParams
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Prompt, RolloutGroup, Sample

CHUNK = 64
"""Samples rendered and sampled per call; limits images in memory, and work lost at a kill."""


def problem_seed(seed: int, name: str) -> int:
    """Return a sampling seed in [0, 2**31) from the run's seed and a record's id (or any name)."""
    return zlib.crc32(f"{seed}:{name}".encode()) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class SampleEngine:
    """What sampling needs: a generator, its prompts' renderer and, for rewards, a rubric."""

    generator: Generator
    renderer: PromptRenderer
    rubric: Rubric | None = None  # None: rollouts stay ungraded
    max_prompt_tokens: int | None = None  # a longer prompt gets a group without rollouts

    def sample(
        self, prompts: Sequence[Prompt], params: SamplingParams, seeds: Sequence[int]
    ) -> list[RolloutGroup]:
        """Sample `params.n` responses per prompt in one call, grade them, and group them.

        A response's text begins with its prompt's `opening`: a verifier has to see a thought that
        the chat template opened, above all where the response never closes it.

        `seeds` holds one seed per prompt. Raises the errors of generator and rubric.
        """
        limit = self.max_prompt_tokens
        fits = [i for i, p in enumerate(prompts) if limit is None or len(p.expanded_ids) <= limit]
        groups = [RolloutGroup(prompt, []) for prompt in prompts]
        rollouts = self.generator.generate(
            [prompts[i] for i in fits], params, [seeds[i] for i in fits]
        )
        beat()
        for i, responses in zip(fits, rollouts, strict=True):
            groups[i].rollouts = responses
            for rollout in responses:
                rollout.text = prompts[i].opening + rollout.text
        if self.rubric is not None:
            graded = [rollout for group in groups for rollout in group.rollouts]
            pairs = [(rollout.prompt.sample, rollout.text) for rollout in graded]
            lengths = [len(rollout.token_ids) for rollout in graded]
            for rollout, reward in zip(graded, self.rubric.grade(pairs, lengths), strict=True):
                rollout.reward = reward
            beat()
        return groups


def rendered_chunks(
    engine: SampleEngine, samples: Sequence[Sample], chunk: int = CHUNK
) -> Iterator[list[Prompt]]:
    """Yield the prompts of `chunk` samples at a time, in order."""
    for start in range(0, len(samples), chunk):
        yield engine.renderer.render(samples[start : start + chunk])


def sample_and_grade(
    engine: SampleEngine, samples: Sequence[Sample], params: SamplingParams, seeds: Sequence[int]
) -> Iterator[list[RolloutGroup]]:
    """Yield the graded groups of CHUNK samples at a time, in order; `seeds` holds one each."""
    start = 0
    for prompts in rendered_chunks(engine, samples):
        yield engine.sample(prompts, params, seeds[start : start + len(prompts)])
        start += len(prompts)
