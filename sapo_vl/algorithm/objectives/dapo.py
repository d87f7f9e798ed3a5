"""DAPO (arXiv 2503.14476): GRPO's clip with a higher upper bound, averaged over all tokens.

    J = mean over all tokens of all responses of min(r A, clip(r, 1 - 0.2, 1 + 0.28) A)

Long responses weigh more than under GRPO. Unless the config says otherwise, DAPO turns on dynamic
sampling (`rollout.max_resample_rounds`: groups without a gradient are resampled) and the soft
overlong penalty (the verifier `overlong` with weight -1).
"""

from __future__ import annotations

from sapo_vl.algorithm.objectives import grpo
from sapo_vl.algorithm.objectives.clipping import ClipOptions

MAX_RESAMPLE_ROUNDS = 3


class Options(ClipOptions):
    """The section `dapo` of a run's config."""

    low: float = ClipOptions.below(0.2)
    high: float = ClipOptions.above(0.28)


loss = grpo.loss
