"""The published sizes: their parameters, and which names mean them."""

from __future__ import annotations

import pytest
import torch

from sapo_vl.model import shapes

PUBLISHED = {
    "Qwen2-VL-2B": 2_208_985_600,
    "Qwen2-VL-7B": 8_291_375_616,
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656,
    "Qwen2.5-VL-32B": 33_452_718_336,
    "Qwen3.5-0.8B": 873_438_784,
    "Qwen3.5-2B": 2_274_069_824,
    "Qwen3.5-4B": 4_659_865_088,
    "Qwen3.5-9B": 9_653_104_368,
    "Qwen3.5-27B": 27_781_427_952,
    "Qwen3.5-35B-A3B": 35_951_822_704,
    "Qwen3.5-122B-A10B": 125_086_497_008,
    "Qwen3.5-397B-A17B": 403_397_928_944,
    "Qwen3.6-27B": 27_781_427_952,
    "Qwen3.6-35B-A3B": 35_951_822_704,
}
"""Parameters of the safetensors files on the hub, tied weights once."""


@pytest.mark.parametrize(("size", "published"), PUBLISHED.items())
def test_parameters_are_those_of_the_published_weights(size, published):
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shapes.of_size(size))
    count = sum(p.numel() for p in model.parameters())
    if not size.startswith("Qwen2"):
        # The files also hold the layer that predicts a second token: an attention layer, the
        # product that joins its two inputs, and three norms. transformers leaves it out.
        width = model.config.text_config.hidden_size
        attends = model.model.language_model.layers[3]
        count += sum(p.numel() for p in attends.parameters()) + 2 * width**2 + 3 * width
    assert count == published


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen3.5-4B", "Qwen3.5-4B"),
        ("models/qwen3.5-4b-base", "Qwen3.5-4B"),
        ("Qwen/Qwen3.5-2B", "Qwen3.5-2B"),
        ("Qwen/Qwen3.5-27B", "Qwen3.5-27B"),
        ("Qwen/Qwen3.5-9B", "Qwen3.5-9B"),
        ("Qwen/Qwen3.5-397B-A17B", "Qwen3.5-397B-A17B"),
        ("Qwen/Qwen3.6-35B-A3B", "Qwen3.6-35B-A3B"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL-3B"),
        ("Qwen/Qwen2.5-VL-32B-Instruct", "Qwen2.5-VL-32B"),
        ("Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL-2B"),
        ("Qwen/Qwen3-VL-30B-A3B-Thinking", "Qwen3-VL-30B-A3B"),
    ],
)
def test_a_name_means_one_size(name, size):
    assert shapes.configuration(name).to_dict() == shapes.of_size(size).to_dict()


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3.5-4Bx",
        "Qwen/Qwen3.6-4B",
        "Qwen/Qwen3-VL-235B-A22B-Instruct",
        "Qwen/Qwen2.5-VL-72B-Instruct",
        "Qwen/Qwen3.5-MoE",
        "my-model",
    ],
)
def test_other_names_mean_none(name):
    assert shapes.configuration(name) is None


def test_what_qwen3_5_is_made_of():
    config = shapes.of_size("Qwen3.5-4B")
    text, vision = config.text_config, config.vision_config
    assert (text.vocab_size, text.head_dim, text.max_position_embeddings) == (248_320, 256, 262_144)
    assert (text.linear_num_key_heads, text.linear_num_value_heads) == (16, 32)
    assert (text.linear_key_head_dim, text.linear_value_head_dim) == (128, 128)
    assert text.layer_types == (["linear_attention"] * 3 + ["full_attention"]) * 8
    assert text.rope_parameters["mrope_section"] == [11, 11, 10]
    assert text.rope_parameters["rope_theta"] == 10_000_000
    assert text.rope_parameters["partial_rotary_factor"] == 0.25
    assert (vision.depth, vision.hidden_size, vision.out_hidden_size) == (24, 1024, 2560)
    assert config.tie_word_embeddings
    assert not shapes.of_size("Qwen3.5-9B").tie_word_embeddings
    assert not hasattr(vision, "deepstack_visual_indexes")
