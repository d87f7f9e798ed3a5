"""Model families: positions and components per family, refusals, and the resize rule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_sample, make_samples, one_line, picture, tiny_config
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


def test_what_the_config_knows_as_a_picture_or_a_video_is_banned(opened):
    """A model's code can treat a token in a special way only by an id of its config."""
    ids = {key: i for key, i in opened.config.to_dict().items() if key.endswith("token_id")}
    words = ("pad_token_id", "bos_token_id", "eos_token_id")
    assert {i for key, i in ids.items() if key not in words} == set(opened.banned_ids)
    tokens = opened.tokenizer.convert_ids_to_tokens(list(opened.banned_ids))
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    assert tokens == [f"<|{name}|>" for name in names]
    assert opened.image_token_id == ids["image_token_id"]


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


@pytest.fixture
def changed(tmp_path, tiny_folders):
    """Return a function that copies a family's folder with other keys in a JSON file."""

    def make(family: str, file: str = "config.json", section: str = "", **keys: object) -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_folders(family), folder)
        tree = json.loads((folder / file).read_text())
        place = tree[section] if section else tree
        place |= keys
        for key in [key for key, value in place.items() if value is ...]:
            del place[key]
        (folder / file).write_text(json.dumps(tree))
        return folder

    return make


def refusal(folder: Path) -> str:
    """Return the one line that opening a folder is refused with, less its path."""
    with pytest.raises(DataError) as caught:
        open_assets(folder)
    where, _, message = str(caught.value).partition(f"model.path={folder}")
    assert where == ""
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_sliding_windows_are_refused_where_they_are_on(changed, family):
    keys = {"layer_types": ..., "sliding_window": 32768, "max_window_layers": 1}
    open_assets(changed(family, section="text_config", use_sliding_window=False, **keys))
    message = refusal(changed(family, section="text_config", use_sliding_window=True, **keys))
    assert "layer_types[1]='sliding_attention' is not supported for Qwen2" in message
    keys["max_window_layers"] = 2  # of 2 layers: no layer has a window
    open_assets(changed(family, section="text_config", use_sliding_window=True, **keys))


def test_a_window_that_only_the_sampler_would_apply_is_refused(changed):
    folder = changed("qwen3_vl", section="text_config", sliding_window=64)
    assert "text_config.sliding_window=64" in refusal(folder)
    open_assets(changed("qwen3_vl", section="text_config", sliding_window=None))


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
@pytest.mark.parametrize(("values", "keys"), [(3, 2), (1, 2), (0, 1), (2, 0)])
def test_value_heads_that_key_heads_do_not_divide_are_refused(changed, family, values, keys):
    heads = {"linear_num_value_heads": values, "linear_num_key_heads": keys}
    message = refusal(changed(family, section="text_config", **heads))
    assert f"linear_num_value_heads={values}" in message
    assert f"linear_num_key_heads={keys}" in message


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_published_configs_without_a_text_section(changed, tiny_folders, family):
    """Their text keys lie beside the vision tower's section; windows are set, and off."""
    folder = changed(family)
    tree = json.loads((folder / "config.json").read_text())
    text = tree.pop("text_config")
    rope = text.pop("rope_parameters")
    for key in ("layer_types", "model_type"):
        del text[key]
    text |= {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 1}
    text |= {"rope_theta": rope["rope_theta"], "vision_token_id": 5}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(text | tree))
    ids_1L = torch.arange(20, 40)[None]
    states = [
        load_weights(open_assets(path), "float32").model(input_ids=ids_1L).last_hidden_state
        for path in (folder, tiny_folders(family))
    ]
    assert torch.equal(*states)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_published_configs_of_qwen3_5(changed, family):
    """Keys that transformers does not know, and layers by their interval."""
    keys = {"mtp_num_hidden_layers": 1, "mamba_ssm_dtype": "float32", "attn_output_gate": True}
    keys |= {"layer_types": ..., "full_attention_interval": 4, "num_hidden_layers": 8}
    assets = open_assets(changed(family, section="text_config", **keys))
    period = [*["linear_attention"] * 3, "full_attention"]
    assert assets.config.text_config.layer_types == period * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_processor_that_cuts_other_patches_is_refused(changed, family):
    keys = {"patch_size": (14, 0, [8, 8]), "spatial_merge_size": (1,), "temporal_patch_size": (1,)}
    for key, values in keys.items():
        for value in values:
            message = refusal(changed(family, section="vision_config", **{key: value}))
            assert f"vision_config.{key}={value}, where the image processor has " in message


