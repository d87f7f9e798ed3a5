"""Statistics of optimizer steps and rollouts: gate, staleness, mismatch, rewards. Pure numpy.

`mini_batch_stats` describes one optimizer step; `by_mini_batch` and `averaged` collect these over a
rollout batch; `group_sums` and `group_rates` describe the rollouts. Names ending in `_pos` and
`_neg` are split by the sign of the advantage, `_text` and `_image` by the prompt. With several
ranks `mini_batch_stats` covers this rank's tokens only (prompts are spread evenly); the caller
all-reduces the groups' sums and gathers `mismatch_sums`.

The check of the gate's theory on the run's tokens (arXiv 2511.20347, comparison with GSPO): for a
response with z_t = log r_t and s = exp(mean_t z_t) the paper replaces the mean of the token gates
by one response gate, sech^2(tau/2 * log s), under two assumptions: r - 1 is about log r (A1: small
steps), and the z_t vary little (A2), with an error of at most tau^2/4 * Var_t(z_t). `gate/gap_*` is
the measured difference of the two gates, `gate/bound_*` the bound of A2. The bound always holds for
A2's part of the error, so a response whose gap exceeds its bound (`gate/bound_broken_*`) violates
A1: its ratios are too far from 1.

Legend: B responses, T their tokens, concatenated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sapo_vl.schema import Rollout, RolloutGroup

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

ACTIVE_BELOW = 0.999
"""A token's gate is active if its weight is below this."""

LOG_RATIO_LIMIT = 20.0
"""|log r| is clipped here as in the loss (surrogate.py, which needs torch), see `ratio/clamped`."""

PERCENTILES = (1, 5, 25, 50, 75)
"""Percentiles of the token weights; the upper ones are close to 1."""

BROKEN_BY = 1e-6
"""Tolerance for a gap above its bound: the weights are float32."""

NGRAM = 4
"""Length of the n-grams that `repetition` counts."""

LENGTH_BINS = 100
"""Bins of the response-length histogram, each 1 % of max_new_tokens."""


def _empty() -> np.ndarray:
    return np.empty(0, dtype=np.float32)


@dataclass(slots=True)
class UpdateReport:
    """One optimizer step on this rank. T: the tokens of `rollouts`, concatenated."""

    rollouts: list[Rollout] = field(default_factory=list)  # in micro-batch order, without fillers
    loss: float = 0.0  # this rank's share of the global loss
    loss_centered: float = 0.0  # this rank's share of the centered objective
    clamped: float = 0.0  # this rank's tokens beyond the log-ratio limit
    penalty: float = 0.0  # the KL penalty's part of `loss`
    grad_norm: float = 0.0  # over all ranks, before clipping
    skipped: bool = False  # the gradient was not finite and the weights are unchanged
    log_ratio_T: np.ndarray = field(default_factory=_empty)
    gate_weight_T: np.ndarray = field(default_factory=_empty)
    grad_coefficient_T: np.ndarray = field(default_factory=_empty)
    entropy_T: np.ndarray = field(default_factory=_empty)
    logprobs_T: np.ndarray = field(default_factory=_empty)
    reference_kl_T: np.ndarray = field(default_factory=_empty)  # empty without a KL penalty


def keep_token_values(report: UpdateReport) -> None:
    """Give each rollout of an update its tokens' gate weights, log ratios and entropies."""
    start = 0
    for rollout in report.rollouts:
        own = slice(start, start + len(rollout.token_ids))
        rollout.gate_weights = report.gate_weight_T[own]
        rollout.log_ratios = report.log_ratio_T[own]
        rollout.entropies = report.entropy_T[own]
        start = own.stop


class Tokens(NamedTuple):
    """An optimizer step's tokens, with means and variances per response."""

    lengths_B: NDArray[np.intp]
    weight_T: Floats  # w, float32
    log_ratio_T: Floats  # log r, clipped, float64
    coefficient_T: Floats  # the factor of A * grad log pi, float32
    mean_weight_B: Floats
    mean_log_ratio_B: Floats  # log s, s the geometric mean of the ratios
    variance_B: Floats  # of log r within the response

    def token_index(self, selected_B: Flags) -> Flags | slice:
        """Return an index into the _T arrays for the selected responses."""
        return slice(None) if selected_B.all() else np.repeat(selected_B, self.lengths_B)


