"""Gates f(r) that replace a clip, each with its weight w = f'(r): pure functions.

A gate's weight depends on x = tau * (r - 1) alone and is 1 at r = 1. At |x| = HALF (1.7627, where
sech^2(x/2) = 1/2) the sigmoid's weight is 1/2 and the hard gate's drops from 1 to 0: at the same
temperature both trust an equally wide region.

    sigmoid   w = sech^2(x/2)              SAPO's own (arXiv 2511.20347, Eq. 5 and 8)
    hard      w = 1 where |x| < HALF, else 0: a clip on both sides, whatever the advantage's sign
    none      w = 1: plain importance sampling

Worked numbers (tau 1): at r = 2 the weights are 0.7864, 1, 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

HALF = 2 * math.acosh(math.sqrt(2))
"""|tau * (r - 1)| at which a gate's weight is 1/2."""


class Gate(NamedTuple):
    """A gate as functions of x = tau * (r - 1), elementwise; `value` is tau * f(r)."""

    value: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]  # f'(r)
    at_one: float  # value at x = 0


def _sigmoid_weight(x: Tensor) -> Tensor:
    return 4.0 * torch.sigmoid(x) * torch.sigmoid(-x)


GATES: dict[str, Gate] = {
    "sigmoid": Gate(lambda x: 4.0 * torch.sigmoid(x), _sigmoid_weight, 2.0),
    "hard": Gate(lambda x: x.clamp(-HALF, HALF), lambda x: (x.abs() < HALF).to(x.dtype), 0.0),
    "none": Gate(lambda x: x, torch.ones_like, 0.0),
}
"""All gates, by their names in `sapo.gate`."""


def table(name: str, tau: float) -> str:
    """Return the text of `sapo-vl gate`: w and w * r over r, and where the weight halves."""
    gate = GATES[name]
    ratios = [0.0, 0.1, 0.25, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0]
    r = torch.tensor(ratios)
    w = gate.weight(tau * (r - 1))
    lines = [f"gate {name}, tau {tau:g}", "", "     r        w      w*r"]
    lines += [f"{a:6.2f} {b:8.4f} {a * b:8.4f}" for a, b in zip(ratios, w.tolist(), strict=True)]
    lines += ["", _halving(name, tau)]
    fine = torch.linspace(0, 1 + 20 / tau, 200_001)
    pull = fine * gate.weight(tau * (fine - 1))
    if name != "none":
        at = int(pull.argmax())
        lines.append(f"w*r is largest at r = {float(fine[at]):.2f}: {float(pull[at]):.4f}")
    return "\n".join(lines)


def _halving(name: str, tau: float) -> str:
    if name == "none":
        return "the weight is 1 at every ratio"
    above, below = 1 + HALF / tau, 1 - HALF / tau
    if below > 0:
        return f"the weight halves at r = {above:.3f} and at r = {below:.3f}"
    least = float(GATES[name].weight(torch.tensor(-tau)))
    return f"the weight halves at r = {above:.3f}; below r = 1 it never falls under {least:.3f}"
