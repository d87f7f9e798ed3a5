"""The parts of an objective: loss, options, aggregation, and its paper's sampling and rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from sapo_vl.algorithm.surrogate import LossInputs, Surrogate
from sapo_vl.schema import Rollout

AggregationName = Literal["mean_of_means", "token_mean", "mean_over_limit"]


class NoOptions(BaseModel, extra="forbid"):
    """The options of an objective that has none."""


@dataclass(frozen=True, slots=True)
class ObjectiveSpec:
    """An objective as its file defines it, before a run's config chooses its options."""

    loss: Callable[[LossInputs, Any], Surrogate]  # (inputs, options) -> Surrogate
    options: type[BaseModel] = NoOptions  # the config section named like the objective
    aggregation: AggregationName = "mean_of_means"  # how tokens are averaged
    by_token: bool = True  # a sum over tokens; False: the loss needs whole responses
    normalize_advantages: bool = True  # divide by the group's standard deviation
    max_resample_rounds: int = 0  # dynamic sampling, unless the config says otherwise
    overlong_penalty: bool = False  # add the reward term `overlong` with weight -1
    is_gated: Callable[[Any], bool] = lambda options: False  # whether `gate_weight_T` is a gate's
    temperatures: Callable[[Any], tuple[float, float] | None] = lambda options: None
    # (tau_pos, tau_neg) where the gate is SAPO's sigmoid, for the telemetry of its theory


class Aggregation(NamedTuple):
    """How tokens are averaged: a token's weight is token(rollout) / sum of response(rollout).

    The sum goes over all rollouts of the mini-batch on all ranks.
    """

    token: Callable[[Rollout], float]
    response: Callable[[Rollout], float]


MEAN_OF_MEANS = Aggregation(lambda rollout: 1.0 / len(rollout.token_ids), lambda rollout: 1.0)
"""A mean over responses of means over their tokens."""

TOKEN_MEAN = Aggregation(lambda rollout: 1.0, lambda rollout: float(len(rollout.token_ids)))
"""A mean over all tokens."""


def mean_over_limit(limit: int) -> Aggregation:
    """Return a mean over responses of sums over their tokens, divided by `limit`."""
    return Aggregation(lambda rollout: 1.0 / limit, lambda rollout: 1.0)


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective for `Learner.update`: a loss with options bound, and how tokens are averaged."""

    loss: Callable[[LossInputs], Surrogate]
    aggregation: Aggregation
    by_token: bool = True  # a sum over tokens; False: the loss needs whole responses
    importance_cap: float | None = None  # truncation of pi_old / mu; None: no correction
    normalize_advantages: bool = True
    max_resample_rounds: int = 0
    is_gated: bool = False
    temperatures: tuple[float, float] | None = None  # see ObjectiveSpec
