"""The closing words of a run: why nothing, or little, was learned, as far as the metrics show it.

The causes are asked for in the order in which one hides the next: without verdicts there are no
rewards; cut responses can't be right; groups of equal rewards have no gradient; and only where
there were gradients may the learning rate be to blame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sapo_vl.algorithm.reward_terms import commonest_cause
from sapo_vl.algorithm.telemetry import ACTIVE_BELOW

MOST = 0.5
"""Share of responses without a verdict from which that is the cause."""

NEARLY_ALL = 0.9
"""Share of cut responses, and of groups without a gradient, from which that is the cause."""

Rows = Sequence[Mapping[str, Any]]
"""A run's training rows, as in metrics.jsonl."""


def explain(rows: Rows, *, mini_batches: int, gated: bool) -> str | None:
    """Return one line about what kept the run from learning, or None.

    `gated` tells whether the objective has SAPO's gate, whose inactivity is worth a word.
    """
    if not rows:
        return None
    return _no_verdict(rows) or _cut(rows) or _no_gradient(rows) or (
        _gate(rows, mini_batches) if gated else None
    )  # fmt: skip


def _no_verdict(rows: Rows) -> str | None:
    share = _mean(rows, "response/no_verdict")
    if share < MOST:
        return None
    return (
        f"{100 * share:.0f} % of the responses had no verdict, and nothing is learned from those: "
        f"{commonest_cause(rows) or 'the causes are in rollouts/'}"
    )


def _cut(rows: Rows) -> str | None:
    share = _mean(rows, "response/cut")
    if share < NEARLY_ALL:
        return None
    return (
        f"{100 * share:.0f} % of the responses were cut at rollout.max_new_tokens, before their "
        "answer: raise it, or warm the model up on shorter solutions"
    )


def _no_gradient(rows: Rows) -> str | None:
    share = _mean(rows, "groups/zero_std")
    if share < NEARLY_ALL:
        return None
    equal = f"{100 * share:.0f} % of the groups had equal rewards and so no gradient"
    if _mean(rows, "groups/all_wrong") >= NEARLY_ALL:
        return (
            f"{equal}: every response was wrong. Are the problems too hard, or does the verifier "
            "expect another form of answer? Look at rollouts/"
        )
    if _mean(rows, "groups/all_right") >= NEARLY_ALL:
        return f"{equal}: every response was right; the problems are too easy for this model"
    return f"{equal}: all responses to a problem were rewarded alike; look at rollouts/"


def _gate(rows: Rows, mini_batches: int) -> str | None:
    """Return why the gate was never active, or None where it was."""
    if any((row.get("gate/active") or 0.0) > 0 for row in rows):
        return None
    if mini_batches == 1:
        return (
            "the gate was never active: with algorithm.num_mini_batches=1 every ratio is 1 and "
            "SAPO is REINFORCE with group advantages"
        )
    max_kl = max((row.get("ratio/kl") or 0.0) for row in rows)
    if max_kl > 0:
        return (
            f"the gate was never active: the ratios stayed so close to 1 (KL at most {max_kl:.1e}) "
            f"that no weight fell below {ACTIVE_BELOW}, as the learning rate keeps steps small"
        )
    return "the gate was never active: no token's ratio moved; is the learning rate too small?"


def _mean(rows: Rows, key: str) -> float:
    """Return the mean over the rows that have the metric; 0 if none has."""
    values = [float(row[key]) for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else 0.0
