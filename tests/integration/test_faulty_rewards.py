"""A run among ten faults of its judge and ten of a user's verifier ends with its model.

Every second new question to the judge and every fourth response to the user's function meets the
next fault; each is counted in the metrics under its reason, and the others' rewards are used.
"""

from __future__ import annotations

import json
from collections import Counter

import faulty_verifiers
import pytest
from faulty_judge import FaultyJudge, data_of
from helpers import ROOT, cli

pytestmark = pytest.mark.slow

JUDGE_FAULTS = {
    "html": "HTML page",
    "empty": "reply is empty",
    "null_message": "has no message",
    "list_content": "message is no text",
    "broken_json": "is no JSON",
    "deep_json": "nested too deep",
    "closes": "closed or broken",
    "hangs": "no reply within",
    "redirects": "redirects",
    "endless": "longer than",
}
VERIFIER_FAULTS = {
    "raises": "raised KeyError",
    "returns_none": "returned None",
    "returns_nan": "returned nan",
    "returns_dict": "returned a dict",
    "huge_verdict": "a Verdict with the score",
    "sleeps": "timeout: no answer within",
    "exits": "left with exit code 3",
    "kills_itself": "ended by SIGKILL",
    "leaves_an_orphan": "left with exit code 1",
    "prints_garbage": "crash: the worker was killed",
}


class Choice:
    """The judge's replies: each pair of answers keeps its own, every second pair a fault."""

    def __init__(self):
        self.kinds = {}

    def __call__(self, number, body):
        data = data_of(body)
        pair = (data["question"], *sorted((data["answer 1"], data["answer 2"])))
        count = len(self.kinds)
        fault = list(JUDGE_FAULTS)[count // 2 % 10] if count % 2 else "verdict"
        return self.kinds.setdefault(pair, fault)


def test_the_run_ends_and_every_fault_is_counted(tmp_path):
    assert {function.__name__ for function in faulty_verifiers.TEN} == set(VERIFIER_FAULTS)
    run, folder = tmp_path / "run", tmp_path / "faults"
    folder.mkdir()
    user = f"{faulty_verifiers.__file__}:cycle"
    with FaultyJudge(Choice()) as judge:
        done = cli(
            "train",
            *("--config", ROOT / "configs" / "train" / "smoke.yaml", f"run.dir={run}"),
            *("sft.steps=2", "data.synthetic_train=60", "data.synthetic_test=16"),
            *("rollout.steps=2", "rollout.prompts=8", "rollout.group_size=4"),
            *("evaluation.problems=4", "evaluation.samples=1", "evaluation.greedy=false"),
            *("generator.backend=transformers", "run.tensorboard=false"),
            f"rewards=[{{fn: answer_or_judge}}, {{fn: '{user}', weight: 0.5}}]",
            f"judge={{url: '{judge.url}', model: m, timeout_seconds: 2}}",
            *("verifier.timeout_seconds=1", "verifier.max_no_verdict=0.95"),
            timeout=300,
            FAULTS_FOLDER=str(folder),
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
    assert (run / "final" / "model.safetensors").exists()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["phase"] == "train"]
    causes = Counter()
    for row in steps:
        causes.update(row.get("no_verdict") or {})
        assert 0 < row["response/no_verdict"] < 1
    for kind, expected in (("judge", JUDGE_FAULTS), ("cycle", VERIFIER_FAULTS)):
        for fault, words in expected.items():
            counted = [cause for cause in causes if kind in cause and words in cause]
            assert counted, (fault, dict(causes))
