"""Gaps between the log-probs of vLLM and of the learner, before and after a weight update.

python worker_engine.py FOLDER ..     -> one JSON list per folder, in a list on stdout's last line
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from helpers import make_samples, tiny_config  # noqa: E402

from sapo_vl.generator.base import Generator, SamplingParams, build, requests_of  # noqa: E402
from sapo_vl.learner.policy import Policy  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.model.weights import load_weights  # noqa: E402
from sapo_vl.schema import Prompt  # noqa: E402


@torch.no_grad()
def gap(engine: Generator, policy: Policy, prompts: list[Prompt]) -> float:
    """Return the largest difference of log-probs over a few sampled rollouts, in nats."""
    groups = engine.generate(requests_of(prompts, SamplingParams(2, 1.0, 12), [1] * len(prompts)))
    rollouts = [rollout for group in groups for rollout in group]
    trainer_logprobs = policy(rollouts).out.logprobs_N.numpy()
    generator_logprobs = np.concatenate([r.generator_logprobs for r in rollouts])
    return float(np.abs(trainer_logprobs - generator_logprobs).max())


def gaps(folder: Path) -> list[float]:
    """Return the gap at the start, and after every weight was changed."""
    config, assets = tiny_config(folder), open_assets(folder)
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    engine = build(config, assets, seed=0)
    model = load_weights(assets, "float32")
    policy = Policy(model, assets, 1.0, "shared_prefix")
    found = [gap(engine, policy, prompts)]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    layout = assets.family.to_checkpoint_layout
    engine.update_weights((n, layout(n, p.detach())) for n, p in model.named_parameters())
    found.append(gap(engine, policy, prompts))
    engine.close()
    return found


print(json.dumps([gaps(Path(folder)) for folder in sys.argv[1:]]))
