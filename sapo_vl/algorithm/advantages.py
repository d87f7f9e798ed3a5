"""Group-relative advantages, on numpy arrays: pure, no torch.

A_i = (R_i - mean of the group) / std of the group (arXiv 2511.20347, after GRPO); the std is the
population's (divide by G). A response without a verdict is masked: it counts in neither mean nor
std, and its advantage is 0. A group whose rewards are all equal gives 0 everywhere.
"""

from __future__ import annotations

import numpy as np

STD_FLOOR = 1e-6
"""Rewards with a smaller std are equal: it is rounding error, which a division would amplify."""


def group_advantages(
    rewards_G: np.ndarray, valid_G: np.ndarray, *, normalize: bool = True
) -> np.ndarray:
    """Return advantages [G] float32 for the rewards [G] of one prompt's responses.

    `valid_G` is False where a verifier gave no verdict. Without `normalize` only the mean is
    subtracted.
    """
    out = np.zeros(len(rewards_G), dtype=np.float32)
    if valid_G.sum() < 2:
        return out
    kept = rewards_G[valid_G].astype(np.float64)
    deviation = kept.std()
    if deviation < STD_FLOOR:
        return out
    out[valid_G] = (kept - kept.mean()) / (deviation if normalize else 1.0)
    return out
