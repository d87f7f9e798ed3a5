"""One of two ranks that share a vLLM engine: evaluations of many sizes, then a training run.

test_tensor_parallel.py starts it: worker_tensor_parallel.py MODEL OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import torch  # noqa: E402
from helpers import tiny_config  # noqa: E402
from shared_engine import COUNTS, PARAMS, problems  # noqa: E402

from sapo_vl import train  # noqa: E402
from sapo_vl.evaluation.heldout import EvalSpec, evaluate  # noqa: E402
from sapo_vl.generator import sampling  # noqa: E402
from sapo_vl.generator.base import build, requests_of  # noqa: E402
from sapo_vl.generator.sampling import SampleEngine, problem_seed  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.rewards.rubric import Rubric  # noqa: E402
from sapo_vl.system import distributed  # noqa: E402
from sapo_vl.training import trainer  # noqa: E402

CHUNK = 32
"""Problems of an engine call, 16 of each rank: 65 and 129 are more calls on one than the other."""


def main() -> None:
    """Write what the shared engine sampled to OUT."""
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    distributed.init()
    assets = open_assets(model)
    config = tiny_config(model, "generator.tensor_parallel=2")
    renderer = PromptRenderer(assets, config.data)
    generator = build(config, assets, seed=0)
    rubric = Rubric.from_terms([("boxed", 1.0)])
    engine = SampleEngine(generator, renderer, rubric, tensor_parallel=2)
    sampling.REQUESTS = 2 * CHUNK
    for count in COUNTS:
        spec = EvalSpec(1, 1.0, 4, greedy=True, seed=0)
        evaluate(engine, problems(count), spec, out / f"{count}.jsonl")
    own = renderer.render(problems(17))[distributed.rank() :: 2]
    own = own if distributed.rank() == 0 else own[:1]
    seeds = [problem_seed(0, prompt.sample.id) for prompt in own]
    groups = generator.generate(requests_of(own, PARAMS, seeds))
    rollouts = [
        (r.prompt.sample.id, r.token_ids, r.generator_logprobs) for group in groups for r in group
    ]
    torch.save(rollouts, out / f"rollouts-{distributed.rank()}.pt")
    trainer.build = lambda *_, **__: generator
    train.main(
        tiny_config(
            model,
            f"run.dir={out / 'run'}",
            "objective=dapo",  # resamples groups without a gradient: unequal numbers of prompts
            "generator.tensor_parallel=2",
            "learner.zero_stage=3",
            "rollout.steps=2",
            "rollout.prompts=5",
            "rollout.group_size=2",
            "rollout.max_new_tokens=4",
            "rewards=[{fn: format, weight: 1.0}]",
            "algorithm.num_mini_batches=2",
            "data.synthetic_train=40",
            "data.synthetic_test=3",
            "evaluation.problems=3",
            "evaluation.samples=1",
            "run.tensorboard=false",
        ),
        resume=False,
    )
    distributed.print0("done")


if __name__ == "__main__":
    main()
