"""DAPO (arXiv 2503.14476): GRPO's clip with a higher upper bound, averaged over all tokens.

    J = mean over all tokens of all responses of min(r A, clip(r, 1 - 0.2, 1 + 0.28) A)

Long responses weigh more than under GRPO. With it come, unless configured otherwise, dynamic
sampling (`rollout.refill`: groups without a gradient are replaced) and the soft overlong penalty
(the verifier `overlong` with weight -1).
"""

from __future__ import annotations

from sapo_vl.algorithm.objectives import grpo

LOW, HIGH = 0.2, 0.28

loss = grpo.loss
