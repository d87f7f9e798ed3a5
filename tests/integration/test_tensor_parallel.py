"""Two ranks that share one vLLM engine sample what an engine of one rank samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, torchrun
from shared_engine import COUNTS, PARAMS, problems

from sapo_vl.evaluation.heldout import EvalSpec, evaluate
from sapo_vl.generator.base import requests_of
from sapo_vl.generator.sampling import SampleEngine, problem_seed
from sapo_vl.rewards.rubric import Rubric

pytestmark = pytest.mark.slow

WORKER = ROOT / "tests" / "integration" / "worker_tensor_parallel.py"


@pytest.fixture(scope="module")
def shared(tiny_folder, tmp_path_factory):
    """Return the folder with the results of two ranks with one engine; a deadlock is an error."""
    out = tmp_path_factory.mktemp("tensor_parallel")
    done = torchrun(2, WORKER, tiny_folder, out)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert "done" in done.stdout
    return out


def test_any_number_of_problems_is_evaluated(shared, engine, renderer, tmp_path):
    alone = SampleEngine(engine, renderer, Rubric.from_terms([("boxed", 1.0)]))
    spec = EvalSpec(1, 1.0, 4, greedy=True, seed=0)
    evaluate(alone, problems(max(COUNTS)), spec, tmp_path / "alone.jsonl")
    expected = {
        (line["id"], line["mode"]): line["response"]
        for line in map(json.loads, (tmp_path / "alone.jsonl").read_text().splitlines())
    }
    assert len(set(expected.values())) > max(COUNTS)  # random, not one answer
    for count in COUNTS:
        lines = [json.loads(x) for x in (shared / f"{count}.jsonl").read_text().splitlines()]
        assert {(x["id"], x["mode"]) for x in lines} == {
            (f"p{i}", mode) for i in range(count) for mode in ("sampled", "greedy")
        }
        assert len(lines) == 2 * count
        for line in lines:
            assert line["response"] == expected[line["id"], line["mode"]]


def test_logprobs_are_those_of_an_engine_of_one_rank(shared, engine, renderer):
    """Nine prompts on one rank and one on the other."""
    own = [torch.load(shared / f"rollouts-{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [len(part) for part in own] == [2 * 9, 2 * 1]
    prompts = {prompt.sample.id: prompt for prompt in renderer.render(problems(17))}
    names = [name for part in own for name, _, _ in part[::2]]
    requests = requests_of(
        [prompts[name] for name in names], PARAMS, [problem_seed(0, name) for name in names]
    )
    alone = [rollout for group in engine.generate(requests) for rollout in group]
    for (name, ids, logprobs), rollout in zip([*own[0], *own[1]], alone, strict=True):
        assert ids == rollout.token_ids, name
        assert np.abs(logprobs - rollout.generator_logprobs).max() <= 1e-5


def test_a_run_trains_with_a_shared_engine(shared):
    """ZeRO-3 weights reach both halves of the engine: its log-probs stay the learner's."""
    rows = [json.loads(line) for line in (shared / "run" / "metrics.jsonl").open()]
    trained = [row for row in rows if row["phase"] == "train"]
    assert [row["step"] for row in trained] == [1, 2]
    for row in trained:
        assert row["mismatch/max_abs"] <= 1e-5
    summary = json.loads((shared / "run" / "summary.json").read_text())
    assert summary["after"]["problems"] == 3
