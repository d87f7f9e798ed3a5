"""What a SAPO step did, in numbers: gate, staleness, mismatch, rewards. Pure numpy.

`minibatch` describes one optimizer step, `groups` one rollout batch. Names with `_pos` and `_neg`
are split by the sign of the advantage, names with `_text` and `_image` by the prompt. With several
ranks means are taken over rank 0's tokens for gate shares and percentiles (each rank sees an even
share of the prompts); rewards and accuracy are summed over all ranks by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sapo_vl.schema import RolloutGroup

if TYPE_CHECKING:
    from sapo_vl.learner.engine import StepReport

ACTIVE_BELOW = 0.999
"""The gate counts as active where a token's weight is below this."""


def minibatch(report: StepReport, tau_pos: float, tau_neg: float) -> dict[str, float]:
    """Return the gate's and the ratio's statistics of one optimizer step.

    `gate/bound_*` is tau^2/4 times the mean within-response variance of log r: the paper's bound
    (its assumption A2) on the distance between the tokens' mean gate and the gate at their mean.
    """
    if not report.rows:
        return {"loss": 0.0}
    positive = np.array([row.advantage > 0 for row in report.rows])
    values: dict[str, float] = {}
    for sign, chosen, tau in (("pos", positive, tau_pos), ("neg", ~positive, tau_neg)):
        picked = np.flatnonzero(chosen)
        if len(picked) == 0:
            continue
        weight = np.concatenate([report.gate_weight[i] for i in picked])
        log_ratio = np.concatenate([report.log_ratio[i] for i in picked])
        variance = float(np.mean([report.log_ratio[i].var() for i in picked]))
        values |= {
            f"gate/mean_{sign}": float(weight.mean()),
            f"gate/p01_{sign}": float(np.percentile(weight, 1)),
            f"gate/below_0.9_{sign}": float((weight < 0.9).mean()),
            f"gate/below_0.5_{sign}": float((weight < 0.5).mean()),
            f"gate/max_wr_{sign}": float((weight * np.exp(np.clip(log_ratio, -20, 20))).max()),
            f"ratio/var_{sign}": variance,
            f"gate/bound_{sign}": tau**2 / 4 * variance,
        }
    weight = np.concatenate(report.gate_weight)
    log_ratio = np.concatenate(report.log_ratio)
    values |= {
        "gate/mean": float(weight.mean()),
        "gate/p01": float(np.percentile(weight, 1)),
        "gate/active": float((weight < ACTIVE_BELOW).mean()),
        "ratio/kl": float(np.mean(np.expm1(log_ratio) - log_ratio)),
        "ratio/clamped": report.clamped,
        "entropy": float(np.concatenate(report.entropy).mean()),
        "loss": report.loss,
        "surrogate": report.centred,
        "grad_norm": report.grad_norm,
    }
    return values


def mismatch(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Return how far the sampler's log-probs are from the learner's (log mu - log pi_old), by
    token.

    `kl` estimates KL(mu || pi_old) from mu's own samples.
    """
    values: dict[str, float] = {}
    kinds: dict[str, list[np.ndarray]] = {"": [], "_text": [], "_image": []}
    for group in groups:
        kind = "_image" if group.prompt.images else "_text"
        for completion, old in zip(group.completions, group.old_logprobs or [], strict=False):
            difference = completion.generator_logprobs - old
            kinds[kind].append(difference)
            kinds[""].append(difference)
    for kind, parts in kinds.items():
        if parts:
            difference = np.concatenate(parts)
            values |= {
                f"mismatch/mean_abs{kind}": float(np.abs(difference).mean()),
                f"mismatch/max_abs{kind}": float(np.abs(difference).max()),
                f"mismatch/kl{kind}": float(np.mean(np.expm1(-difference) + difference)),
            }
    return values


def group_sums(groups: Sequence[RolloutGroup], max_new_tokens: int) -> dict[str, float]:
    """Return sums over this rank's groups, to be added over ranks and divided by `counts`."""
    rewards = [r for g in groups for r in g.rewards]
    lengths = [len(c.token_ids) for g in groups for c in g.completions]
    rights = [[r.correct for r in g.rewards if r.valid] for g in groups]
    return {
        "groups": float(len(groups)),
        "responses": float(len(rewards)),
        "valid": float(sum(r.valid for r in rewards)),
        "reward": float(sum(r.value for r in rewards if r.valid)),
        "correct": float(sum(r.correct for r in rewards if r.valid)),
        "tokens": float(sum(lengths)),
        "cut": float(sum(c.finish_reason == "length" for g in groups for c in g.completions)),
        "zero_std": float(sum(not np.any(g.advantages) for g in groups)),
        "all_right": float(sum(all(r) for r in rights if r)),
        "all_wrong": float(sum(not any(r) for r in rights if r)),
        "longest": float(max(lengths, default=0) >= max_new_tokens),
    }


def group_rates(sums: dict[str, float]) -> dict[str, float]:
    """Turn the sums over all ranks into the rates of a metrics row."""
    valid = max(sums["valid"], 1.0)
    responses, groups = max(sums["responses"], 1.0), max(sums["groups"], 1.0)
    return {
        "reward/mean": sums["reward"] / valid,
        "accuracy": sums["correct"] / valid,
        "response/length": sums["tokens"] / responses,
        "response/cut": sums["cut"] / responses,
        "response/no_verdict": 1.0 - sums["valid"] / responses,
        "groups/zero_std": sums["zero_std"] / groups,
        "groups/all_right": sums["all_right"] / groups,
        "groups/all_wrong": sums["all_wrong"] / groups,
    }


def explain_gate(rows: Sequence[Mapping[str, Any]], mini_batches: int) -> str | None:
    """Return one line when the gate was never active over a run's rows, with the reason."""
    if not rows or any(row.get("gate/active", 0.0) > 0 for row in rows):
        return None
    if mini_batches == 1:
        return (
            "the gate was never active: with sapo.mini_batches=1 every ratio is 1 and SAPO is "
            "REINFORCE with group advantages"
        )
    return "the gate was never active: no token's ratio moved; is the learning rate too small?"
