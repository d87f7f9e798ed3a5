"""What the learner maximises: SAPO, and the objectives it is compared with, through one code path.

`objective: NAME` chooses one of OBJECTIVES. All have one signature, take the importance ratio from
`sapo.importance_ratio`, the tokens' weights from one Aggregation and, in front, the same truncated
correction of the sampler's mismatch; an objective's file holds its formula and its paper's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

from sapo_vl.algorithm.objectives import cispo, dapo, dr_grpo, grpo, gspo
from sapo_vl.algorithm.sapo import Surrogate, mismatch_weight, sapo_loss
from sapo_vl.learner.rows import TrainRow

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.learner.engine import RowTensors
    from sapo_vl.learner.logprobs import ResponseLogprobs

Loss = Callable[..., Surrogate]
"""(logprobs_T, old_logprobs_T, advantages_T, weights_T, lengths_R, *, its own numbers)."""


class Aggregation(NamedTuple):
    """How tokens are averaged: a token's weight is `token(row)` / the sum of `row(row)` over rows.

    The sum goes over all rows of the mini-batch on all ranks.
    """

    token: Callable[[TrainRow], float]
    row: Callable[[TrainRow], float]


MEAN_OF_MEANS = Aggregation(lambda row: 1.0 / len(row.token_ids), lambda row: 1.0)
"""A mean over responses of means over their tokens."""

TOKEN_MEAN = Aggregation(lambda row: 1.0, lambda row: float(len(row.token_ids)))
"""A mean over all tokens."""


def mean_over_limit(limit: int) -> Aggregation:
    """Return a mean over responses of sums over their tokens, divided by `limit`."""
    return Aggregation(lambda row: 1.0 / limit, lambda row: 1.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """An objective and what its paper does around it."""

    loss: Loss
    aggregation: Literal["mean_of_means", "token_mean", "mean_over_limit"]
    clip: tuple[float, float] | None = None  # below and above 1; none: not a clip (SAPO)
    by_token: bool = True  # False: needs whole responses
    advantage_std: Literal["group", "none"] = "group"
    refill: int = 0  # rounds of dynamic sampling
    overlong: bool = False  # soft overlong penalty


def _sapo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    lengths_R: Tensor,
    **numbers: Any,
) -> Surrogate:
    return sapo_loss(logprobs_T, old_logprobs_T, advantages_T, weights_T, **numbers)


OBJECTIVES: dict[str, Kind] = {
    "sapo": Kind(_sapo, "mean_of_means"),
    "grpo": Kind(grpo.loss, "mean_of_means", (grpo.LOW, grpo.HIGH)),
    "gspo": Kind(gspo.loss, "mean_of_means", (gspo.LOW, gspo.HIGH), by_token=False),
    "dapo": Kind(dapo.loss, "token_mean", (dapo.LOW, dapo.HIGH), refill=3, overlong=True),
    "cispo": Kind(cispo.loss, "token_mean", (cispo.LOW, cispo.HIGH)),
    "dr_grpo": Kind(
        dr_grpo.loss, "mean_over_limit", (dr_grpo.LOW, dr_grpo.HIGH), advantage_std="none"
    ),
}
"""All objectives by the name that `objective` takes."""


class Objective(NamedTuple):
    """What `Learner.update` takes: a loss over a micro-batch's tokens and how they are averaged."""

    loss: Callable[[ResponseLogprobs, RowTensors], Surrogate]
    aggregation: Aggregation
    by_token: bool = True  # a sum over tokens; False: needs whole responses


def build(config: Config) -> Objective:
    """Return the configured objective with its numbers and the mismatch correction."""
    kind, own, cap = OBJECTIVES[config.objective], numbers(config), config.sapo.mismatch_cap

    def loss(out: ResponseLogprobs, tensors: RowTensors) -> Surrogate:
        old = tensors.old_logprobs_T
        old = out.logprobs_N.detach() if old is None else old
        weights = tensors.weights_T
        if cap is not None:
            assert tensors.generator_logprobs_T is not None
            weights = weights * mismatch_weight(old, tensors.generator_logprobs_T, cap)
        return kind.loss(
            out.logprobs_N, old, tensors.advantages_T, weights, tensors.lengths_R, **own
        )

    return Objective(loss, aggregation(config), kind.by_token)


def numbers(config: Config) -> dict[str, Any]:
    """Return the keyword arguments of the configured objective's loss."""
    kind = OBJECTIVES[config.objective]
    if kind.clip is None:
        options = config.sapo
        return {"tau_pos": options.tau_pos, "tau_neg": options.tau_neg, "gate": options.gate}
    low, high = config.clip.low, config.clip.high
    return {
        "low": kind.clip[0] if low is None else low,
        "high": kind.clip[1] if high is None else high,
    }


def gated(config: Config) -> bool:
    """Return whether the weights are a gate's: those of a clip are a share inside its bounds."""
    return OBJECTIVES[config.objective].clip is None and config.sapo.gate != "none"


def temperatures(config: Config) -> tuple[float | None, float | None]:
    """Return tau_pos and tau_neg; none where the objective's gate is not SAPO's own."""
    if config.objective != "sapo" or config.sapo.gate != "sigmoid":
        return None, None
    return config.sapo.tau_pos, config.sapo.tau_neg


def advantage_std(config: Config) -> Literal["group", "none"]:
    """Return what advantages are divided by: as configured, or as the objective does."""
    chosen = config.sapo.advantage_std
    return OBJECTIVES[config.objective].advantage_std if chosen == "auto" else chosen


def refill_rounds(config: Config) -> int:
    """Return the rounds of dynamic sampling: as configured, or as the objective does."""
    chosen = config.rollout.refill
    return OBJECTIVES[config.objective].refill if chosen is None else chosen


def aggregation(config: Config) -> Aggregation:
    """Return the configured objective's way of averaging."""
    name = OBJECTIVES[config.objective].aggregation
    if name == "mean_over_limit":
        return mean_over_limit(config.rollout.max_new_tokens)
    return MEAN_OF_MEANS if name == "mean_of_means" else TOKEN_MEAN
