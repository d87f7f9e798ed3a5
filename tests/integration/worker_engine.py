"""Gaps between the log-probs of vLLM and of the learner, before and after weight updates.

python worker_engine.py FOLDER     -> one JSON list on the last line of stdout
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

from sapo_vl.generator.base import SamplingParams, build  # noqa: E402
from sapo_vl.learner.policy import Policy  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.prompts import PromptRenderer  # noqa: E402
from sapo_vl.model.weights import load_weights  # noqa: E402

path = Path(sys.argv[1])
config = tiny_config(path)
assets = open_assets(path)
prompts = PromptRenderer(assets, config.data).render(make_samples())
engine = build(config, assets, seed=0)
model = load_weights(assets, "float32")
policy = Policy(model, assets, 1.0, "shared_prefix")


@torch.no_grad()
def gap() -> float:
    """Return the largest difference of log-probs over a few sampled rollouts, in nats."""
    groups = engine.generate(prompts, SamplingParams(2, 1.0, 12), [1] * len(prompts))
    rollouts = [rollout for group in groups for rollout in group]
    trainer_logprobs = policy(rollouts).out.logprobs_N.numpy()
    generator_logprobs = np.concatenate([r.generator_logprobs for r in rollouts])
    return float(np.abs(trainer_logprobs - generator_logprobs).max())


gaps = [gap()]
for seed in (1, 2):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    layout = assets.family.to_checkpoint_layout
    engine.update_weights((n, layout(n, p.detach())) for n, p in model.named_parameters())
    gaps.append(gap())
print(json.dumps(gaps))
