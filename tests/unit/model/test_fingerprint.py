"""A fingerprint follows the bytes of the weights, not the folder's name."""

from __future__ import annotations

from pathlib import Path

from sapo_vl.model.fingerprint import weights_fingerprint


def test_a_fingerprint_follows_the_weights(tmp_path: Path):
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    for folder, content in ((one, b"weights"), (copy, b"weights"), (other, b"weightz")):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        (folder / "config.json").write_text(folder.name)
    assert weights_fingerprint(one) == weights_fingerprint(copy) != weights_fingerprint(other)
    assert len(weights_fingerprint(one)) == 16


def test_no_weights_no_fingerprint(tmp_path: Path):
    assert weights_fingerprint(tmp_path) == ""
    assert weights_fingerprint("Qwen/Qwen3-VL-2B-Instruct") == ""
