"""One file per verifier: `score(sample, response) -> Verdict`."""
