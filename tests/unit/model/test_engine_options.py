"""What families ask of vLLM: nothing, or what gated delta nets need."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_config

from sapo_vl.errors import DataError
from sapo_vl.generator.base import sampler_dtype
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.weights import check_model

HYBRIDS = ("qwen3_5", "qwen3_5_moe")


def widths(key: int, value: int) -> SimpleNamespace:
    return SimpleNamespace(
        text_config=SimpleNamespace(linear_key_head_dim=key, linear_value_head_dim=value)
    )


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize("width", [64, 128])
def test_delta_nets_on_a_cpu_are_bfloat16_without_prefix_caching(name, width):
    options = FAMILIES[name].engine_options(widths(width, width), on_gpu=False)
    assert options == {
        "mamba_ssm_cache_dtype": "float32",
        "dtype": "bfloat16",
        "enable_prefix_caching": False,
    }


def test_delta_nets_on_a_gpu_have_any_width_and_type():
    options = FAMILIES["qwen3_5"].engine_options(widths(32, 96), on_gpu=True)
    assert options == {"mamba_ssm_cache_dtype": "float32"}


@pytest.mark.parametrize(("key", "value"), [(32, 32), (256, 256), (64, 128), (128, 64)])
def test_other_widths_are_refused_on_a_cpu(key, value):
    expected = f"linear_key_head_dim={key} and linear_value_head_dim={value} .* 64 or 128"
    with pytest.raises(DataError, match=expected):
        FAMILIES["qwen3_5"].engine_options(widths(key, value), on_gpu=False)


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - set(HYBRIDS)))
def test_attention_alone_needs_nothing(name):
    assert FAMILIES[name].engine_options(None, on_gpu=False) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the engine would run on the GPU")
def test_preflight_refuses_a_folder_that_vllm_cannot_run(tiny_folders, tmp_path, monkeypatch):
    folder = tiny_folders("qwen3_5")
    monkeypatch.setattr("sapo_vl.model.families.qwen3_5.WIDTHS_ON_CPU", (128,))
    config = tiny_config(folder)
    with pytest.raises(DataError, match=f"model.path={folder}: linear_key_head_dim=64"):
        check_model(config)
    check_model(tiny_config(folder, "generator.backend=transformers"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the engine would run on the GPU")
def test_the_samplers_type(tiny_folders):
    assets = open_assets(tiny_folders("qwen3_5"))
    config = tiny_config(tiny_folders("qwen3_5"))
    assert config.model.dtype == "float32"
    assert sampler_dtype(config, assets) == "bfloat16"
    other = tiny_config(tiny_folders("qwen3_5"), "generator.backend=transformers")
    assert sampler_dtype(other, assets) == "float32"
    plain = open_assets(tiny_folders("qwen3_vl"))
    assert sampler_dtype(config, plain) == "float32"
