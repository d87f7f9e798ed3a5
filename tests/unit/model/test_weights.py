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

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.model.assets import open_assets
from sapo_vl.model.families import FAMILIES
from sapo_vl.model.weights import check_model, check_weights, load_weights

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
