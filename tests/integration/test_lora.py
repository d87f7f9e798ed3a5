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
from sapo_vl.model.assets import BAN_BIAS, ModelAssets, open_assets
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import load_weights
from sapo_vl.schema import Rollout

pytestmark = pytest.mark.slow

OVERHEAD = 150_000
"""Bytes of names and settings in DeepSpeed's files, at most."""


def groups_of(rollouts: list[Rollout]) -> list[list[Rollout]]:
    """Return the rollouts of each prompt."""
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(id(rollout.prompt), []).append(rollout)
    return list(groups.values())


def own_logprobs(model, assets: ModelAssets, group: list[Rollout]) -> torch.Tensor:
    """Return the log-probs of a prompt's responses, one after the other, at temperature 1.

    By the model's own forward pass over rows padded on the right.
    """
    prompt, count = group[0].prompt, len(group)
    start = len(prompt.expanded_ids)
    rows = [torch.tensor(prompt.expanded_ids + rollout.token_ids) for rollout in group]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    pictures = {}
    if prompt.pixel_values is not None:
        pictures = {
            "pixel_values": prompt.pixel_values.repeat(count, 1),
            "image_grid_thw": prompt.grid_thw.repeat(count, 1),
        }
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        mm_token_type_ids=(ids == assets.image_token_id).int(),
        use_cache=False,
        **pictures,
    ).logits[:, start - 1 : -1]
    bias = torch.zeros(logits.shape[-1])
    bias[list(assets.banned_ids)] = BAN_BIAS
    chosen = (logits + bias).log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]
    return chosen[mask[:, start:] == 1]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_gradients_equal_pefts(tiny_folders, family, tmp_path):
    """PEFT's model with transformers' forward pass, against both layouts of the learner.

    Of both matrices, with B away from zero, so that A has a gradient too.
    """
    assets = open_assets(tiny_folders(family))
    prompts = PromptRenderer(assets, tiny_config(Path(assets.path)).data).render(make_samples())
    rollouts = make_rollouts(prompts)
    model = load_weights(assets, "float32")
    lora.inject(model, LoraConfig(rank=8, alpha=16, targets="all"), (), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    named = ((lora.peft_name(n), p) for n, p in model.named_parameters() if lora.is_adapter(n))
    lora.write_adapter(tmp_path / "adapter", named, lora.settings_of(model, assets.path))
    theirs = PeftModel.from_pretrained(
        load_weights(assets, "float32"), tmp_path / "adapter", is_trainable=True
    )
    for group in groups_of(rollouts):
        parts = own_logprobs(theirs, assets, group).split([len(r.token_ids) for r in group])
        sum(r.advantage * p.sum() for r, p in zip(group, parts, strict=True)).backward()
    expected = {
        name.removeprefix(lora.PEFT_PREFIX): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    for layout in ("padded", "shared_prefix"):
        if layout == "padded":
            model.set_attn_implementation("sdpa")
        policy = Policy(model, assets, 1.0, layout)
        model.zero_grad()
        for batch in policy.layout.plan(rollouts, 200):
            parts = policy(batch).out.logprobs_N.split([len(r.token_ids) for r in batch])
            sum(r.advantage * p.sum() for r, p in zip(batch, parts, strict=True)).backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys() == {n for n in found if lora.is_adapter(n)}
        assert {"visual", "language_model"} == {name.split(".")[1] for name in found}
        for name, gradient in expected.items():
            assert float(gradient.norm()) > 0
            gap = float((found[name] - gradient).norm())
            assert gap <= 1e-5 * float(gradient.norm()), (layout, name)


def test_adapters_reach_the_engine_and_faults_are_refused(tiny_folder, assets, renderer, tmp_path):
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
    assert set(result["merged"]) == {"learner", "adapter"}
    assert max(result["merged"].values()) <= 1e-5
    assert result["folders"] == 1
    assert not result["left behind"]
    assert {name for name, told in result["planted"].items() if "weights" not in told} == set()
    assert "drawing" in result["planted"]["stale encoder cache"]
    theirs = PeftModel.from_pretrained(
        load_weights(assets, "float32"), tmp_path / "merged" / "adapter"
    )
    whole = load_weights(open_assets(tmp_path / "merged"), "float32")
    plain = load_weights(assets, "float32")
    for group in groups_of(make_rollouts(renderer.render(make_samples()))):
        with torch.no_grad():
            found, merged, bare = (own_logprobs(m, assets, group) for m in (theirs, whole, plain))
        torch.testing.assert_close(found, merged, atol=1e-5, rtol=0)
        assert float((found - bare).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("keys", "bytes_each"),
    [
        ((), 4 + 8),  # a float32 weight and its two moments
        (("model.dtype=bfloat16", "learner.zero_stage=2"), 2 + 4 + 8),  # and a float32 copy
        (("learner.zero_stage=3",), 4 + 8),  # the copies alone
    ],
)
def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(
    tiny_folder, renderer, assets, tmp_path, keys, bytes_each
):
    config = tiny_config(tiny_folder, "model.lora.rank=8", *keys)
    prompts = renderer.render(make_samples())

    def learner(*more):
        return Learner(tiny_config(tiny_folder, "model.lora.rank=8", *keys, *more), assets)

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
    count = sum(tensor.numel() for tensor in expected.values())
    saved = sum(file.stat().st_size for file in (tmp_path / "learner").iterdir())
    assert count * bytes_each < saved < count * bytes_each + OVERHEAD
    assert first.frozen.parameters * 2 > 10 * OVERHEAD  # none of the base fits into that
    held = dict(whole_weights(tmp_path / "learner", assets.family, torch.float32))
    assert {lora.peft_name(name) for name in held} == expected.keys()
    stored = load_file(tmp_path / "out" / "adapter" / lora.WEIGHTS)
    assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
    third = learner(f"model.lora.path={tmp_path / 'out' / 'adapter'}")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in third.adapter())
    assert third.check_frozen() == first.frozen
    third.close()