def mini_batch_stats(
    report: UpdateReport, temperatures: tuple[float, float] | None
) -> dict[str, float]:
    """Return the statistics of one optimizer step; only the loss if no response was trained on.

    `temperatures` are SAPO's tau_pos and tau_neg; None (an objective without SAPO's gate) omits gap
    and bound. Statistics of a sign or kind that no response has are omitted. `gate/max_wr_*`
    is the largest factor of A * grad log pi (for SAPO w * r), `ratio/ess` the effective sample size
    (sum r)^2 / (T * sum r^2), in (0, 1], and `ratio/kl` the mean of r - 1 - log r, an estimate of
    KL(pi_old || pi_theta) from samples of pi_old. `kl/reference` is the mean over tokens of r * k3
    (kl.py), an estimate of KL(pi_theta || pi_ref), and `kl/penalty` the penalty's part of `loss`.
    """
    if not report.rollouts:
        return {"loss": 0.0}
    tokens = _tokens(report)
    tau_pos, tau_neg = temperatures or (None, None)
    positive_B = np.array([rollout.advantage > 0 for rollout in report.rollouts])
    image_B = np.array([bool(rollout.prompt.images) for rollout in report.rollouts])
    r_T = np.exp(tokens.log_ratio_T)
    kl_T = r_T - 1.0 - tokens.log_ratio_T
    values: dict[str, float] = {}
    for sign, selected_B, tau in (("pos", positive_B, tau_pos), ("neg", ~positive_B, tau_neg)):
        if selected_B.any():
            gate = _gate(tokens, selected_B) | _theory(tokens, selected_B, tau)
            values |= {f"{name}_{sign}": value for name, value in gate.items()}
    for kind, selected_B in (("text", ~image_B), ("image", image_B)):
        if selected_B.any():
            index = tokens.token_index(selected_B)
            values[f"gate/mean_{kind}"] = float(tokens.weight_T[index].mean(dtype=np.float64))
            values[f"ratio/kl_{kind}"] = float(kl_T[index].mean())
    if len(report.reference_kl_T):
        values |= {
            "kl/reference": float(report.reference_kl_T.mean(dtype=np.float64)),
            "kl/reference_max": float(report.reference_kl_T.max()),
            "kl/penalty": report.penalty,
        }
    return values | {
        "gate/mean": float(tokens.weight_T.mean(dtype=np.float64)),
        "gate/p01": float(np.percentile(tokens.weight_T, 1)),
        "gate/active": float((tokens.weight_T < ACTIVE_BELOW).mean()),
        "ratio/kl": float(kl_T.mean()),
        "ratio/ess": float(r_T.sum() ** 2 / (len(r_T) * (r_T @ r_T))),
        "ratio/clamped": report.clamped,
        "entropy": float(report.entropy_T.mean(dtype=np.float64)),
        "loss": report.loss,
        "surrogate": report.loss_centered,
        "grad_norm": report.grad_norm,
    }


def _tokens(report: UpdateReport) -> Tokens:
    """Compute the per-response statistics; every response has at least its end token."""
    lengths_B = np.array([len(rollout.token_ids) for rollout in report.rollouts])
    assert lengths_B.all(), "a response without tokens"
    log_ratio_T = report.log_ratio_T.astype(np.float64)
    np.clip(log_ratio_T, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT, out=log_ratio_T)
    weight_T = report.gate_weight_T
    starts_B = np.cumsum(lengths_B) - lengths_B

    def mean_B(values_T: Floats) -> Floats:
        return np.add.reduceat(values_T, starts_B, dtype=np.float64) / lengths_B

    mean_log_ratio_B = mean_B(log_ratio_T)
    variance_B = mean_B((log_ratio_T - np.repeat(mean_log_ratio_B, lengths_B)) ** 2)
    return Tokens(
        lengths_B,
        weight_T,
        log_ratio_T,
        report.grad_coefficient_T,
        mean_B(weight_T),
        mean_log_ratio_B,
        variance_B,
    )


