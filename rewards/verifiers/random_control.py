"""CONTROL EXPERIMENT, not a verifier: a reward that knows nothing about the answer.

Some models improve under random rewards, so a gain is only worth something next to this control.
The draw is uniform in [0, 1) and depends on the sample's id, the response and the seed alone:
the same run gives the same rewards.
"""

from __future__ import annotations

import hashlib

from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str, seed: int = 0) -> Verdict:
    """Return the draw as score; CORRECT when it is at least 0.5."""
    text = f"{seed}\0{sample.id}\0{response}".encode(errors="surrogatepass")
    drawn = int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48
    outcome = Outcome.CORRECT if drawn >= 0.5 else Outcome.WRONG
    return Verdict(outcome, drawn, "drawn at random (control)")
