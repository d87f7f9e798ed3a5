"""The records that travel through sapo_vl. Importing them needs no torch, vllm or pillow.

A sample's path: Sample -> Prompt -> Rollout x G, graded with a Reward each -> RolloutGroup ->
mini-batches of Rollouts. The same Rollout object is filled in along the way, never copied:

    prompts        Rollout.prompt              (shared by the G rollouts of a group)
    generator      token_ids, text, finish_reason, generator_logprobs
    rewards        reward
    advantages     advantage
    learner        old_logprobs and reference_logprobs, then gate_weights, log_ratios and
                   entropies of its update

Worked example, a group of two:

    Sample(id="synthetic-7", problem="<image>What is the sum?", images=(b"\\x89PNG..",), answer="8",
           answer_type="number", ...)
    Rollout(prompt, token_ids=[12, 40, 3], text="\\boxed{8}", finish_reason="stop",
            generator_logprobs=[-0.1, -0.2, -0.01], advantage=1.0, reward=Reward(
                value=1.0, correct=True, valid=True,
                terms={"boxed": Verdict(Outcome.CORRECT, 1.0, "8 == 8")}))
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

IMAGE_MARK = "<image>"
"""Marks where an image belongs in `Sample.problem`, once per image."""

_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|0x[0-9a-fA-F]+|\d{3,}")
"""What differs between two reasons of one cause: quoted text, addresses, long numbers."""

MAX_CAUSE = 120
"""Characters of a cause; a user's exception may be long."""

ANSWER_TYPES = (
    "number",
    "expression",
    "equation",
    "tuple",
    "interval",
    "set",
    "choice",
    "multi_choice",
    "count",
    "boxes",
    "point",
    "text",
)
"""The kinds of gold answer; the kind decides which rule the verifier applies."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One problem, in the form that is stored in parquet and used throughout."""

    id: str  # unique within its data set, stable across preparations
    dataset: str  # name of the source, a key of DATASETS
    task: str  # family inside the source ("count", "analytic geometry"), for tables and ratios
    problem: str  # text with one IMAGE_MARK per image; choices are already listed in it
    images: tuple[bytes, ...]  # encoded image files (PNG, JPEG), undecoded
    answer: str  # gold answer; for a choice its letter
    answer_type: str = "number"  # one of ANSWER_TYPES
    choices: tuple[str, ...] = ()  # option texts in the order of their letters
    precision: int | None = None  # decimal places that count, where the source says so
    rel_tol: float | None = None  # relative tolerance of a number, where the source says so
    unit: str | None = None  # unit of the gold answer, where the source gives one
    split: str = "train"  # "train" or "test"
    solution: str | None = None  # a whole worked response for supervised warm-up, right or not
    metadata: dict[str, Any] = field(default_factory=dict)  # other fields of the source, as JSON


class Outcome(StrEnum):
    """How a verification ended. NO_VERDICT: the verifier failed, not the model; never scored 0."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_VERDICT = "no_verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verifier's verdict on one response."""

    outcome: Outcome
    score: float  # in [0, 1]; meaningless when outcome is NO_VERDICT
    reason: str  # in words, for the person who reads the rollouts
    extracted: str | None = None  # the answer found in the response
    seconds: float = 0.0  # time spent on it
    tier: str = "fast"  # who decided: cache, fast, symbolic, judge, user

    @property
    def cause(self) -> str:
        """The reason without what differs from response to response, to be counted.

        Worked example: that of `raised KeyError('id-17')` is `raised KeyError(..)`.
        """
        return " ".join(_VARIES.sub("..", self.reason).split())[:MAX_CAUSE] or "no reason given"


@dataclass(frozen=True, slots=True)
class Reward:
    """The rubric's grade of one response: the weighted sum, and the verdicts behind it."""

    value: float  # sum of weight * score over the terms
    correct: bool  # the first term's verdict; accuracy counts this one
    valid: bool  # False when a term gave no verdict: the response is masked out of its group
    terms: dict[str, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class Prompt:
    """A rendered sample, ready for generator and learner.

    L: its tokens; M: its images; K: image patches.
    """

    sample: Sample
    token_ids: list[int]  # one image token per image: what vLLM is given
    expanded_ids: list[int]  # [L] one image token per visual token: what the model sees
    images: list[Image]  # M resized RGB images
    pixel_values: Tensor | None  # [K, channels * temporal * patch^2] float32
    grid_thw: Tensor | None  # [M, 3] patches in time, height, width
    position_ids: Tensor  # [3, L] M-RoPE positions: time, height, width
    next_position: int  # first position of every response, on all three axes
    opening: str = (
        ""  # what the chat template began of the response ("<think>\n"); part of its text
    )


class VersionSpan(NamedTuple):
    """A stretch of a response that one version of the weights sampled."""

    version: int  # of the weights: the training steps that they have seen
    start: int  # first of the response's tokens
    end: int  # one past the last


@dataclass(slots=True)
class Rollout:
    """One response to a prompt, from sampling to the optimizer step.

    T counts the tokens that the policy sampled; every per-token array has this length. Multi-turn
    responses would add a field with the environment's tokens and their offsets among the T; only
    `length` and the layouts' `collate` would have to place them.

    A supervised example is a Rollout too: its solution's tokens, without log-probs or reward.
    """

    prompt: Prompt
    token_ids: list[int]  # [T] including the end token when it was sampled
    text: str = ""  # the prompt's opening and the decoded tokens, without the last end token
    finish_reason: str = "stop"  # "stop" (end token sampled) or "length" (cut by max_new_tokens)
    generator_logprobs: np.ndarray | None = None  # [T] float32, log mu of the sampling policy, nats
    reward: Reward | None = None  # None until it is graded
    advantage: float = 0.0  # of the whole response; 0 gives no gradient
    old_logprobs: np.ndarray | None = None  # [T] float32, log pi_old; None: set by the next forward
    reference_logprobs: np.ndarray | None = None  # [T] float32, log pi_ref; None: no KL penalty
    is_filler: bool = False  # weight 0: only keeps this rank's collectives in step with the others'
    versions: tuple[VersionSpan, ...] = ()  # who sampled which tokens, where the sampler tells
    # Of the update that trained on it, before its weights moved; None unless a file will hold them:
    gate_weights: np.ndarray | None = None  # [T] float32, w in [0, 1]
    log_ratios: np.ndarray | None = None  # [T] float32, log pi_theta - log pi_old, nats
    entropies: np.ndarray | None = None  # [T] float32, of pi_theta's next-token distribution, nats

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt.expanded_ids) + len(self.token_ids)

    @property
    def verdict(self) -> Reward:
        """The reward; asserts that the rollout has been graded."""
        assert self.reward is not None, f"record {self.prompt.sample.id}: not graded"
        return self.reward


@dataclass(slots=True)
class RolloutGroup:
    """The G rollouts of one prompt, whose rewards are compared with each other."""

    prompt: Prompt
    rollouts: list[Rollout]  # G
    mini_batch: int | None = None  # the mini-batch it belongs to, where data.ratio keeps shares

    @property
    def has_gradient(self) -> bool:
        """Whether any advantage differs from 0."""
        return any(rollout.advantage != 0 for rollout in self.rollouts)
