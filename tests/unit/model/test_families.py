"""Model families: positions and components per family, refusals, and the resize rule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import cli, make_sample, make_samples, picture, tiny_config
from PIL import Image
from qwen_vl_utils import fetch_image, smart_resize

from sapo_vl.data import images
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.learner.patch_embedding import PatchProduct
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES, family_of
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.model.weights import freeze, load_weights, trainable_rows


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request, tiny_folders):
    return open_assets(tiny_folders(request.param))


@pytest.fixture(scope="module")
def module(opened):
    return load_weights(opened, "float32")


def rendered(assets):
    return PromptRenderer(assets, tiny_config(Path(assets.path)).data).render(make_samples())


def test_each_folder_gets_its_family(opened):
    assert opened.family is FAMILIES[opened.config.model_type]
    assert opened.factor == 16
    assert len(opened.banned_ids) == 4
    assert opened.image_token_id in opened.banned_ids


def test_a_mixture_of_experts_has_a_block_in_each_layer(opened, module):
    blocks = opened.family.expert_blocks(module)
    layers = list(module.model.language_model.layers)
    if opened.config.model_type.endswith("_moe"):
        assert [id(block) for block in blocks] == [id(layer.mlp) for layer in layers]
        held = {n for block in blocks for n, _ in block.named_parameters() if "shared" not in n}
        assert held == {"gate.weight", "experts.gate_up_proj", "experts.down_proj"}
    else:
        assert blocks == []


def test_a_dense_layer_among_experts_is_no_block(tiny_moe_folder):
    assets = open_assets(tiny_moe_folder)
    model = load_weights(assets, "float32")
    first, second = model.model.language_model.layers
    first.mlp = torch.nn.Sequential(second.mlp.experts)  # no router of its own
    assert assets.family.expert_blocks(model) == [second.mlp]


def test_positions_equal_the_librarys(opened, module):
    for prompt in rendered(opened):
        ids_1L = torch.tensor([prompt.expanded_ids])
        expected, delta = module.model.get_rope_index(
            ids_1L,
            mm_token_type_ids=(ids_1L == opened.image_token_id).int(),
            image_grid_thw=prompt.grid_thw,
            attention_mask=torch.ones_like(ids_1L),
        )
        assert torch.equal(prompt.position_ids, expected[:, 0])
        assert prompt.next_position == int(expected.max()) + 1
        assert prompt.next_position == len(prompt.expanded_ids) + int(delta)


def test_explicit_positions_and_encoded_images_give_the_models_own_states(opened, module):
    """What the learner passes is what the model's own forward computes from ids and pixels."""
    prompt = rendered(opened)[-1]
    ids_1L = torch.tensor([prompt.expanded_ids])
    with torch.no_grad():
        features = opened.family.encode_images(module.model, prompt.pixel_values, prompt.grid_thw)
        explicit = module.model(
            input_ids=ids_1L,
            position_ids=prompt.position_ids[:, None],
            mm_encoder_outputs={"image": features},
        ).last_hidden_state
        inferred = module.model(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.grid_thw,
            mm_token_type_ids=(ids_1L == opened.image_token_id).int(),
        ).last_hidden_state
    torch.testing.assert_close(explicit, inferred, atol=1e-6, rtol=0)


def test_the_sum_of_features_reaches_every_parameter_of_the_tower(opened, module):
    prompt = rendered(opened)[1]
    module.zero_grad()
    features = opened.family.encode_images(module.model, prompt.pixel_values, prompt.grid_thw)
    opened.family.sum_features(features).backward()
    without = [
        name
        for name, parameter in module.named_parameters()
        if opened.family.component(name) != "language" and parameter.grad is None
    ]
    assert without == []
    module.zero_grad()


def test_the_patch_embedding_is_found_and_equals_the_product(opened, module):
    conv = opened.family.patch_embedding(module).proj
    patches = torch.randn(3, *conv.weight.shape[1:], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PatchProduct(conv)(patches), conv(patches)[:, :, 0, 0, 0])


