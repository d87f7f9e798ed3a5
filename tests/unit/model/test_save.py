"""A saved model is its base folder, byte for byte, but for weights and their dtype."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sapo_vl.model import save
from sapo_vl.model.assets import open_assets
from sapo_vl.model.save import save_model
from sapo_vl.model.weights import check_weights

WEIGHTS = [("a", torch.arange(4.0)), ("b", torch.ones(2, 3)), ("c", torch.zeros(1))]

CONFIG = {"dtype": "float32", "text_config": {"torch_dtype": "torch.float32", "x": "é"}}


@pytest.fixture
def base(tmp_path) -> Path:
    """A model folder with all that may lie in one."""
    folder = tmp_path / "base"
    (folder / "chat_templates").mkdir(parents=True)
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    for name, content in {
        "config.json": json.dumps(CONFIG),
        "generation_config.json": '{"do_sample": false, "temperature": 0.7}',
        "vocab.json": "{}",
        "chat_templates/tool.jinja": "{{ x }}",
        "modeling_mine.py": "raise SystemExit",
        "README.md": "model card",
        "model.safetensors": "old weights",
        "model-00001-of-00002.safetensors": "old weights",
        "model.safetensors.index.json": "{}",
        "pytorch_model.bin": "old weights",
        "optimizer.pt": "old state",
        ".cache/huggingface/model.safetensors.lock": "",
        ".lock": "{}",
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


KEPT = [
    *("README.md", "chat_templates/tool.jinja", "config.json", "generation_config.json"),
    *("model.safetensors", "modeling_mine.py", "vocab.json"),
]


def test_files_are_copied_byte_for_byte_and_weights_are_new(base, tmp_path):
    out = tmp_path / "new" / "out"
    save_model(out, base, WEIGHTS)
    assert names(out) == KEPT
    for name in KEPT:
        if name != "model.safetensors":
            assert (out / name).read_bytes() == (base / name).read_bytes(), name
    found = load_file(out / "model.safetensors")
    assert {name: t.tolist() for name, t in found.items()} == {n: t.tolist() for n, t in WEIGHTS}
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_another_dtype_is_written_where_the_config_has_one(base, tmp_path):
    save_model(tmp_path / "out", base, [("a", torch.ones(2, dtype=torch.bfloat16))])
    tree = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert tree == {"dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16", "x": "é"}}
    (base / "config.json").write_text("{}")
    save_model(tmp_path / "out2", base, [("a", torch.ones(2, dtype=torch.bfloat16))])
    assert json.loads((tmp_path / "out2" / "config.json").read_text()) == {
        "torch_dtype": "bfloat16"
    }


def test_links_of_a_hub_snapshot_are_followed(base, tmp_path):
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "vocab.json", "model.safetensors"):
        (snapshot / name).symlink_to(base / name)
    (snapshot / "gone.json").symlink_to(tmp_path / "nowhere")
    save_model(tmp_path / "out", snapshot, WEIGHTS)
    assert names(tmp_path / "out") == ["config.json", "model.safetensors", "vocab.json"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_folder_below_its_base_does_not_copy_itself(base):
    save_model(base / "runs" / "one" / "final", base, WEIGHTS)
    assert names(base / "runs" / "one" / "final") == KEPT


def test_large_weights_are_written_in_shards(base, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "SHARD_BYTES", 30)  # a: 16 bytes, b: 24, c: 4
    save_model(tmp_path / "out", base, WEIGHTS)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    one, two = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index == {
        "metadata": {"total_size": 44},
        "weight_map": {"a": one, "b": two, "c": two},
    }
    assert set(load_file(tmp_path / "out" / two)) == {"b", "c"}
    assert not list((tmp_path / "out").glob("shard-*"))


def test_a_failure_leaves_nothing_under_the_name(base, tmp_path):
    def broken():
        yield WEIGHTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path / "out", base, broken())
    assert not (tmp_path / "out").exists()
    killed = tmp_path / ".out.partial"
    killed.mkdir()
    (killed / "half").write_text("")
    save_model(tmp_path / "out", base, WEIGHTS)
    assert names(tmp_path / "out") == KEPT


def test_a_real_folder_is_opened_again(tiny_folder, tmp_path):
    weights = load_file(tiny_folder / "model.safetensors")
    tensors = [(name, tensor.bfloat16()) for name, tensor in weights.items()]
    save_model(tmp_path / "out", tiny_folder, tensors)
    check_weights(open_assets(tmp_path / "out"))
    assert names(tmp_path / "out") == names(tiny_folder)
    shutil.rmtree(tmp_path / "out")
