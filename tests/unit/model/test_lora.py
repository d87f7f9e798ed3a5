"""Adapters: which layers get them, that they start without effect, names, merging, refusals."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from sapo_vl import config as configs
from sapo_vl.config.sections import LoraConfig
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.model import lora
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import load_weights

ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
MLP = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
TOWERS = {
    "qwen2_vl": {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"},
    "qwen2_5_vl": {"attn.qkv", "attn.proj", *MLP},
    "qwen3_vl": {"attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"},
    "qwen3_5": {"attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2"},
}


def fresh(folder):
    return load_weights(open_assets(folder), "float32")


def injected(folder, frozen=(), seed=0, **options):
    model = fresh(folder)
    lora.inject(model, LoraConfig(rank=8, **options), frozen, seed)
    return model


def layers(model, part):
    """Return the names below a layer of the modules with an adapter in a part of the model."""
    return {
        name.split(".lora_A.")[0].split(f"{part}.")[1].split(".", 1)[1]
        for name, _ in model.named_parameters()
        if ".lora_A." in name and f"{part}." in name
    }


@pytest.mark.parametrize("family", TOWERS)
def test_the_layers_with_adapters(tiny_folders, family):
    language = injected(tiny_folders(family))
    assert layers(language, "language_model.layers") == ATTENTION | MLP
    assert layers(language, "visual.blocks") == set()
    both = injected(tiny_folders(family), targets="all")
    assert layers(both, "language_model.layers") == ATTENTION | MLP
    assert layers(both, "visual.blocks") == TOWERS[family]


def test_layers_by_name_and_frozen_components(tiny_folder):
    some = injected(tiny_folder, targets=["q_proj", "mlp.down_proj", "qkv"])
    assert layers(some, "language_model.layers") == {"self_attn.q_proj", "mlp.down_proj"}
    assert layers(some, "visual.blocks") == {"attn.qkv"}
    frozen = injected(tiny_folder, frozen=["vision"], targets="all")
    assert layers(frozen, "visual.blocks") == set()


def test_only_adapters_are_trained_and_they_change_nothing_yet(tiny_folder):
    ids = torch.tensor([[5, 6, 7, 8]])
    model, base = injected(tiny_folder), fresh(tiny_folder)
    assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == lora.is_adapter(name), name
        if lora.is_adapter(name):
            assert bool((parameter == 0).all()) == (".lora_B." in name)


def test_the_seed_decides_the_adapters_and_nothing_else_is_drawn(tiny_folder):
    def first(seed):
        torch.manual_seed(9)
        model = injected(tiny_folder, seed=seed)
        return next(p for n, p in model.named_parameters() if ".lora_A." in n), torch.rand(1)

    (a, after_a), (b, after_b), (c, _) = first(1), first(1), first(2)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(after_a, after_b)


def test_names_in_modules_and_files():
    name = "model.language_model.layers.0.mlp.up_proj.lora_B.default.weight"
    stored = "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B.weight"
    assert lora.peft_name(name) == stored
    assert lora.module_name(stored) == name


def test_merging_by_hand():
    weights = [
        ("x.base_layer.weight", torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        ("x.base_layer.bias", torch.tensor([5.0, 6.0])),
        ("y.weight", torch.tensor([7.0])),
    ]
    adapters = {
        "x.lora_A.default.weight": torch.tensor([[1.0, -1.0]]),
        "x.lora_B.default.weight": torch.tensor([[2.0], [3.0]]),
    }
    merged = dict(lora.merged(weights, adapters, 0.5))
    assert merged["x.weight"].tolist() == [[2.0, 1.0], [4.5, 2.5]]
    assert merged["x.bias"].tolist() == [5.0, 6.0]
    assert merged["y.weight"].tolist() == [7.0]


def test_the_sum_is_rounded_once():
    """1 + 2^-8 lies half-way between two bfloat16 numbers and is rounded to the even one, 1."""
    adapters = {
        "x.lora_A.default.weight": torch.tensor([[2.0**-8 + 2.0**-12]]).bfloat16(),
        "x.lora_B.default.weight": torch.tensor([[1.0]]).bfloat16(),
    }
    ((_, tensor),) = lora.merged([("x.weight", torch.tensor([[1.0]]).bfloat16())], adapters, 1.0)
    assert tensor.dtype == torch.bfloat16
    assert float(tensor) == 1.0078125


def written(tmp_path, folder, **options):
    """Write a model's adapters, with B filled, as a folder, and return it with the model."""
    model = injected(folder, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    out = tmp_path / "adapter"
    named = ((lora.peft_name(n), p) for n, p in model.named_parameters() if lora.is_adapter(n))
    settings = lora.settings_of(model, str(folder))
    size = lora.write_adapter(out, named, settings)
    assert (out / lora.WEIGHTS).stat().st_mode & 0o444 == 0o444
    assert size == 4 * sum(p.numel() for n, p in model.named_parameters() if lora.is_adapter(n))
    return out, model


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, tiny_folder, monkeypatch):
    out, model = written(tmp_path, tiny_folder)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fill(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lora, "write_tensors", fill)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            lora.write_adapter(folder, [], lora.settings_of(model, "base"))
    assert list(tmp_path.iterdir()) == [out]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_peft_reads_what_is_written(tmp_path, tiny_folder):
    out, model = written(tmp_path, tiny_folder, alpha=24)
    ids = torch.tensor([[5, 6, 7, 8]])
    theirs = PeftModel.from_pretrained(fresh(tiny_folder), out)
    with torch.no_grad():
        expected, found = model(input_ids=ids).logits, theirs(input_ids=ids).logits
        base = fresh(tiny_folder)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert float((found - base).abs().max()) > 1e-2


