"""The records that travel through sapo_vl. Light: no torch, no vllm, no pillow.

One sample's way: Sample -> Prompt -> Completion x G -> Reward x G -> RolloutGroup -> micro-batches.
`Prompt` holds tensors and lives in prompts.py; everything else is here.

Worked example, one group of two responses:

    Sample(id="synthetic-7", problem="<image>What is the sum?", images=(b"\\x89PNG..",), answer="8",
           answer_type="number", ...)
    Completion(token_ids=[12, 40, 3], generator_logprobs=[-0.1, -0.2, -0.01],
               finish_reason="stop", text="\\boxed{8}")
    Reward(value=1.0, correct=True, terms={"boxed": Verdict(Outcome.CORRECT, 1.0, "8 == 8")})
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

IMAGE_MARK = "<image>"
"""Stands in `Sample.problem` once for each image, where the image belongs."""

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
"""What kind of thing a gold answer is; decides the verifier's rule."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One problem, as stored in parquet and as every stage reads it."""

    id: str  # unique within its data set, stable across preparations
    dataset: str  # name of the source, a key of DATASETS
    task: str  # family inside the source ("count", "analytic geometry"), for tables and ratios
    problem: str  # text with one IMAGE_MARK per image; choices are already listed in it
    images: tuple[bytes, ...]  # encoded image files (PNG, JPEG), undecoded
    answer: str  # gold answer; for a choice its letter
    answer_type: str = "number"  # one of ANSWER_TYPES
    choices: tuple[str, ...] = ()  # option texts in the order of their letters
    precision: int | None = None  # decimals that count, where the source says so
    unit: str | None = None  # unit of the gold answer, where the source gives one
    split: str = "train"  # "train" or "test"
    solution: str | None = None  # a whole worked response for supervised warm-up, right or not
    metadata: dict[str, Any] = field(default_factory=dict)  # whatever else the source says, JSON


class Outcome(StrEnum):
    """How a verification ended. NO_VERDICT is our failure, never the model's, and never a 0."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_VERDICT = "no_verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verifier says about one response."""

    outcome: Outcome
    score: float  # in [0, 1]; meaningless when outcome is NO_VERDICT
    reason: str  # in words, for the person who reads the rollouts
    extracted: str | None = None  # the answer that was found in the response
    seconds: float = 0.0  # time spent on it
    tier: str = "fast"  # who decided: cache, fast, symbolic, judge, user


@dataclass(frozen=True, slots=True)
class Reward:
    """What the rubric says about one response: the weighted sum and how it came about."""

    value: float  # sum of weight * score over the terms
    correct: bool  # the first term's verdict, which is the one accuracy is counted by
    valid: bool  # False when a term gave no verdict: the response is masked out of its group
    terms: dict[str, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class Completion:
    """One sampled response, token by token."""

    token_ids: list[int]  # [T] including the end token when it was sampled
    generator_logprobs: np.ndarray  # [T] float32, log mu of the policy that sampled (natural log)
    finish_reason: str  # "stop" (end token sampled) or "length" (cut by max_new_tokens)
    text: str  # decoded, special tokens left out


@dataclass(slots=True)
class RolloutGroup:
    """The G responses to one prompt, with all that the learner needs."""

    prompt: Any  # prompts.Prompt (it holds tensors, so it is not imported here)
    completions: list[Completion]  # G of them
    rewards: list[Reward]  # G
    advantages: np.ndarray  # [G] float32, 0 for a masked response
    old_logprobs: list[np.ndarray] | None = None  # G arrays [T] float32, log pi_old of the learner
    mini_batch: int | None = None  # the one it belongs to, where task shares are kept
