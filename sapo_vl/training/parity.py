"""Parity: sampler and learner agree about the log-probs of the sampled tokens; ruined weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sapo_vl.algorithm import telemetry
from sapo_vl.config import Config
from sapo_vl.errors import RunError
from sapo_vl.schema import RolloutGroup
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.training.trainer import Trainer

LARGEST_WEIGHT = 1e6
"""No model that works has a weight near it; beyond it a forward pass soon overflows."""


class ParityError(RunError):
    """Sampler and learner disagree about the log-probs of the sampled tokens."""


class WeightsError(RunError):
    """The weights are not finite, or beyond what any model has."""


class ParityLimits(NamedTuple):
    """Limits on the mean of |log mu - log pi_old| over tokens, in nats."""

    warn: Mapping[str, float]  # by kind of prompt
    stop: float
    stop_token: float  # limit on the largest difference of one token


PARITY_LIMITS = {
    # The same function computed twice: rounding alone gives 1e-7 to 1e-6 here.
    "float32": ParityLimits({"text": 1e-5, "image": 1e-5}, 1e-3, 0.1),
    # Engines round differently: verl issue 2996 has means of 0.055 on text and 0.30 with pictures
    # on equal tokens, and experts that are chosen differently add to it. A warning is at nearly
    # twice that, the stop at three times the larger one: other weights or inputs cost whole nats.
    # One token of low probability may differ by any amount.
    "bfloat16": ParityLimits({"text": 0.1, "image": 0.5}, 1.0, math.inf),
}
"""By model.dtype, where sampler and learner share it; generator.parity_warn and parity_stop replace
the means."""

MIXED_LIMITS = ParityLimits({"text": 0.03, "image": 0.03}, 0.3, math.inf)
"""For a bfloat16 sampler of weights that the learner holds in float32, as Qwen3.5's on a CPU.

Only one side rounds. Means of the tiny Qwen3.5 and its MoE: 0.006 to 0.012 with random weights,
0.0005 to 0.01 in training; single tokens up to 0.4. Random weights after a change of 0.02 each
that the sampler didn't get: 0.75 to 0.94. An update of 0.001 nats is lost in the rounding.
"""

TOKEN_FACTOR = 100
"""Under float32 one token may differ by this multiple of the limit on the mean."""

KINDS = {"text": "text-only prompts", "image": "prompts with pictures"}


def parity_limits(config: Config, sampler_dtype: str | None = None) -> ParityLimits:
    """Return the limits of a run; the sampler's type is model.dtype unless it is named."""
    limits, options = PARITY_LIMITS[config.model.dtype], config.generator
    if sampler_dtype not in (None, config.model.dtype):
        limits = MIXED_LIMITS
    if options.parity_warn is not None:
        limits = limits._replace(warn=dict.fromkeys(KINDS, options.parity_warn))
    if options.parity_stop is not None:
        limits = limits._replace(stop=options.parity_stop)
        if math.isfinite(limits.stop_token):
            limits = limits._replace(stop_token=TOKEN_FACTOR * options.parity_stop)
    return limits


class ParityCheck:
    """Compares log mu with log pi_old: warns once per kind of prompt, stops far above that."""

    def __init__(self, config: Config, sampler_dtype: str | None = None) -> None:
        """Take the limits of the run; see parity_limits."""
        self._config = config
        self._limits = parity_limits(config, sampler_dtype)
        self._warned = set[str]()

    def observe(self, mismatch: Mapping[str, float], step: int, model: Any = None) -> list[str]:
        """Return what to warn of; `mismatch` is telemetry.mismatch's, over all ranks.

        Raises ParityError above a stopping limit, and WeightsError where the weights of `model`,
        the learner's module, are the cause of a difference that is worth a warning.
        """
        limits = self._limits
        warnings = []
        for kind, words in KINDS.items():
            mean = mismatch.get(f"mismatch/mean_abs_{kind}", 0.0)
            largest = mismatch.get(f"mismatch/max_abs_{kind}", 0.0)
            stops = not (mean <= limits.stop and largest <= limits.stop_token)
            if not stops and mean <= limits.warn[kind]:
                continue
            weight = check_weights(self._config, model, step)
            found = (
                f"step {step}: log-probs of sampler and learner differ by {mean:.3g} nats on "
                f"average on {words}, at most {largest:.3g} ({_other_kind(mismatch, kind)})"
            )
            if stops:
                raise ParityError(
                    f"{found}, above generator.parity_stop={limits.stop:g}"
                    f"{_token_limit(limits)}: they have different weights or inputs (the largest "
                    f"weight is {weight:.3g}, learner.lr={self._config.learner.lr:g})"
                )
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.append(
                    f"warning: {found}, above generator.parity_warn={limits.warn[kind]:g}; see "
                    f"mismatch/mean_abs_{kind} in metrics.jsonl and algorithm.importance_cap"
                )
        return warnings


def _other_kind(mismatch: Mapping[str, float], kind: str) -> str:
    (other,) = KINDS.keys() - {kind}
    mean = mismatch.get(f"mismatch/mean_abs_{other}")
    return f"none seen on {KINDS[other]}" if mean is None else f"{mean:.3g} on {KINDS[other]}"


def _token_limit(limits: ParityLimits) -> str:
    if not math.isfinite(limits.stop_token):
        return ""
    return f" ({limits.stop_token:g} on one token)"


def mismatch_of(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return telemetry.mismatch of the groups of all ranks. Collective."""
    return telemetry.mismatch(distributed.all_gather([telemetry.mismatch_sums(groups)]))


def check_parity(trainer: Trainer, mismatch: Mapping[str, float], step: int) -> None:
    """Warn of what the trainer's ParityCheck warns of. Raises as it does, on all ranks alike."""
    for line in trainer.parity.observe(mismatch, step, trainer.learner.model):
        trainer.warn(step, line)


def check_weights(config: Config, model: Any, step: int) -> float:
    """Return the largest absolute weight of this rank; 0 without a `model`, the learner's module.

    Frozen weights don't change, and may be in host memory: they are left out. Under ZeRO-3 this
    rank's shards are looked at. Raises WeightsError where a weight is not finite or above
    LARGEST_WEIGHT.
    """
    overall = 0.0
    for name, parameter in model.named_parameters() if model is not None else ():
        if not parameter.requires_grad:
            continue
        values = getattr(parameter, "ds_tensor", parameter).detach()
        largest = float(torch.linalg.vector_norm(values, float("inf"))) if values.numel() else 0.0
        if not largest <= LARGEST_WEIGHT:
            raise WeightsError(
                f"step {step}: {name} has a weight of {largest:.3g} since the last update: "
                f"learner.lr={config.learner.lr:g} is too large for this model"
            )
        overall = max(overall, largest)
    return overall
