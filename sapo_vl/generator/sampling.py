"""Sampling and grading for training, held-out evaluation, pass rates and benchmarks alike.

engine = SampleEngine(generator, renderer, rubric)
for groups in sample_and_grade(engine, samples, params, seeds):
    ...                             # RolloutGroups of the next samples, with rewards
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sapo_vl.generator.base import Generator, SamplingParams, SamplingRequest, requests_of
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Prompt, RolloutGroup, Sample
from sapo_vl.system import distributed

REQUESTS = 512
"""Requests of an engine call: few calls, as the last responses of each leave the engine idle, but
no more than what may be lost at a kill."""

PIXELS = 2**27
"""Pixels of an engine call's pictures: 3.6 GB, at 24 bytes of patches and 3 of picture each."""

RENDERED = 16
"""Samples rendered at a time, between two looks at these limits."""


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
    tensor_parallel: int = 1  # generator.tensor_parallel

    @property
    def ranks(self) -> int:
        """The ranks that share the generator's engine and the limits of its calls."""
        return min(self.tensor_parallel, distributed.world_size())

    def sample(self, requests: Sequence[SamplingRequest]) -> list[RolloutGroup]:
        """Sample the responses of all requests in one call, grade them, and group them.

        A response's text begins with its prompt's `opening`: a verifier has to see a thought that
        the chat template opened, above all where the response never closes it.

        Every rank makes the same calls, without requests where it has none (see Generator). Raises
        the errors of generator and rubric.
        """
        limit = self.max_prompt_tokens
        fits = [
            i
            for i, request in enumerate(requests)
            if limit is None or len(request.prompt.expanded_ids) <= limit
        ]
        groups = [RolloutGroup(request.prompt, []) for request in requests]
        rollouts = self.generator.generate([requests[i] for i in fits])
        beat()
        for i, responses in zip(fits, rollouts, strict=True):
            groups[i].rollouts = responses
            for rollout in responses:
                rollout.text = requests[i].prompt.opening + rollout.text
        if self.rubric is not None:
            graded = [rollout for group in groups for rollout in group.rollouts]
            pairs = [(rollout.prompt.sample, rollout.text) for rollout in graded]
            lengths = [len(rollout.token_ids) for rollout in graded]
            for rollout, reward in zip(graded, self.rubric.grade(pairs, lengths), strict=True):
                rollout.reward = reward
            beat()
        return groups


def rendered_chunks(
    samples: Sequence[Sample],
    render: Callable[[Sequence[Sample]], list[Prompt]],
    requests_each: int = 1,
    engine_ranks: int = 1,
) -> Iterator[list[Prompt]]:
    """Yield the prompts of all samples, in order, in chunks for one engine call each.

    A chunk ends at REQUESTS, of which a sample makes `requests_each`, or PIXELS, both shared by the
    `engine_ranks` whose requests the call holds. All ranks yield as many chunks, of whatever
    samples they have: a rank that is through yields empty ones. `render` may leave samples out.
    """
    limit = max(1, REQUESTS // (requests_each * engine_ranks))
    position = 0
    while distributed.all_reduce_max(len(samples) - position) > 0:
        prompts: list[Prompt] = []
        pixels = 0
        while position < len(samples) and len(prompts) < limit and pixels * engine_ranks < PIXELS:
            stop = position + min(RENDERED, limit - len(prompts))
            added = render(samples[position:stop])
            pixels += sum(image.width * image.height for prompt in added for image in prompt.images)
            prompts += added
            position = stop
        yield prompts


def sample_and_grade(
    engine: SampleEngine, samples: Sequence[Sample], params: SamplingParams, seeds: Sequence[int]
) -> Iterator[list[RolloutGroup]]:
    """Yield the graded groups of each chunk of samples, in order; `seeds` holds one each.

    A sample that is there several times in a row is rendered once. Collective over the ranks, see
    `rendered_chunks`. Raises DataError for a sample that can't be rendered.
    """

    def render(part: Sequence[Sample]) -> list[Prompt]:
        distinct = list({id(sample): sample for sample in part}.values())
        rendered = dict(zip(map(id, distinct), engine.renderer.render(distinct), strict=True))
        return [rendered[id(sample)] for sample in part]

    start = 0
    for prompts in rendered_chunks(samples, render, engine_ranks=engine.ranks):
        yield engine.sample(requests_of(prompts, params, seeds[start : start + len(prompts)]))
        start += len(prompts)