def _gate(tokens: Tokens, selected_B: Flags) -> dict[str, float]:
    """Return the distribution of the selected responses' token weights."""
    index = tokens.token_index(selected_B)
    weight_T = tokens.weight_T[index]
    percentiles = np.percentile(weight_T, PERCENTILES)
    return {
        "gate/mean": float(weight_T.mean(dtype=np.float64)),
        **{f"gate/p{p:02d}": float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)},
        "gate/below_0.9": float((weight_T < 0.9).mean()),
        "gate/below_0.5": float((weight_T < 0.5).mean()),
        "gate/max_wr": float(tokens.coefficient_T[index].max()),
        "ratio/var": float(tokens.variance_B[selected_B].mean()),
    }


def _theory(tokens: Tokens, selected_B: Flags, tau: float | None) -> dict[str, float]:
    """Return the mean gap, its mean bound, and the share of responses whose gap exceeds it."""
    if tau is None:
        return {}
    response_gate_B = sech_squared(tau / 2 * tokens.mean_log_ratio_B[selected_B])
    gap_B = np.abs(tokens.mean_weight_B[selected_B] - response_gate_B)
    bound_B = tau**2 / 4 * tokens.variance_B[selected_B]
    return {
        "gate/gap": float(gap_B.mean()),
        "gate/bound": float(bound_B.mean()),
        "gate/bound_broken": float((gap_B > bound_B + BROKEN_BY).mean()),
    }


def sech_squared(x: Floats) -> Floats:
    """Return 1 / cosh(x)^2, elementwise, without overflow."""
    small = np.exp(-2.0 * np.abs(x))
    return 4.0 * small / (1.0 + small) ** 2


