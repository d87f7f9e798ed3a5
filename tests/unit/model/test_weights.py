"""Weights that are not those of the model are refused by name before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import tiny_config
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from sapo_vl.errors import ConfigError, DataError, SetupError
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.save import save_model
from sapo_vl.model.weights import check_model, check_transformers, check_weights, load_weights

NORM = "model.language_model.layers.0.input_layernorm.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"

Weights = dict[str, torch.Tensor]


def without(weights: Weights, *parts: str) -> Weights:
    return {n: w for n, w in weights.items() if not any(part in n for part in parts)}


@pytest.fixture
def variant(tiny_folder, tmp_path) -> Callable[..., Path]:
    """Return a function that copies the tiny model with other weights or config."""

    def make(change: Callable[[Weights], Weights] | None = None, **config: object) -> Path:
        out = tmp_path / "model"
        shutil.copytree(tiny_folder, out)
        file = out / "model.safetensors"
        if change is not None:
            save_file(change(load_file(file)), file, metadata={"format": "pt"})
        if config:
            tree = json.loads((out / "config.json").read_text()) | config
            (out / "config.json").write_text(json.dumps(tree))
        return out

    return make


def shard(folder: Path, suffix: str = "safetensors") -> None:
    """Split model.safetensors into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        file = f"{stem}-{number + 1:05d}-of-00002.{suffix}"
        part = {name: weights[name].clone() for name in names}
        if suffix == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
        places |= dict.fromkeys(names, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def refused(folder: Path, *, load: bool = True) -> str:
    """Return the line with which both checks refuse a folder."""
    assets = open_assets(folder)
    with pytest.raises(DataError, match=f"model.path={folder}") as caught:
        check_weights(assets)
    assert "\n" not in str(caught.value)
    if load:
        with pytest.raises((DataError, RuntimeError)):
            load_weights(assets, "float32")
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_folders_pass(tiny_folders, family):
    check_weights(open_assets(tiny_folders(family)))


def trained(folder: Path) -> tuple[torch.nn.Module, Weights]:
    """Return a folder's module with other weights, and these as the learner streams them."""
    assets = open_assets(folder)
    module = load_weights(assets, "float32")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layout = assets.family.to_checkpoint_layout
    return module, {n: layout(n, p.detach()) for n, p in module.named_parameters()}


def equal(module: torch.nn.Module, folder: Path) -> None:
    """Assert that transformers loads a folder as it is, to the same parameters."""
    loaded, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    ours, theirs = dict(module.named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_model_loads_unchanged(tiny_folders, tmp_path, family):
    module, weights = trained(tiny_folders(family))
    save_model(tmp_path / "out", tiny_folders(family), weights.items())
    check_weights(open_assets(tmp_path / "out"))
    equal(module, tmp_path / "out")


def by_expert(weights: Weights) -> Weights:
    """Split stacked experts [E, out, in] into a tensor for each expert's projection."""
    out = {}
    for name, value in weights.items():
        stem = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for i, (gate, up) in enumerate(torch.chunk(x, 2) for x in value):
                out[f"{stem}.{i}.gate_proj.weight"] = gate.clone()
                out[f"{stem}.{i}.up_proj.weight"] = up.clone()
        elif name.endswith("experts.down_proj"):
            out |= {f"{stem}.{i}.down_proj.weight": x.clone() for i, x in enumerate(value)}
        else:
            out[name] = value
    return out


def test_experts_in_tensors_of_their_own_and_prediction_heads(tiny_folders, tmp_path):
    """Both are found in folders of Qwen3.5-MoE; `mtp.*` predicts further tokens ahead."""
    module, weights = trained(tiny_folders("qwen3_5_moe"))
    split = by_expert(weights)
    layers = module.config.text_config.num_hidden_layers
    assert len(split) == len(weights) + layers * (3 * 4 - 2)  # 4 experts of 3 matrices
    heads = {"mtp.fc.weight": torch.ones(128, 256)}
    save_model(tmp_path / "out", tiny_folders("qwen3_5_moe"), (split | heads).items())
    check_weights(open_assets(tmp_path / "out"))
    equal(module, tmp_path / "out")
    assert not any(name.startswith("mtp.") for name in trained(tmp_path / "out")[1])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_names_of_the_published_folders(tiny_folders, tmp_path, family):
    """Qwen2-VL and Qwen2.5-VL were published before their modules got today's names."""
    module, weights = trained(tiny_folders(family))
    old = {
        name.replace("model.visual.", "visual.").replace("language_model.", ""): value
        for name, value in weights.items()
    }
    assert {name.split(".")[0] for name in old} == {"visual", "model"}
    save_model(tmp_path / "out", tiny_folders(family), old.items())
    check_weights(open_assets(tmp_path / "out"))
    equal(module, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_pass_and_a_missing_one_is_named(variant, suffix):
    folder = variant()
    shard(folder, suffix)
    check_weights(open_assets(folder))
    name = next(folder.glob(f"*-00002-of-00002.{suffix}"))
    name.unlink()
    assert f"{name.name} is missing" in refused(folder)


def test_a_missing_block_is_named_and_counted(variant):
    folder = variant(lambda w: without(w, "language_model.layers.1."))
    text = refused(folder)
    assert "11 missing" in text
    assert "language_model.layers.1." in text


def test_a_missing_head_is_named(variant):
    """Untied: the head must be there; a tied one is the embedding."""
    tied = {"tie_word_embeddings": False}
    folder = variant()
    tree = json.loads((folder / "config.json").read_text())
    tree["text_config"] |= tied
    (folder / "config.json").write_text(json.dumps(tree | tied))
    assert "1 missing: lm_head.weight" in refused(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": weights[EMBEDDING].clone()}, file, {"format": "pt"})
    check_weights(open_assets(folder))


def test_names_under_another_prefix(variant):
    text = refused(variant(lambda w: {f"base_model.{name}": value for name, value in w.items()}))
    assert " missing: " in text
    assert "63 that its config.json doesn't describe: base_model.model" in text


def test_a_weight_of_another_shape(variant):
    text = refused(variant(lambda w: w | {NORM: torch.ones(64)}))
    assert f"1 of another shape: {NORM} (64 instead of 128)" in text


def test_a_weight_that_the_model_does_not_have(variant):
    text = refused(variant(lambda w: w | {"extra.weight": torch.ones(3)}))
    assert "extra.weight" in text


def test_an_expert_of_another_shape(tiny_moe_folder, tmp_path):
    folder = tmp_path / "moe"
    shutil.copytree(tiny_moe_folder, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("experts.down_proj"))
    save_file(weights | {name: weights[name][:, :-1].contiguous()}, file, {"format": "pt"})
    refused(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_file_that_was_cut_off(variant, share):
    folder = variant()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "model.safetensors is cut off" in refused(folder, load=False)


def test_rubbish_instead_of_weights(variant):
    folder = variant()
    for content in (b"\x10" + bytes(7) + b'{"a": {"b": 1}}xxxxxx', b"\x02" + bytes(7) + b"[]"):
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors" in refused(folder, load=False)


def test_a_folder_without_weights(variant):
    folder = variant()
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "merge it into its base model" in refused(folder, load=False)


def test_a_pickle_with_code_is_not_opened(variant, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "ran").write_text, ("x",))

    folder = variant()
    (folder / "model.safetensors").unlink()
    torch.save({"a": Bomb()}, folder / "pytorch_model.bin")
    assert "without running code" in refused(folder, load=False)
    assert not (tmp_path / "ran").exists()


def test_quantized_weights_are_not_trained(variant):
    text = refused(variant(quantization_config={"quant_method": "fp8"}), load=False)
    assert "quantization_config" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(variant, value):
    def change(weights: Weights) -> Weights:
        weights[NORM][5] = value
        return weights

    assets = open_assets(variant(change))
    with pytest.raises(DataError, match=NORM):
        load_weights(assets, "bfloat16")


def test_more_tokens_than_positions(tiny_folder):
    check_model(tiny_config(tiny_folder, "generator.max_model_len=4096"))
    for path in (str(tiny_folder), "tiny"):
        keys = (f"model.path={path}", "generator.max_model_len=4097")
        with pytest.raises(ConfigError, match=r"generator\.max_model_len=4097 .* 4096 positions"):
            check_model(tiny_config(tiny_folder, *keys))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", '{"model_type": "qwen3_vl", "text_config": 3}', "can't be opened"),
        ("config.json", '{"model_type": "qwen3_vl", "vision_config": []}', "can't be opened"),
        ("generation_config.json", "{", "generation_config.json"),
        ("generation_config.json", '{"eos_token_id": 99999}', "99999"),
        ("generation_config.json", '{"eos_token_id": "x"}', "end token"),
        ("tokenizer.json", "{", "can't be opened"),
    ],
)
def test_a_broken_file_of_the_folder_is_one_line(variant, name, text, words):
    folder = variant()
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=f"model.path={folder}") as caught:
        open_assets(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_is_not_run(variant, tmp_path):
    folder = variant()
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass C: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        tree = json.loads((folder / name).read_text())
        kinds = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoModelForImageTextToText")
        tree["auto_map"] = dict.fromkeys(kinds, "evil.C")
        (folder / name).write_text(json.dumps(tree))
    load_weights(open_assets(folder), "float32")
    assert not ran.exists()


def test_a_transformers_whose_models_ignore_encoded_pictures_is_refused():
    """5.17 takes `mm_encoder_outputs` for one more keyword, and sees no picture at all."""
    for version in ("5.18.0", "5.19.2", "6.0.0.dev0"):
        check_transformers(version)
    with pytest.raises(SetupError, match=r"transformers 5\.17\.0 is too old.*transformers>=5\.18"):
        check_transformers("5.17.0")
