"""A step's numbers against a slow reference: plain Python from saved log-probs and advantages."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from helpers import bare_prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.algorithm import sapo, telemetry
from sapo_vl.algorithm.surrogate import LossInputs
from sapo_vl.algorithm.telemetry import UpdateReport
from sapo_vl.schema import Rollout

TEXT, IMAGE = bare_prompt(), bare_prompt(images=1)

ROWS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.floats(-60, 0, width=32),  # log pi_theta
                st.one_of(st.none(), st.floats(-60, 0, width=32)),  # log pi_old, or near it
                st.floats(0, 5, width=32),  # entropy
            ),
            min_size=1,
            max_size=12,
        ),
        st.floats(-3, 3, width=32).filter(bool),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=100)
@given(ROWS, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.95, 1.05, 8.0]))
def test_mini_batch_agrees_with_a_slow_reference(drawn, tau_pos, tau_neg):
    """From saved log-probs and advantages, token by token, with the loss's own arrays between."""
    rows = []
    for tokens, advantage, image in drawn:
        new = [float(n) for n, _, _ in tokens]
        old = [n + 0.01 * i if o is None else o for i, (n, o, _) in enumerate(tokens)]
        entropy = [e for _, _, e in tokens]
        rows.append((new, [float(np.float32(o)) for o in old], entropy, advantage, image))
    fast = telemetry.mini_batch_stats(saved_report(rows, tau_pos, tau_neg), (tau_pos, tau_neg))
    slow = reference(rows, tau_pos, tau_neg)
    for name, value in slow.items():
        # the loss's w is 4 p (1 - p) in float32; where r multiplies its last bit, r is up to 35
        tolerance = 1e-5 if "max_wr" in name else 1e-6
        assert fast[name] == pytest.approx(value, rel=1e-6, abs=tolerance), name
    for sign, excesses in beyond_bound(rows, tau_pos, tau_neg).items():
        if all(abs(excess - 1e-6) > 1e-6 for excess in excesses):  # else float32 decides
            broken = share(excess > 1e-6 for excess in excesses)
            assert fast[f"gate/bound_broken_{sign}"] == pytest.approx(broken)
    left = set(fast) - set(slow)
    assert all(name.startswith(("gate/p", "gate/bound_broken")) or name in KEPT for name in left)


KEPT = ("loss", "surrogate", "grad_norm")


def saved_report(rows, tau_pos, tau_neg):
    """The report that the loss gives for these rows."""
    lengths = [len(new) for new, *_ in rows]
    out = sapo.loss(
        LossInputs(
            torch.tensor([n for new, *_ in rows for n in new]),
            torch.tensor([o for _, old, *_ in rows for o in old]),
            torch.tensor(np.repeat([row[3] for row in rows], lengths), dtype=torch.float32),
            torch.ones(sum(lengths)),
            torch.tensor(lengths),
        ),
        sapo.Options(tau_pos=tau_pos, tau_neg=tau_neg),
    )
    return UpdateReport(
        rollouts=[
            Rollout(IMAGE if image else TEXT, [0] * len(new), advantage=advantage)
            for new, _, _, advantage, image in rows
        ],
        entropy_T=np.array([e for row in rows for e in row[2]], dtype=np.float32),
        clamped=float(out.clamped),
        log_ratio_T=out.log_ratio_T.numpy(),
        gate_weight_T=out.gate_weight_T.numpy(),
        grad_coefficient_T=out.grad_coefficient_T.numpy(),
    )


def reference(rows, tau_pos, tau_neg):
    """The same numbers in plain Python, in double precision."""
    tokens, responses = [], []
    for new, old, entropy, advantage, image in rows:
        tau = tau_pos if advantage > 0 else tau_neg
        log_ratios = [float(np.float32(n) - np.float32(o)) for n, o in zip(new, old, strict=True)]
        clipped = [max(-20.0, min(20.0, z)) for z in log_ratios]
        weights = [sech2(tau / 2 * (math.exp(z) - 1)) for z in clipped]
        for z, raw, w, e in zip(clipped, log_ratios, weights, entropy, strict=True):
            r = math.exp(z)
            tokens.append((advantage > 0, image, w, r, r - 1 - z, abs(raw) > 20, e))
        mean = fmean(clipped)
        variance = fmean((z - mean) ** 2 for z in clipped)
        gap = abs(fmean(weights) - sech2(tau / 2 * mean))
        responses.append((advantage > 0, gap, variance, tau**2 / 4 * variance))
    ratios = [t[3] for t in tokens]
    values = {
        "gate/mean": fmean(t[2] for t in tokens),
        "gate/active": share(t[2] < 0.999 for t in tokens),
        "ratio/kl": fmean(t[4] for t in tokens),
        "ratio/ess": sum(ratios) ** 2 / (len(ratios) * sum(r * r for r in ratios)),
        "ratio/clamped": sum(t[5] for t in tokens),
        "entropy": fmean(t[6] for t in tokens),
    }
    for sign, positive in (("pos", True), ("neg", False)):
        chosen = [t for t in tokens if t[0] == positive]
        if chosen:
            _, gaps, variances, bounds = zip(
                *(r for r in responses if r[0] == positive), strict=True
            )
            values |= {
                f"gate/mean_{sign}": fmean(t[2] for t in chosen),
                f"gate/below_0.9_{sign}": share(t[2] < 0.9 for t in chosen),
                f"gate/below_0.5_{sign}": share(t[2] < 0.5 for t in chosen),
                f"gate/max_wr_{sign}": max(t[2] * t[3] for t in chosen),
                f"gate/gap_{sign}": fmean(gaps),
                f"ratio/var_{sign}": fmean(variances),
                f"gate/bound_{sign}": fmean(bounds),
            }
    for kind, image in (("image", True), ("text", False)):
        chosen = [t for t in tokens if t[1] == image]
        if chosen:
            values[f"gate/mean_{kind}"] = fmean(t[2] for t in chosen)
            values[f"ratio/kl_{kind}"] = fmean(t[4] for t in chosen)
    return values


def beyond_bound(rows, tau_pos, tau_neg):
    """By how much each response's gap exceeds its bound, by sign."""
    excesses = {}
    for row in rows:
        sign = "pos" if row[3] > 0 else "neg"
        values = reference([row], tau_pos, tau_neg)
        excesses.setdefault(sign, []).append(
            values[f"gate/gap_{sign}"] - values[f"gate/bound_{sign}"]
        )
    return excesses


def sech2(x: float) -> float:
    return math.cosh(x) ** -2 if abs(x) < 300 else 0.0


def share(flags) -> float:
    return fmean(float(flag) for flag in flags)