def by_mini_batch(step_stats: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return each statistic's list of values by mini-batch, for the metrics row's `mini_batches`.

    None stands for a missing or non-finite value: JSON has no NaN.
    """

    def finite_or_none(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        name: [finite_or_none(values.get(name)) for values in step_stats]
        for name in _names(step_stats)
    }


def averaged(step_stats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each statistic's mean over the mini-batches that have it, maxima included."""
    result = {}
    for name in _names(step_stats):
        recorded = [values[name] for values in step_stats if name in values]
        result[name] = sum(recorded) / len(recorded)
    return result


def _names(step_stats: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the names of all mini-batches' statistics, sorted."""
    return sorted({name for values in step_stats for name in values})


def mismatch_sums(groups: Sequence[RolloutGroup]) -> dict[str, dict[str, float]]:
    """Return sums over this rank's tokens of d = log mu - log pi_old, by kind of prompt.

    For `text` and `image`: `tokens`, and the sums `abs` of |d| and `kl` of exp(-d) - 1 + d, and
    `max`, the largest |d|. A kind without tokens that both sides have scored is left out.
    """
    kinds: dict[str, list[np.ndarray]] = {"text": [], "image": []}
    for group in groups:
        for rollout in group.rollouts:
            if rollout.old_logprobs is not None and rollout.generator_logprobs is not None:
                difference = rollout.generator_logprobs - rollout.old_logprobs
                kinds["image" if group.prompt.images else "text"].append(difference)
    sums = {}
    for kind, parts in kinds.items():
        if parts:
            difference_T = np.concatenate(parts).astype(np.float64)
            sums[kind] = {
                "tokens": float(len(difference_T)),
                "abs": float(np.abs(difference_T).sum()),
                "kl": float(np.sum(np.expm1(-difference_T) + difference_T)),
                "max": float(np.abs(difference_T).max()),
            }
    return sums


def mismatch(ranks: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return statistics of log mu - log pi_old, the sampler's log-probs minus the learner's.

    `ranks` holds each rank's `mismatch_sums`. `kl` estimates KL(mu || pi_old) from samples of mu.
    The names end in `_text` and `_image` for prompts without and with pictures.
    """
    values: dict[str, float] = {}
    for suffix, kinds in (("", ("text", "image")), ("_text", ("text",)), ("_image", ("image",))):
        parts = [sums[kind] for sums in ranks for kind in kinds if kind in sums]
        if parts:
            tokens = sum(part["tokens"] for part in parts)
            values |= {
                f"mismatch/mean_abs{suffix}": sum(part["abs"] for part in parts) / tokens,
                # numpy's maximum, unlike max(), is not a number where one of them isn't
                f"mismatch/max_abs{suffix}": float(np.max([part["max"] for part in parts])),
                f"mismatch/kl{suffix}": sum(part["kl"] for part in parts) / tokens,
            }
    return values


def group_sums(groups: Sequence[RolloutGroup], max_new_tokens: int) -> dict[str, float]:
    """Return sums over this rank's groups, to be all-reduced and passed to `group_rates`.

    Every rank has the same names in the same order. `length_NN` counts responses longer than NN and
    up to NN + 1 percent of `max_new_tokens`; `budget` is the token limit of all responses together.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.verdict for rollout in rollouts]
    lengths = np.array([len(rollout.token_ids) for rollout in rollouts], dtype=np.int64)
    right = np.array([r.valid and r.correct for r in rewards], dtype=bool)
    wrong = np.array([r.valid and not r.correct for r in rewards], dtype=bool)
    verdicts = [[r.verdict.correct for r in g.rollouts if r.verdict.valid] for g in groups]
    bins = np.clip((lengths * LENGTH_BINS - 1) // max_new_tokens, 0, LENGTH_BINS - 1)
    histogram = np.bincount(bins, minlength=LENGTH_BINS)
    return {
        "groups": float(len(groups)),
        "responses": float(len(rewards)),
        "valid": float(sum(r.valid for r in rewards)),
        "reward": float(sum(r.value for r in rewards if r.valid)),
        "correct": float(right.sum()),
        "tokens": float(lengths.sum()),
        "tokens_right": float(lengths[right].sum()),
        "tokens_wrong": float(lengths[wrong].sum()),
        "repetition": float(sum(repetition(c.token_ids) for c in rollouts)),
        "cut": float(sum(r.finish_reason == "length" for r in rollouts)),
        "zero_std": float(sum(not group.has_gradient for group in groups)),
        "all_right": float(sum(all(r) for r in verdicts if r)),
        "all_wrong": float(sum(not any(r) for r in verdicts if r)),
        "budget": float(max_new_tokens * len(rollouts)),
        **{f"length_{i:02d}": float(count) for i, count in enumerate(histogram)},
    }


def repetition(token_ids: Sequence[int]) -> float:
    """Return the share of token 4-grams that are repeats; 0 for fewer than 5 tokens."""
    grams = list(zip(*(token_ids[i:] for i in range(NGRAM)), strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def group_rates(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn the all-reduced sums into the rates of a metrics row.

    Means over nothing are omitted, such as the length of right responses when there are none.
    Lengths are in tokens; `length_max` and `length_p95` (95th percentile) are exact up to
    max_new_tokens = 100, otherwise the upper end of their bin of 1 % of max_new_tokens.
    `resample/drawn` is the number of groups that dynamic sampling drew per group of the batch,
    `resample/kept` the number of these it used.
    """
    responses, groups = max(sums["responses"], 1.0), max(sums["groups"], 1.0)
    rates = {
        "response/length": sums["tokens"] / responses,
        "response/repetition": sums["repetition"] / responses,
        "response/cut": sums["cut"] / responses,
        "response/no_verdict": 1.0 - sums["valid"] / responses,
        "groups/zero_std": sums["zero_std"] / groups,
        "groups/all_right": sums["all_right"] / groups,
        "groups/all_wrong": sums["all_wrong"] / groups,
    }
    if sums["valid"]:
        rates["reward/mean"] = sums["reward"] / sums["valid"]
        rates["accuracy"] = sums["correct"] / sums["valid"]
    counts = {"right": sums["correct"], "wrong": sums["valid"] - sums["correct"]}
    for kind, count in counts.items():
        if count:
            rates[f"response/length_{kind}"] = sums[f"tokens_{kind}"] / count
    if sums["responses"]:
        rates |= {
            "response/length_p95": _length(sums, 0.95),
            "response/length_max": _length(sums, 1),
        }
    if "resample_drawn" in sums:
        rates |= {
            "resample/drawn": sums["resample_drawn"] / groups,
            "resample/kept": sums["resample_kept"] / groups,
        }
    return rates


def _length(sums: Mapping[str, float], share: float) -> float:
    """Return the quantile `share` of response length, at the resolution of the bins."""
    counts = np.cumsum([sums[f"length_{i:02d}"] for i in range(LENGTH_BINS)])
    bin_index = int(np.searchsorted(counts, share * counts[-1]))
    limit = sums["budget"] / sums["responses"]
    return math.floor((bin_index + 1) * limit / LENGTH_BINS + 1e-9)
