"""Fingerprints of what a run reads from outside: RUN/inputs.json, compared at each resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sapo_vl.config import Config, tiny_family
from sapo_vl.data.content import content_fingerprint
from sapo_vl.errors import DataError
from sapo_vl.model.assets import open_assets
from sapo_vl.model.fingerprint import model_fingerprint
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.system import distributed

MADE = "made in the run"
"""In place of a fingerprint: procedural problems, the tiny model."""

REFERENCE = "the policy that SAPO starts from (the reference of algorithm.kl_coef)"
"""The name of its weights' digest."""


def input_fingerprints(config: Config) -> dict[str, str]:
    """Return a fingerprint of the model folder and of each data set, by its config key."""
    found = {
        "model.path": MADE
        if tiny_family(config.model.path) is not None
        else model_fingerprint(open_assets(config.model.path).folder),
        "data.path": MADE if config.data.path is None else content_fingerprint(config.data.path),
    }
    if config.sft.steps > 0:
        path = config.sft.data
        found["sft.data"] = "that of data.path" if path is None else content_fingerprint(path)
    return found


def check_inputs(run_dir: Path, fingerprints: Mapping[str, str], *, resume: bool) -> None:
    """Note fingerprints of inputs, by config key; compare those of a resumed run with its notes.

    Raises DataError for one that differs. Ranks read alike; rank 0 writes.
    """
    path = run_dir / "inputs.json"
    known = (read_json(path) or {}) if resume else {}
    for key, fingerprint in fingerprints.items():
        if known.get(key, fingerprint) != fingerprint:
            raise DataError(
                f"{key} holds something else than when the run in {run_dir} was started: "
                "put it back, or start another run"
            )
    distributed.barrier()
    if distributed.rank() == 0:
        write_json(path, known | dict(fingerprints))
