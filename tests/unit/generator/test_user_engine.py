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
