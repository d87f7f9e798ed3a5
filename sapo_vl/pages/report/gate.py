"""The gate's telemetry in words, with the run's own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sapo_vl.algorithm.explain import explain
from sapo_vl.algorithm.telemetry import ACTIVE_BELOW
from sapo_vl.pages.report.load import LoadedRun
from sapo_vl.runs.metrics import MetricsRow
from sapo_vl.runs.plots import is_number

HALF = 1.763
"""|tau (r - 1)| at which sech^2 of its half is 1/2."""


def explained(run: LoadedRun) -> list[str]:
    """Return the paragraphs; one that says why there is nothing, where there is nothing."""
    rows = run.of_phase("train")
    if not _values(rows, "gate/mean"):
        return ["No update has been recorded: the gate has seen no token."]
    gated = _is_gated(run)
    texts = [_what(run) if gated else _clipping(run), _weights(rows, gated=gated)]
    if gated:
        texts.append(_signs(rows))
    texts += [_mini_batches(rows), _ratios(rows)]
    if _values(rows, "gate/gap_pos") or _values(rows, "gate/gap_neg"):
        texts.append(_theory(rows))
    closing = explain(rows, mini_batches=_mini_batch_count(run), gated=gated)
    if closing:
        texts.append(f"In one line: {closing}.")
    return [text for text in texts if text]


def _is_gated(run: LoadedRun) -> bool:
    return run.settings.get("objective") == "sapo" and _option(run, "gate", "sigmoid") != "none"


def _option(run: LoadedRun, name: str, default: Any) -> Any:
    return run.settings.get(f"sapo.{name}", default)


def _what(run: LoadedRun) -> str:
    shape = _option(run, "gate", "sigmoid")
    taus = [(sign, _option(run, f"tau_{sign}", None)) for sign in ("pos", "neg")]
    known = [(sign, float(tau)) for sign, tau in taus if is_number(tau)]
    text = (
        "The gate decides how far a token's gradient is trusted. Its weight w depends on the ratio "
        "r of the token's probability now to that at the start of the step, and is 1 at r = 1. "
    )
    if shape == "hard":
        text += "This run's gate is hard: w drops from 1 to 0"
    else:
        text += "With SAPO's gate, w = sech²(τ/2 · (r − 1)), which falls to 1/2"
    places = [
        f"at r = {1 + HALF / tau:.2f} for tokens of {'better' if sign == 'pos' else 'worse'} than "
        f"average responses (τ = {tau:g})"
        for sign, tau in known
    ]
    return f"{text} {' and '.join(places)}." if places else f"{text}."


def _clipping(run: LoadedRun) -> str:
    objective = run.settings.get("objective", "?")
    if objective == "sapo":
        return "sapo.gate=none: every weight is 1, which is plain importance sampling."
    return (
        f"The objective {objective} has no soft gate. Its weight of a token is 1 inside the "
        "objective's bounds and 0 where it clips, so that the mean below is the share of tokens "
        "that are trained on."
    )


def _weights(rows: Sequence[MetricsRow], *, gated: bool) -> str:
    means = _values(rows, "gate/mean")
    lowest = min(range(len(means)), key=lambda i: means[i][1])
    step, least = means[lowest]
    name = "weight" if gated else "share"
    text = (
        f"Over the run the mean {name} was {_w(_mean(means))}; it was lowest in step {step}, at "
        f"{_w(least)}."
    )
    active = _values(rows, "gate/active")
    if gated and active:
        text += (
            f" {_percent(_mean(active))} of the tokens had a weight below {ACTIVE_BELOW}: on these "
            "the gate did something."
        )
    return text


def _signs(rows: Sequence[MetricsRow]) -> str:
    pos, neg = _values(rows, "gate/mean_pos"), _values(rows, "gate/mean_neg")
    if not pos or not neg:
        return ""
    text = (
        f"Tokens of better responses had a mean weight of {_w(_mean(pos))}, those of worse ones "
        f"{_w(_mean(neg))}"
    )
    closer = "worse" if _mean(neg) < _mean(pos) else "better"
    text += f": the gate held back the {closer} ones more."
    below = [(sign, _values(rows, f"gate/below_0.5_{sign}")) for sign in ("pos", "neg")]
    worst = max((value for _, found in below for _, value in found), default=0.0)
    if worst > 0:
        text += f" At most {_percent(worst)} of a step's tokens of one sign were below 0.5."
    return text


def _mini_batches(rows: Sequence[MetricsRow]) -> str:
    """Say how the weight falls from the first update of a step to its last."""
    lists = [row["mini_batches"].get("gate/mean") or [] for row in rows if row.get("mini_batches")]
    count = max(map(len, lists), default=0)
    if count < 2:
        return ""
    means = []
    for index in (0, count - 1):
        values = [one[index] for one in lists if len(one) == count and is_number(one[index])]
        means.append(sum(values) / len(values) if values else None)
    first, last = means
    if first is None or last is None:
        return ""
    return (
        f"A step makes {count} updates. At the first one the policy is still the one that the "
        f"ratios refer to, and the mean weight was {_w(first)}; at the last one it was {_w(last)}."
    )


def _ratios(rows: Sequence[MetricsRow]) -> str:
    kl, ess = _values(rows, "ratio/kl"), _values(rows, "ratio/ess")
    if not kl or not ess:
        return ""
    step, largest = max(kl, key=lambda pair: pair[1])
    clamped = sum(value for _, value in _values(rows, "ratio/clamped"))
    text = (
        f"Within a step the policy moved by {_mean(kl):.2g} nats of KL on average and by "
        f"{largest:.2g} at most (step {step}); the effective share of tokens after weighting with "
        f"r was never below {_percent(min(value for _, value in ess))}."
    )
    if clamped:
        text += " Some log ratios were beyond 20 and clamped: the policy ran away there."
    return text


def _theory(rows: Sequence[MetricsRow]) -> str:
    parts = []
    for sign, words in (("pos", "better"), ("neg", "worse")):
        gap, bound = _values(rows, f"gate/gap_{sign}"), _values(rows, f"gate/bound_{sign}")
        broken = _values(rows, f"gate/bound_broken_{sign}")
        if gap and bound and broken:
            parts.append(
                f"{_mean(gap):.2g} with a bound of {_mean(bound):.2g} for {words} responses "
                f"({_percent(_mean(broken))} of them beyond their own bound)"
            )
    if not parts:
        return ""
    return (
        "The paper replaces a response's token gates by one gate of the whole response. On this "
        f"run's tokens the two differ by {' and '.join(parts)}. A response beyond its bound has "
        "ratios too far from 1 for the paper's approximation."
    )


def _mini_batch_count(run: LoadedRun) -> int:
    count = run.settings.get("algorithm.num_mini_batches")
    return count if isinstance(count, int) else 2


def _values(rows: Sequence[MetricsRow], key: str) -> list[tuple[int, float]]:
    """Return (step, value) of the rows in which the metric is a number."""
    return [(int(row["step"]), float(row[key])) for row in rows if is_number(row.get(key))]


def _mean(values: Sequence[tuple[int, float]]) -> float:
    return sum(value for _, value in values) / len(values)


def _w(weight: float) -> str:
    """Return a weight with 2 significant digits of its distance from 1, but at least 4 decimals."""
    gap = 1 - weight
    if gap < 1e-9:
        return "1"
    return f"{weight:.{max(4, 1 - math.floor(math.log10(gap)))}f}"


def _percent(share: float) -> str:
    """Return a share; small ones with 2 significant digits."""
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:.2g} %"
