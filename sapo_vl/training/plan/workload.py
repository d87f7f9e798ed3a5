"""The tokens of a step, per rank, when every response reaches rollout.max_new_tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.training.plan.shape import ModelShape

TEXT_TOKENS = 100
"""Tokens of a problem's text and of the chat template."""


@dataclass(frozen=True)
class Workload:
    """An upper bound of a step's work: one picture a prompt, responses of full length."""

    image_tokens: int  # of a prompt's picture
    prompt_tokens: int
    response_tokens: int
    group_size: int
    prompts: int  # of this rank in a step
    mini_batches: int  # in a step
    row_tokens: int  # of the largest micro-batch
    row_prompts: int  # prompts of that micro-batch
    rows: int  # micro-batches of this rank in a step
    tokens: int  # of those micro-batches together, prompts of split groups counted again

    @property
    def responses(self) -> int:
        """Responses of this rank in a step."""
        return self.prompts * self.group_size

    @property
    def scored(self) -> int:
        """Response tokens of this rank in a step."""
        return self.responses * self.response_tokens

    @property
    def pairs(self) -> float:
        """Query-key pairs of this rank's text attention in a step."""
        response, prompt = self.response_tokens, self.prompt_tokens
        repeats = (self.tokens - self.responses * (response - 1)) / max(prompt, 1)
        return self.responses * (response**2 / 2 + response * prompt) + repeats * prompt**2 / 2


def workload(config: Config, shape: ModelShape, ranks: int) -> Workload:
    """Return the work of one of `ranks` ranks in a step."""
    rollout, vision = config.rollout, shape.vision
    pixels_per_token = vision.patch_side**2 * vision.merge
    image = min(
        config.data.max_pixels // pixels_per_token,
        max(0, config.data.max_prompt_tokens - TEXT_TOKENS),
    )
    prompt = min(config.data.max_prompt_tokens, image + TEXT_TOKENS)
    length = rollout.max_new_tokens
    mini_batches = config.algorithm.num_mini_batches
    prompts = math.ceil(rollout.prompts / ranks)
    groups = math.ceil(prompts / mini_batches)
    shares = config.learner.layout == "shared_prefix"
    own = length - 1 if shares else prompt + length
    budget = max(config.learner.micro_batch_tokens, prompt + length)
    shared = prompt if shares else 0
    members = min(rollout.group_size, max(1, (budget - shared) // max(own, 1)))
    parts = math.ceil(rollout.group_size / members)
    tokens = groups * (parts * shared + rollout.group_size * own)
    row = min(budget, tokens)
    per_row = max(1, budget // (shared + members * own))
    rows = math.ceil(groups / per_row) if parts == 1 else math.ceil(tokens / budget)
    return Workload(
        image_tokens=image,
        prompt_tokens=prompt,
        response_tokens=length,
        group_size=rollout.group_size,
        prompts=prompts,
        mini_batches=mini_batches,
        row_tokens=row,
        row_prompts=min(per_row, groups) if shares else members * per_row,
        rows=rows * mini_batches,
        tokens=tokens * mini_batches,
    )
