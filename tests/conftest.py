"""Fixtures of all tests: the tiny model's folders, and one vLLM engine for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sapo_vl.system.machine import prepare_environment

prepare_environment()  # before anything imports torch
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may ask the hub

import pytest  # noqa: E402
from helpers import tiny_config  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "sapo_vl",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("sapo_vl")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random Qwen3-VL."""
    return _tiny(tmp_path_factory.mktemp("tiny") / "model", experts=0)


@pytest.fixture(scope="session")
def tiny_moe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random Qwen3-VL-MoE with four experts."""
    return _tiny(tmp_path_factory.mktemp("tiny_moe") / "model", experts=4)


@pytest.fixture(scope="session")
def tiny_qwen2_5_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Return the folder of a tiny random Qwen2.5-VL."""
    import tiny_qwen2_5

    return tiny_qwen2_5.build(tmp_path_factory.mktemp("tiny_qwen2_5") / "model", tiny_folder)


def _tiny(out: Path, experts: int) -> Path:
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny

    tiny.build(out, corpus=synthetic.corpus(0, 600), seed=0, experts=experts)
    return out


@pytest.fixture(scope="session")
def assets(tiny_folder: Path):
    """Return the tiny model's assets: config and processor."""
    from sapo_vl.model.assets import open_assets

    return open_assets(tiny_folder)


@pytest.fixture(scope="session")
def renderer(assets, tiny_folder: Path):
    """Return the renderer of the tiny model's prompts."""
    from sapo_vl.model.prompts import PromptRenderer

    return PromptRenderer(assets, tiny_config(tiny_folder).data)


@pytest.fixture(scope="session")
def engine(tiny_folder: Path, assets) -> Iterator:
    """Return the session's one vLLM engine, on the tiny model in float32."""
    from sapo_vl.generator.vllm_engine import VLLMGenerator

    generator = VLLMGenerator(tiny_config(tiny_folder), assets, seed=0)
    yield generator
    generator.close()
