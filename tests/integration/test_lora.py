"""Adapters in training: gradients, delivery to vLLM with planted faults, checkpoints, exports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, environment, make_rollouts, make_samples, tiny_config
from peft import PeftModel
from safetensors.torch import load_file

from sapo_vl.algorithm import objectives
from sapo_vl.config.sections import LoraConfig
from sapo_vl.learner.engine import Learner
from sapo_vl.learner.policy import Policy
from sapo_vl.learner.saved_weights import whole_weights
from sapo_vl.model import lora
from sapo_vl.model.assets import open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_gradients_equal_pefts_on_the_padded_layout(tiny_folders, family):
    """Of both matrices, with B away from zero, so that A has a gradient too."""
    assets = open_assets(tiny_folders(family))
    prompts = PromptRenderer(assets, tiny_config(Path(assets.path)).data).render(make_samples())
    rollouts = make_rollouts(prompts)
    model = load_weights(assets, "float32")
    lora.inject(model, LoraConfig(rank=8, alpha=16, targets="all"), (), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    found = []
    for layout in ("padded", "shared_prefix"):
        if layout == "padded":
            model.set_attn_implementation("sdpa")
        policy = Policy(model, assets, 1.0, layout)
        model.zero_grad()
        for batch in policy.layout.plan(rollouts, 200):
            parts = policy(batch).out.logprobs_N.split([len(r.token_ids) for r in batch])
            sum(r.advantage * p.sum() for r, p in zip(batch, parts, strict=True)).backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    padded, packed = found
    assert padded.keys() == packed.keys() == {n for n in padded if lora.is_adapter(n)}
    for name, gradient in padded.items():
        assert float(gradient.norm()) > 0
        assert float((packed[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


def test_adapters_reach_the_engine_and_faults_are_refused(tiny_folder, tmp_path):
    worker = ROOT / "tests/integration/worker_lora.py"
    done = subprocess.run(
        [sys.executable, str(worker), str(tiny_folder), str(tmp_path / "merged")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["first"] <= 1e-5
    assert result["last"] <= 1e-5
    assert result["merged"] <= 1e-5
    assert result["folders"] == 1
    assert not result["left behind"]
    assert {name for name, told in result["planted"].items() if "weights" not in told} == set()
    assert "drawing" in result["planted"]["stale encoder cache"]
    base = PeftModel.from_pretrained(
        load_weights(open_assets(tiny_folder), "float32"), tmp_path / "merged" / "adapter"
    )
    whole = load_weights(open_assets(tmp_path / "merged"), "float32")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(
            base(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("keys", [(), ("model.dtype=bfloat16", "learner.zero_stage=2")])
def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(
    tiny_folder, renderer, assets, tmp_path, keys
):
    config = tiny_config(tiny_folder, "model.lora.rank=8", *keys)
    prompts = renderer.render(make_samples())

    def learner():
        return Learner(config, assets)

    def step(of, seed):
        rollouts = make_rollouts(prompts, seed=seed)
        of.update(rollouts, objectives.build(config), 1e-2)

    first = learner()
    step(first, 1)
    first.save(tmp_path)
    step(first, 2)
    expected = {name: tensor.clone() for name, tensor in first.adapter()}
    first.export(tmp_path / "out")  # asserts that the base has not moved
    first.close()
    second = learner()
    second.load(tmp_path)
    step(second, 2)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.adapter())
    second.close()
    adapter_bytes = 4 * sum(tensor.numel() for tensor in expected.values())
    saved = sum(file.stat().st_size for file in (tmp_path / "learner").iterdir())
    assert saved < 5 * adapter_bytes  # the weights, their float32 copy and two moments
    held = dict(whole_weights(tmp_path / "learner", assets.family, torch.float32))
    assert {lora.peft_name(name) for name in held} == expected.keys()
    stored = load_file(tmp_path / "out" / "adapter" / lora.WEIGHTS)
    assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
