"""What vLLM does with the tiny models of some families, against the learner's log-probs.

python worker_engine.py FOLDER ..     -> a JSON list with an object for each folder on the last line
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from helpers import make_samples, tiny_config  # noqa: E402

from sapo_vl.generator import engine_options  # noqa: E402
from sapo_vl.generator.base import (  # noqa: E402
    Generator,
    SamplingParams,
    build,
    requests_of,
    sampler_dtype,
)
from sapo_vl.learner.policy import Policy  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.model.weights import load_weights  # noqa: E402
from sapo_vl.schema import Prompt, Rollout  # noqa: E402

SAMPLING = SamplingParams(4, 1.0, 8)

# The step's budget is then max_model_len, less than the 16 prompts of a call hold together: some
# prompt is longer than what is left of a step.
engine_options.PREFILL_TOKENS["cpu"] = 0


def sample(engine: Generator, prompts: list[Prompt]) -> list[Rollout]:
    """Return the rollouts of one call, always with the same seeds."""
    groups = engine.generate(requests_of(prompts, SAMPLING, [1] * len(prompts)))
    return [rollout for group in groups for rollout in group]


@torch.no_grad()
def gap(rollouts: list[Rollout], policy: Policy) -> tuple[float, float]:
    """Return the mean and the largest difference of log-probs, in nats."""
    trainer_logprobs = policy(rollouts).out.logprobs_N.numpy()
    generator_logprobs = np.concatenate([r.generator_logprobs for r in rollouts])
    differences = np.abs(trainer_logprobs - generator_logprobs)
    return float(differences.mean()), float(differences.max())


def figures(folder: Path) -> dict[str, Any]:
    """Return the gaps before, without and after an update, and what seeds give."""
    config, assets = tiny_config(folder), open_assets(folder)
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    engine = build(config, assets, seed=0)
    model = load_weights(assets, "float32")
    policy = Policy(model, assets, 1.0, "shared_prefix")
    first = sample(engine, prompts)
    again = sample(engine, prompts)  # with the first call's prefixes, where they are cached
    tokens = sum(len(prompt.expanded_ids) for prompt in prompts) * SAMPLING.n
    cache = engine._llm.llm_engine.vllm_config.cache_config
    found: dict[str, Any] = {
        "dtype": sampler_dtype(config, assets),
        "cache": [cache.block_size, cache.num_gpu_blocks],
        "steps' worth of prompts": tokens / config.generator.max_model_len,
        "start": gap(first, policy),
        "cached": gap(again, policy),
        "same ids": [r.token_ids for r in first] == [r.token_ids for r in again],
    }
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    found["stale"] = gap(first, policy)
    layout = assets.family.to_checkpoint_layout
    engine.update_weights((n, layout(n, p.detach())) for n, p in model.named_parameters())
    updated = sample(engine, prompts)
    found["updated"] = gap(updated, policy)
    found["updated, cached"] = gap(sample(engine, prompts), policy)
    engine.close()
    return found


print(json.dumps([figures(Path(folder)) for folder in sys.argv[1:]]))
