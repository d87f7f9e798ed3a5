"""Weights to a vLLM server on another GPU, over NCCL. Never run so far: it needs two GPUs."""

from __future__ import annotations

import pytest
import torch
from bench import random_model

from sapo_vl import config as configs
from sapo_vl.generator.base import build
from sapo_vl.learner.engine import Learner
from sapo_vl.model.prompts import PromptRenderer
from sapo_vl.system.machine import gpu_count
from sapo_vl.training.receipt import DeliveryCheck

pytestmark = pytest.mark.gpu


def test_a_server_on_another_gpu_has_the_learners_weights(tmp_path):
    """The receipt, which compares log-probs on two prompts, refuses any others."""
    if gpu_count() < 2:
        pytest.skip("needs two NVIDIA GPUs: the learner's and the server's")
    assets = random_model.build(tmp_path / "model", random_model.FOUR_LAYERS, torch.device("cuda"))
    config = configs.load(
        None,
        [
            *(f"model.path={assets.path}", f"run.dir={tmp_path / 'run'}"),
            *("generator.backend=server", "generator.local_servers=1"),
            "generator.max_model_len=1024",
        ],
    )
    learner = Learner(config, assets)
    prompts = random_model.prompts(PromptRenderer(assets, config.data), (0, 1), 64)
    generator = build(config, assets, seed=0)
    try:
        check = DeliveryCheck(config, prompts)
        for version in (1, 2):
            generator.update_weights(learner.weights(), version)
            assert check.ask(generator, learner, version).version == version
            with torch.no_grad():
                for parameter in learner._policy.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
    finally:
        generator.close()