def test_a_run_starts_from_an_adapter(tmp_path, tiny_folder):
    out, model = written(tmp_path, tiny_folder)
    again = injected(tiny_folder, path=out, seed=5)
    own = dict(model.named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in again.named_parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 9}, "lora_alpha=8.* set model.lora.alpha"),
        ({"targets": ["q_proj"]}, "holds model.*set model.lora.targets"),
        ({"targets": "all"}, "lacks model.visual.*set model.lora.targets"),
    ],
)
def test_an_adapter_of_other_layers_is_refused(tmp_path, tiny_folder, options, words):
    out, _ = written(tmp_path, tiny_folder)
    with pytest.raises(DataError, match=words) as caught:
        injected(tiny_folder, path=out, **options)
    assert f"model.lora.path={out}" in str(caught.value)


def test_a_folder_that_is_no_adapter_is_refused(tmp_path, tiny_folder):
    for content in (None, "[]", "{"):
        if content is not None:
            (tmp_path / lora.SETTINGS).write_text(content)
            save_file({"x": torch.zeros(1)}, tmp_path / lora.WEIGHTS)
        with pytest.raises(DataError, match=str(tmp_path)):
            injected(tiny_folder, path=tmp_path)
    (tmp_path / lora.SETTINGS).write_text(json.dumps({"r": 8, "lora_alpha": 8, "use_dora": True}))
    with pytest.raises(DataError, match="of another kind"):
        injected(tiny_folder, path=tmp_path)


def test_experts_are_refused(tiny_folders):
    for family in ("qwen3_vl_moe", "qwen3_5_moe"):
        with pytest.raises(ConfigError, match="experts"):
            injected(tiny_folders(family))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "in_proj_qkv", "linear_attn.norm"])
def test_layers_that_cannot_have_adapters_are_refused(tiny_folders, target):
    with pytest.raises(ConfigError, match=f"'{target}' is no linear layer .*q_proj"):
        injected(tiny_folders("qwen3_5"), targets=[target])


def test_nothing_left_to_adapt_is_refused(tiny_folder):
    with pytest.raises(ConfigError, match=r"model\.freeze"):
        injected(tiny_folder, frozen=["language"])


def test_the_default_learning_rate_of_adapters():
    def lr(*overrides):
        return configs.load(None, list(overrides)).learner.lr

    assert lr() == pytest.approx(1e-6)
    assert lr("model.lora.rank=8") == pytest.approx(1e-5)
    assert lr("model.lora.rank=8", "learner.lr=3e-6") == pytest.approx(3e-6)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lora.alpha=8"], "need model.lora.rank"),
        (["model.lora.path=x"], "need model.lora.rank"),
        (["model.lora.rank=12"], "model.lora.rank=12"),
        (["model.lora.rank=8", "model.lora.targets=[]"], "targets is empty"),
        (["model.lora.rank=8", "model.lora.path=x", "sft.steps=3"], "needs sft.steps=0"),
        (["model.lora.ranks=8"], "model.lora.rank"),
    ],
)
def test_wrong_keys_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        configs.load(None, overrides)
