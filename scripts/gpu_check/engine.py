"""vLLM beside the learner: sleep, new weights, waking, and the parity of log-probs after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gpu_check.learning import PARITY, batch, configuration, dtype_of, rendered, scores
from gpu_check.outcome import Outcome, Setting, at_most
from sapo_vl.algorithm import objectives
from sapo_vl.model.assets import open_assets

STRONG_LR = 3e-2
"""So that the update moves log-probs far beyond the bound: stale weights must not pass."""


def check_engine(setting: Setting) -> Iterator[Outcome]:
    """Sleep, update and wake twice; sample text alone first, then pictures.

    What the engine adds to the text layers for pictures is not kept over sleep: where it isn't
    cleared after waking, a batch of text alone gets what the memory happens to hold. So the memory
    is filled while the engine sleeps. The optimizer's state sleeps in turn with the engine.
    """
    from sapo_vl.generator.base import SamplingParams, build, requests_of
    from sapo_vl.learner.engine import Learner

    on_gpu = setting.device == "cuda"
    dtype = dtype_of(setting)
    overrides = ("learner.zero_stage=2", "learner.offload_while_sampling=true")
    config = configuration(setting, dtype, *overrides)
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
            figures["free_GiB_asleep"] = _fill_free_memory() / 2**30
        learner.update(probe, objectives.build(config), STRONG_LR)
        learner.sleep()
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


def _fill_free_memory() -> int:
    """Write 3.0 to nine tenths of the GPU's free memory and free it; return the free bytes."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    filled = torch.full((int(0.9 * free) // 4,), 3.0, device="cuda")
    del filled
    torch.cuda.empty_cache()
    return free
