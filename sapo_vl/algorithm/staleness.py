"""What the age of rollouts does: tokens by age, and how far their sampler is from the learner.

The age of a token is the number of training steps between the weights that sampled it and those
that the step begins with. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sapo_vl.algorithm.telemetry import LOG_RATIO_LIMIT, UpdateReport
from sapo_vl.schema import Rollout, RolloutGroup

Sums = dict[int, dict[str, float]]


def age_sums(groups: Sequence[RolloutGroup], step: int, *, compared: bool) -> Sums:
    """Return sums over this rank's tokens by age: `tokens`, and of d = log mu - log pi_old.

    These are `scored`, the tokens that have both, and the sums `abs` of |d| and `kl` of
    exp(-d) - 1 + d. With `compared` false pi_old is mu and they are 0. `step` is counted from 0.
    """
    sums: Sums = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        mu, old = rollout.generator_logprobs, rollout.old_logprobs
        for age, span in _spans(rollout, step):
            of_age = sums.setdefault(age, {"tokens": 0.0, "scored": 0.0, "abs": 0.0, "kl": 0.0})
            of_age["tokens"] += span.stop - span.start
            if compared and mu is not None and old is not None:
                difference = mu[span].astype(np.float64) - old[span]
                of_age["scored"] += len(difference)
                of_age["abs"] += float(np.abs(difference).sum())
                of_age["kl"] += float(np.sum(np.expm1(-difference) + difference))
    return sums


def by_age(ranks: Sequence[Mapping[int, Mapping[str, float]]]) -> dict[str, float]:
    """Return the statistics of a metrics row; `ranks` holds each rank's `age_sums`.

    `staleness/age` is the mean age of all tokens; by age a, `staleness/share_a` is the share of
    tokens, `staleness/mean_abs_a` the mean of |log mu - log pi_old| in nats and `staleness/kl_a` an
    estimate of KL(mu || pi_old).
    """
    total: Sums = {}
    for sums in ranks:
        for age, values in sums.items():
            of_age = total.setdefault(age, dict.fromkeys(values, 0.0))
            for name, value in values.items():
                of_age[name] += value
    tokens = sum(values["tokens"] for values in total.values())
    if not tokens:
        return {}
    row = {"staleness/age": sum(age * v["tokens"] for age, v in total.items()) / tokens}
    for age, values in sorted(total.items()):
        row[f"staleness/share_{age}"] = values["tokens"] / tokens
        if values["scored"]:
            row[f"staleness/mean_abs_{age}"] = values["abs"] / values["scored"]
            row[f"staleness/kl_{age}"] = values["kl"] / values["scored"]
    return row


def gate_by_age(report: UpdateReport, step: int) -> dict[str, float]:
    """Return an optimizer step's mean gate weight and ratio statistics by age a of the tokens.

    `gate/mean_age_a` is the mean of w and `ratio/kl_age_a` of r - 1 - log r, with |log r| clipped
    as in the loss. `step` is counted from 0.
    """
    weights: dict[int, list[np.ndarray]] = {}
    ratios: dict[int, list[np.ndarray]] = {}
    start = 0
    for rollout in report.rollouts:
        for age, span in _spans(rollout, step):
            tokens = slice(start + span.start, start + span.stop)
            weights.setdefault(age, []).append(report.gate_weight_T[tokens])
            ratios.setdefault(age, []).append(report.log_ratio_T[tokens])
        start += len(rollout.token_ids)
    stats = {}
    for age in sorted(weights):
        log_ratio = np.concatenate(ratios[age]).astype(np.float64)
        log_ratio = log_ratio.clip(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        stats[f"gate/mean_age_{age}"] = float(np.concatenate(weights[age]).mean(dtype=np.float64))
        stats[f"ratio/kl_age_{age}"] = float(np.mean(np.expm1(log_ratio) - log_ratio))
    return stats


def _spans(rollout: Rollout, step: int) -> Iterator[tuple[int, slice]]:
    """Yield (age, tokens) of each stretch of a response that one version of the weights sampled."""
    for span in rollout.versions:
        yield step - span.version, slice(span.start, span.end)
