"""CONTROL EXPERIMENT, not a verifier: a reward that is independent of the answer.

Some models improve under random rewards, so a gain means little without this control. The score is
uniform in [0, 1) and depends only on the sample's id, the response and the seed: rerunning a run
gives the same rewards.
"""

from __future__ import annotations

import hashlib

from sapo_vl.schema import Outcome, Sample, Verdict


def score(sample: Sample, response: str, seed: int = 0) -> Verdict:
    """Return a pseudo-random score; CORRECT when it is at least 0.5."""
    key = f"{seed}\0{sample.id}\0{response}".encode(errors="surrogatepass")
    value = int.from_bytes(hashlib.sha256(key).digest()[:6], "big") / 2**48
    outcome = Outcome.CORRECT if value >= 0.5 else Outcome.WRONG
    return Verdict(outcome, value, "drawn at random (control)")
