"""Fingerprints of what a run reads from outside, to be compared when it is resumed."""

from __future__ import annotations

from sapo_vl.config import Config
from sapo_vl.data.content import content_fingerprint
from sapo_vl.model.assets import open_assets
from sapo_vl.model.fingerprint import model_fingerprint

MADE = "made in the run"
"""In place of a fingerprint: procedural problems, the tiny model."""


def input_fingerprints(config: Config) -> dict[str, str]:
    """Return a fingerprint of the model folder and of each data set, by its config key."""
    found = {
        "model.path": MADE
        if config.model.path == "tiny"
        else model_fingerprint(open_assets(config.model.path).folder),
        "data.path": MADE if config.data.path is None else content_fingerprint(config.data.path),
    }
    if config.sft.steps > 0:
        path = config.sft.data
        found["sft.data"] = "that of data.path" if path is None else content_fingerprint(path)
    return found
