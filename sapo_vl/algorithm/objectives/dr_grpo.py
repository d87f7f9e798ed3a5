"""Dr. GRPO (arXiv 2503.20783): GRPO without its two biases.

    J = mean over responses of sum over its tokens of min(r A, clip(r, 1 - 0.2, 1 + 0.2) A) / L

A is the reward minus the group's mean, not divided by the group's standard deviation (which would
favour very easy and very hard problems), and L is max_new_tokens for all responses (dividing by the
response's own length would favour short right and long wrong ones). The paper sums without any
L; the constant does not change the gradient's direction.
"""

from __future__ import annotations

from sapo_vl.algorithm.objectives import grpo
from sapo_vl.algorithm.objectives.clipping import ClipOptions


class Options(ClipOptions):
    """The section `dr_grpo` of a run's config."""

    low: float = ClipOptions.below(0.2)
    high: float = ClipOptions.above(0.2)


loss = grpo.loss
