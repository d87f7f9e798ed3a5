"""vLLM beside the learner: sleep, new weights, waking, and the parity of log-probs after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gpu_check.learning import batch, configuration, rendered, scores
from gpu_check.outcome import Outcome, Setting, at_most
from sapo_vl.algorithm import objectives
from sapo_vl.model.assets import open_assets

PARITY = {"cpu": 1e-4, "cuda": 2e-2}
"""Bound of the mean |learner's - sampler's log-prob|, in nats: float32 and bfloat16."""

STRONG_LR = 3e-2
"""So that the update moves log-probs far beyond the bound: stale weights must not pass."""


def check_engine(setting: Setting) -> Iterator[Outcome]:
    """Sleep, update and wake twice; sample text alone first, then pictures.

    What the engine adds to the text layers for pictures is not kept over sleep: where it isn't
    cleared after waking, a batch of text alone gets what the memory happens to hold.
    """
    from sapo_vl.generator.base import SamplingParams, build, requests_of
    from sapo_vl.learner.engine import Learner

    on_gpu = setting.device == "cuda"
    dtype = "bfloat16" if on_gpu else "float32"
    config = configuration(setting, dtype, "learner.zero_stage=2")
    assets = open_assets(setting.folder / "model")
    learner = Learner(config, assets)
    engine = build(config, assets, seed=0)
    text, *pictures = rendered(assets, config)
    probe = batch(assets, config)
    before = scores(learner, probe)
    for cycle in (1, 2):
        figures = {}
        engine.sleep()
        if on_gpu:
            figures["free_GiB_asleep"] = torch.cuda.mem_get_info()[0] / 2**30
        learner.update(probe, objectives.build(config), STRONG_LR)
        engine.update_weights(learner.weights())
        after = scores(learner, probe)
        figures["moved_nats"] = float(np.abs(after - before).mean())
        before = after
        for label, prompts in (("text alone", [text]), ("pictures", pictures)):
            params = SamplingParams(4, 1.0, 16)
            groups = engine.generate(requests_of(prompts, params, [cycle] * len(prompts)))
            rollouts = [rollout for group in groups for rollout in group]
            learner.fill_old_logprobs(rollouts)
            gaps = np.concatenate([np.abs(r.old_logprobs - r.generator_logprobs) for r in rollouts])
            what = f"parity after waking {cycle}, {label}, {dtype}"
            bound = PARITY[setting.device]
            yield at_most(what, bound, float(gaps.mean()), largest=float(gaps.max()), **figures)
    learner.close()  # first: the engine takes the process group with it
    engine.close()