def test_transformers_own_reason_is_given(changed):
    folder = changed("qwen3_5", section="text_config", linear_num_value_heads="x")
    assert "linear_num_value_heads" in refusal(folder)
    assert "expected int, got str" in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_another_tokenizer_are_refused(changed, tiny_folders, family):
    """Pictures would land on other tokens than those that the chat template writes."""
    ours = open_assets(tiny_folders(family)).image_token_id
    message = refusal(changed(family, image_token_id=ours + 1))
    assert f"image_token_id={ours + 1} stands for <|image_pad|>" in message
    assert f"has the id {ours}" in message
    assert "video_token_id=17" in refusal(changed(family, video_token_id=17))


def test_a_tokenizer_without_pictures_is_refused(changed):
    folder = changed("qwen2_vl")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("image_pad", "no_pad"))
    (folder / "chat_template.jinja").write_text("x")
    assert "<|image_pad|>" in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("eos", "expected"), [([2, 0], (2, 0)), (0, (0,)), (None, (2,))])
def test_end_ids_are_the_generation_configs(changed, family, eos, expected):
    """2 is <|im_end|>, the tokenizer's end token, and 0 <|endoftext|>."""
    folder = changed(family, "generation_config.json", eos_token_id=eos)
    assert open_assets(folder).eos_ids == expected


OTHERS = (
    *("glm4v", "glm4v_moe", "internvl", "internvl_chat", "llava", "gemma3", "qwen4_exp"),
    *("qwen2_5_omni", "qwen3_omni_moe", "no_such_type", "Qwen3_VL", ""),
)
TEXT_MODELS = (
    *("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen2_vl_text"),
    *("qwen3_vl_moe_text", "gemma3_text", "qwen4_exp_text"),
)


def foreign(folder: Path, model_type: object) -> Path:
    """Write a config.json of another family, with code that must not run."""
    auto = {"AutoConfig": "configuration_other.OtherConfig"}
    tree = {"model_type": model_type, "vision_config": {}, "text_config": {}, "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "configuration_other.py").write_text("raise SystemExit('ran')\n")
    return folder


@pytest.mark.parametrize("model_type", [*OTHERS, *TEXT_MODELS, None, 3, ["qwen3_vl"], {"a": 1}])
def test_an_unknown_model_type_names_the_families(tmp_path, model_type):
    message = refusal(foreign(tmp_path, model_type))
    assert all(known in message for known in FAMILIES)
    assert "CONTRIBUTING.md, 'A model family'" in message
    assert ("no vision tower" in message) == (model_type in TEXT_MODELS)
    found = "no model_type" if model_type is None else repr(model_type)
    assert found in message


def test_a_config_without_a_model_type(tmp_path):
    for text in ("{}", '{"architectures": ["LlavaForConditionalGeneration"]}'):
        (tmp_path / "config.json").write_text(text)
        assert "config.json has no model_type" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["[1, 2]", '"qwen3_vl"', "null", "", "{", '{"a": ', "[" * 10**5])
def test_a_config_that_is_no_object(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert "config.json holds no JSON object" in refusal(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train --dry-run", "sft", "plan", "evaluate --model"])
def test_a_command_on_another_family_is_one_line_and_exit_code_2(tmp_path, command):
    folder = foreign(tmp_path, "internvl_chat")
    model = folder if command.endswith("--model") else f"model.path={folder}"
    line = one_line(*command.split(), model, f"run.dir={tmp_path / 'run'}")
    assert "model type 'internvl_chat' is not supported" in line
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