def test_the_checkpoint_layout_is_its_own_inverse_and_moves_only_experts(opened, module):
    moved = set()
    for name, tensor in module.named_parameters():
        stored = opened.family.to_checkpoint_layout(name, tensor)
        assert torch.equal(opened.family.to_checkpoint_layout(name, stored), tensor)
        if stored is not tensor:
            moved.add(name.split(".mlp.")[-1])
    experts = {"experts.gate_up_proj", "experts.down_proj"}
    assert moved == (experts if opened.config.model_type == "qwen3_vl_moe" else set())


def test_freezing_the_tower_leaves_the_language_model(opened, module):
    freeze(module, ["vision"])
    trained = {name: trained for name, _, trained in trainable_rows(module)}
    total = {name: total for name, total, _ in trainable_rows(module)}
    assert trained["vision"] == trained["merger"] == 0
    assert total["vision"] > 0
    assert total["merger"] > 0
    assert trained["language"] == trained["all"] == total["language"]
    freeze(module, [])


def test_freezing_a_component_without_parameters_is_refused(module, monkeypatch):
    family = family_of(module.config.model_type)
    monkeypatch.setattr(type(family), "component", lambda self, name: "language")
    with pytest.raises(ConfigError, match=r"model\.freeze=\['vision'\].*'vision'"):
        freeze(module, ["vision"])


def test_a_sliding_window_is_refused(tmp_path, tiny_folders):
    folder = tmp_path / "windows"
    shutil.copytree(tiny_folders("qwen2_5_vl"), folder)
    tree = json.loads((folder / "config.json").read_text())
    del tree["text_config"]["layer_types"]
    tree["text_config"] |= {
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    }
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"model\.path.*layer_types\[1\]='sliding_attention'"):
        open_assets(folder)


@pytest.mark.parametrize("model_type", ["internvl", "glm4v", "llava", "qwen3", "no_such_type"])
def test_an_unknown_model_type_names_the_families(tmp_path, model_type):
    config = {"model_type": model_type, "vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=model_type) as caught:
        open_assets(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"model.path={tmp_path}")
    assert all(known in message for known in FAMILIES)
    assert "\n" not in message


@pytest.mark.slow
def test_a_dry_run_of_another_family_is_one_line_and_exit_code_2(tmp_path):
    config = {"model_type": "internvl", "vision_config": {}, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = f"run.dir={tmp_path / 'run'}"
    done = cli("train", "--dry-run", f"model.path={tmp_path}", run)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "internvl" in line
    assert "qwen3_vl" in line


@pytest.mark.parametrize("factor", [28, 32])  # Qwen2.5-VL, Qwen3-VL
@pytest.mark.parametrize(("least", "most"), [(4, 16384), (4, 256), (1, 16), (64, 64)])
def test_token_counts_equal_qwen_vl_utils(factor, least, most):
    """Wherever its size is inside the budget and no side is 0; budgets are in visual tokens."""
    area, compared = factor**2, 0
    for width, height in np.random.default_rng(0).integers(1, 2000, (2000, 2)).tolist():
        if max(width, height) > 200 * min(width, height):
            continue
        theirs = smart_resize(height, width, factor, least * area, most * area)
        if not 0 < theirs[0] * theirs[1] <= most * area:
            continue
        budget = {"factor": factor, "min_pixels": least * area, "max_pixels": most * area}
        for rule in (images.smart_resize, smart_resize):
            size = images.target_size(width, height, **budget, rule=rule)
            assert (size.height, size.width) == theirs
        assert images.visual_tokens(size, factor) == theirs[0] * theirs[1] // area
        compared += 1
    assert compared > (1500 if least < most else 500)


@pytest.mark.parametrize("sizes", [(40, 40), (200, 90), (37, 311), (500, 500)])
def test_pictures_and_counts_equal_qwen_vl_utils_reading(opened, sizes):
    """The library reads, scales and counts the same picture; patch size 8, merge 2."""
    data = tiny_config(Path(opened.path)).data
    (prompt,) = PromptRenderer(opened, data).render([make_sample([sizes])])
    theirs = fetch_image(
        {
            "image": Image.open(images.BytesIO(picture(*sizes))),
            "min_pixels": data.min_pixels,
            "max_pixels": data.max_pixels,
        },
        image_patch_size=8,
    )
    assert theirs.tobytes() == prompt.images[0].tobytes()
    count = theirs.width * theirs.height // 16**2
    assert prompt.expanded_ids.count(opened.image_token_id) == count
