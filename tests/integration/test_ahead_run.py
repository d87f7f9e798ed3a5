"""Whole runs with batches sampled ahead: no kill changes a bit, of the learner or of a server.

With difficulty pools, over several epochs of few records, and the best checkpoint.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from killed_runs import SABOTEUR, SMOKE, digest, exact, finished, rows, sabotaged

pytestmark = pytest.mark.slow

EVERY_KILL = os.environ.get("SAPO_TEST_KILLS") == "all"
STEPS = 4
OVERRIDES = (
    "data.synthetic_train=16",
    "data.rest_after=1",
    "data.synthetic_test=12",
    "sft.steps=0",
    f"rollout.steps={STEPS}",
    "rollout.prompts=8",
    "rollout.group_size=2",  # half of the saboteur's groups are all right or all wrong
    "rollout.max_new_tokens=8",
    "checkpoint.every=1",
    "run.rollouts_every=1",
    "learner.lr=1e-4",
    "evaluation.problems=4",
    "evaluation.samples=1",
    "evaluation.greedy=false",
    "evaluation.every=2",
    "checkpoint.best=avg",
    "generator.max_model_len=512",
    f"rewards=[{{fn: '{SABOTEUR}:score'}}]",
)
LAGS = (0, 1, 2) if EVERY_KILL else (1,)
SAMPLER = (
    ("generator.backend=server", "generator.local_servers=1")
    if EVERY_KILL
    else ("generator.backend=transformers",)
)
STRIKES = [("update:6:SIGTERM", (143,))]  # in step 2's second mini-batch
EVERY_STRIKE = [
    ("sent:1:SIGKILL", (-9,)),  # before the first weights
    ("asked:3:SIGKILL", (-9,)),  # in a call of the sampler
    ("update:2:SIGKILL", (-9,)),
    ("saving:1:SIGKILL", (-9,)),
    ("saved:1:SIGKILL", (-9,)),  # right after step 1's checkpoint
    ("asked:2:SERVER", (1,)),  # the server is killed while it samples
    ("update:3:SIGTERM", (143,)),
    ("sent:2:SIGKILL", (-9,)),
    # The server is killed while the learner trains. The run stops if it was sampling for a later
    # step; else it is started anew, and the run goes on to the next strike.
    ("update:4:SERVER,export:1:SIGKILL", (1, -9)),
    ("export:1:SIGKILL", (-9,)),
]
"""What `scripts/kills.sh` does, with a real server; CI strikes once, with an engine in process."""


def train(run: Path, lag: int, *, resume: bool = False, strike: str = ""):
    options = ["--config", SMOKE, *OVERRIDES, *SAMPLER, f"rollout.ahead={lag}"]
    return sabotaged(
        "train", *(["--resume"] if resume else options), f"run.dir={run}", strike=strike
    )


@pytest.mark.parametrize("lag", LAGS)
def test_kills_change_no_bit_of_a_run_with_a_lag(lag, tmp_path):
    reference, run = tmp_path / "reference", tmp_path / "run"
    finished(train(reference, lag))
    for number, (strike, codes) in enumerate(EVERY_STRIKE if EVERY_KILL else STRIKES):
        done = train(run, lag, resume=number > 0, strike=strike)
        assert done.returncode in codes, (strike, done.stdout[-3000:], done.stderr[-6000:])
        assert not (run / "final").exists(), strike
    finished(train(run, lag, resume=True))
    for phase in ("train", "eval"):
        assert [exact(r) for r in rows(run, phase)] == [exact(r) for r in rows(reference, phase)]
    for folder in ("final", "best"):
        for file in sorted((reference / folder).iterdir()):
            assert digest(run / folder / file.name) == digest(file), file
    resting = [row["pool/resting"] for row in rows(run, "train")]
    assert 0 < max(resting) <= 16, "the test's own premise"
    ages = [row.get("staleness/age", 0.0) for row in rows(run, "train")]
    assert ages == [min(step, lag) for step in range(STEPS)]
    both = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    resumed, whole = ({k: v for k, v in each.items() if k != "seconds"} for each in both)
    assert resumed == whole
