"""What only a GPU can show: FlexAttention backward, the colocated engine, bf16.

Run by `bash scripts/gpu_check.sh`; skipped, with this reason, where there is no GPU.
"""

from __future__ import annotations

import pytest
import torch

from sapo_vl.learner import attention
from sapo_vl.learner.attention import SharedPrefix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_flex_attention_equals_dense_forward_and_backward():
    device = torch.device("cuda")
    groups = [(70, [33, 5, 0, 64]), (130, [17, 90])]
    layout = SharedPrefix.build(groups, device)
    total = len(layout.group_T)
    results = []
    for form in ("flex", "dense"):
        torch.manual_seed(0)
        q, k, v = (
            torch.randn(1, heads, total, 64, device=device, requires_grad=True)
            for heads in (8, 4, 4)
        )
        out = attention.FORMS[form](None, q, k, v, None, scaling=0.125, layout=layout)[0]
        out.square().sum().backward()
        results.append([out.detach(), q.grad, k.grad, v.grad])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_flash_kernels_equal_dense_forward_and_backward():
    device = torch.device("cuda")
    groups = [(700, [330, 5, 0, 640]), (1130, [170, 900])]
    layout = SharedPrefix.build(groups, device)
    total = len(layout.group_T)
    results = []
    for form in ("varlen", "dense"):
        torch.manual_seed(0)
        q, k, v = (
            torch.randn(1, h, total, 128, device=device, dtype=torch.bfloat16, requires_grad=True)
            for h in (32, 8, 8)
        )
        out = attention.FORMS[form](None, q, k, v, None, scaling=128**-0.5, layout=layout)[0]
        out.float().square().sum().backward()
        results.append([out.detach(), q.grad, k.grad, v.grad])
    for a, b in zip(*results, strict=True):
        assert (a - b).float().norm() < 2e-2 * b.float().norm()


def test_the_colocated_engine_sleeps_wakes_and_takes_weights(tiny_folder):
    from helpers import make_samples, tiny_config

    from sapo_vl.generator.base import SamplingParams, build, requests_of
    from sapo_vl.learner.engine import Learner
    from sapo_vl.model.assets import open_assets
    from sapo_vl.model.prompts import PromptRenderer

    config = tiny_config(tiny_folder, "model.dtype=bfloat16", "learner.zero_stage=2")
    assets = open_assets(tiny_folder)
    learner = Learner(config, assets)
    engine = build(config, assets, seed=0)
    prompts = PromptRenderer(assets, config.data).render(make_samples())
    for _ in range(2):
        engine.sleep()
        engine.update_weights(learner.weights())
        requests = requests_of(prompts, SamplingParams(4, 1.0, 16), [1] * len(prompts))
        # Text alone first: it has no pictures' rows to overwrite what the sleep left behind.
        groups = engine.generate(requests[:1]) + engine.generate(requests[1:])
        rollouts = [rollout for group in groups for rollout in group]
        assert len(rollouts) == 4 * len(prompts)
        learner.fill_old_logprobs(rollouts)
        gaps = [abs(r.old_logprobs - r.generator_logprobs).mean() for r in rollouts]
        assert sum(gaps) / len(gaps) < 0.05  # bf16 on both sides
    engine.close()
