"""`generator.backend: my/engine.py:Engine`: a wrong one is found; test_run.py trains with one."""

from __future__ import annotations

import pytest
from helpers import tiny_config

from sapo_vl.errors import ConfigError
from sapo_vl.generator.base import build, check_backend


@pytest.mark.parametrize("backend", ["vlllm", "absent/engine.py:Engine"])
def test_a_wrong_backend_is_found_without_starting_one(backend):
    with pytest.raises(ConfigError, match=r"generator\.backend"):
        check_backend(backend)


def test_a_missing_class_is_named(tmp_path, tiny_folder, assets):
    path = tmp_path / "my_engine.py"
    path.write_text("class Engine:\n    pass\n")
    config = tiny_config(tiny_folder, f"generator.backend={path}:Motor")
    with pytest.raises(ConfigError, match=r"generator\.backend.*Motor"):
        build(config, assets, seed=0)


def test_an_engine_of_a_whole_model_has_no_adapter(tmp_path, tiny_folder, assets):
    """Evaluations sample from the model as it is; training delivers an adapter."""
    path = tmp_path / "my_engine.py"
    path.write_text(
        "class Engine:\n    def __init__(self, config, assets, *, seed):\n"
        "        self.rank = config.model.lora.rank\n"
    )
    keys = [f"generator.backend={path}:Engine", "model.lora.rank=8"]
    config = tiny_config(tiny_folder, *keys)
    assert build(config, assets, seed=0).rank == 0
    assert build(config, assets, seed=0, adapter=True).rank == 8
    named = tiny_config(tiny_folder, *keys, f"model.lora.path={tmp_path}")
    with pytest.raises(ConfigError, match=r"model\.lora\.path=.* is for training alone"):
        build(named, assets, seed=0)
