"""Fixtures of all tests: the tiny model's folders, and one vLLM engine for the whole session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
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
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family's `model_type` to the folder of its tiny random model."""
    from sapo_vl.data import synthetic
    from sapo_vl.model import tiny

    @cache
    def folder(family: str) -> Path:
        out = tmp_path_factory.mktemp(family) / "model"
        tiny.build(out, corpus=synthetic.corpus(0, 600), seed=0, family=family)
        return out

    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_folders: Callable[[str], Path]) -> Path:
    """Return the folder of a tiny random Qwen3-VL."""
    return tiny_folders("qwen3_vl")


@pytest.fixture(scope="session")
def tiny_moe_folder(tiny_folders: Callable[[str], Path]) -> Path:
    """Return the folder of a tiny random Qwen3-VL-MoE with four experts."""
    return tiny_folders("qwen3_vl_moe")


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
