"""Proof of delivery: after each transfer of weights the sampler answers a probe, as a receipt.

The probe is one prompt without pictures and one with, from the training data, always the same. The
engine samples a few tokens for each and the learner computes their log-probs. Weights that did not
arrive, or arrived in part, twice or scaled, and cached values of old weights make the two differ
before a step is trained on such rollouts.

A learner whose frozen weights wait in host memory while the sampler is awake can't compute them at
once. The answer is then kept, and compared when the weights are back: before the rollouts are
trained on, before an evaluation's figures are written and before the model is exported.

In bfloat16 the engines' own rounding is as large as one update's effect, so that a second rule is
needed there: an engine whose log-probs are equal to the last bit although the learner's moved has
not got the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sapo_vl.config import Config
from sapo_vl.errors import RunError
from sapo_vl.generator.base import Generator, SamplingParams, requests_of
from sapo_vl.learner.engine import Learner
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.schema import Prompt, Rollout, Sample
from sapo_vl.system import distributed
from sapo_vl.training.parity import KINDS, parity_limits

TOKENS = 4
"""Tokens sampled for each prompt of the probe; the first alone needs the whole model."""

SHARE = 0.5
"""Of the mean difference that stops a run (generator.parity_stop) that a receipt may reach. In
float32 it is the limit for each token, in 16 bits for their mean."""

ROUNDING = 3e-4
"""Nats by which a token may differ in float32 in any case: ten times the largest difference that
rounding gave in the main job."""

MOVED = 1e-4
"""Nats by which the learner's log-probs have to move before the engine's must have moved too."""

SEARCHED = 256
"""Training records looked through for a prompt of each kind."""


class DeliveryError(RunError):
    """The sampler doesn't have the weights that it was sent."""


class Receipt(NamedTuple):
    """What one probe found, over all ranks."""

    version: int  # the weights' number: the training steps they have seen
    mean_abs: float  # mean |log mu - log pi| over the probe's tokens, in nats, of the worst rank
    max_abs: float

    def row(self) -> dict[str, float]:
        """Return the fields of a metrics row."""
        return {f"receipt/{name}": value for name, value in self._asdict().items()}


class Answer(NamedTuple):
    """The probe's responses by one version of the weights, on this rank."""

    token_ids: list[list[int]]
    sampler: np.ndarray  # log-probs of all tokens
    learner: np.ndarray


class DeliveryCheck:
    """Asks for a receipt after each transfer, and compares it with the last."""

    def __init__(
        self, config: Config, prompts: Sequence[Prompt], sampler_dtype: str | None = None
    ) -> None:
        """`prompts` are the probe's; the sampler's type is model.dtype unless it is named."""
        limits = parity_limits(config, sampler_dtype)
        self._by_token = math.isfinite(limits.stop_token)
        self._limit = SHARE * limits.stop
        if self._by_token:
            self._limit = max(self._limit, ROUNDING)
        params = SamplingParams(
            1, config.rollout.temperature, min(TOKENS, config.rollout.max_new_tokens)
        )
        self._requests = requests_of(prompts, params, [config.run.seed] * len(prompts))
        self._last: Answer | None = None
        self._asked: tuple[int, list[Rollout]] | None = None  # version, the sampler's answer

    @property
    def pending(self) -> bool:
        """Whether the sampler's last answer still has to be compared."""
        return self._asked is not None

    def ask(self, generator: Generator, learner: Learner, version: int) -> Receipt | None:
        """Let the sampler answer the probe by the weights `version`. Collective.

        Returns the receipt; None where the learner's weights are in host memory: `settle` gives it
        once there is room for them. Raises DeliveryError as `settle` does.
        """
        assert not self.pending, "the receipt before this one was never settled"
        self._asked = version, [group[0] for group in generator.generate(self._requests)]
        return None if learner.weights_away else self.settle(learner)

    def settle(self, learner: Learner) -> Receipt:
        """Compare the pending answer with the learner; return the receipt. Collective.

        The learner must still have the weights that were sent. Raises DeliveryError, on all ranks
        alike, when a rank's sampler had others.
        """
        assert self._asked is not None, "no answer to compare"
        version, rollouts = self._asked
        self._asked = None
        learner.fill_old_logprobs(rollouts)
        answer = _answer(rollouts)
        fault = self._fault(answer, rollouts)
        self._last = answer
        gaps = np.abs(answer.sampler - answer.learner)
        found = distributed.all_gather([(fault, float(gaps.mean()), float(gaps.max()))])
        for rank, (told, _, _) in enumerate(found):
            if told:
                where = f" of rank {rank}" if len(found) > 1 else ""
                raise DeliveryError(f"step {version}: the sampler{where} {told}")
        return Receipt(version, max(mean for _, mean, _ in found), max(top for *_, top in found))

    def _fault(self, answer: Answer, rollouts: Sequence[Rollout]) -> str:
        """Return what is wrong with this rank's answer, or nothing."""
        limit, start = self._limit, 0
        for rollout in rollouts:
            part = slice(start, start + len(rollout.token_ids))
            start = part.stop
            gaps = np.abs(answer.sampler[part] - answer.learner[part])
            gap = float(gaps.max() if self._by_token else gaps.mean())
            if not gap <= limit:
                kind = KINDS["image" if rollout.prompt.images else "text"]
                return (
                    f"doesn't have the learner's weights: on the probe of {kind} (record "
                    f"{rollout.prompt.sample.id}) their log-probs differ by {gap:.3g} nats "
                    f"{'on one token' if self._by_token else 'on average'}, above {limit:.3g} "
                    "(half of generator.parity_stop)"
                )
        last = self._last
        if last is not None and last.token_ids == answer.token_ids:
            moved = float(np.abs(answer.learner - last.learner).mean())
            if moved > MOVED and np.array_equal(answer.sampler, last.sampler):
                return (
                    "didn't get the last update: its log-probs on the probe are the same as "
                    f"before to the last bit, the learner's moved by {moved:.3g} nats on average"
                )
        return ""


def probe_prompts(samples: Sequence[Sample], renderer: PromptRenderer) -> list[Prompt]:
    """Return the first prompt without pictures and the first with, of the first SEARCHED samples.

    A record that can't be rendered is passed over. Where none can, the run can't start either.
    """
    found: dict[bool, Prompt] = {}
    for i in range(min(SEARCHED, len(samples))):
        sample = samples[i]
        if bool(sample.images) not in found:
            for prompt in renderer.render_usable([sample]).prompts:
                found[bool(sample.images)] = prompt
        if len(found) == len(KINDS):
            break
    return [found[kind] for kind in sorted(found)]


def _answer(rollouts: Sequence[Rollout]) -> Answer:
    sampler = np.concatenate([r.generator_logprobs for r in rollouts])
    learner = np.concatenate([r.old_logprobs for r in rollouts if r.old_logprobs is not None])
    return Answer([r.token_ids for r in rollouts], sampler, learner)
