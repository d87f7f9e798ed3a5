"""The plan's arithmetic against what a learner, its checkpoint and vLLM really allocate."""

from __future__ import annotations

import gc

import pytest
import torch
from helpers import make_rollouts, make_samples, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.learner.engine import Learner
from sapo_vl.model.assets import open_assets
from sapo_vl.training.plan.engine import engine_memory
from sapo_vl.training.plan.hardware import cpu
from sapo_vl.training.plan.host import disk
from sapo_vl.training.plan.learner import REDUCE_BUCKET, learner_states, weight_bytes
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.shape import model_shape
from sapo_vl.training.plan.workload import workload

pytestmark = pytest.mark.slow


def tensors() -> list[torch.Tensor]:
    """Return all tensors of this process that the collector knows."""
    return [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]


@pytest.mark.parametrize(
    "keys",
    [
        ("learner.zero_stage=0", "model.dtype=float32"),
        ("learner.zero_stage=0", "model.dtype=bfloat16"),
        ("learner.zero_stage=2", "model.dtype=float32"),
        ("learner.zero_stage=2", "model.dtype=bfloat16"),
        ("learner.zero_stage=3", "model.dtype=bfloat16", "learner.grad_accum_dtype=float32"),
        ("learner.zero_stage=2", "model.dtype=bfloat16", "learner.offload_optimizer=true"),
        ("learner.zero_stage=3", "model.dtype=bfloat16", "learner.offload_optimizer=true"),
        ("learner.zero_stage=0", "model.dtype=bfloat16", "model.lora.rank=64"),
    ],
    ids=lambda keys: ",".join(key.split("=")[1] for key in keys),
)
def test_a_learners_states_and_checkpoint_are_as_planned(keys, tiny_folder, renderer, tmp_path):
    check_states(tiny_folder, keys, renderer, tmp_path)


def test_the_states_of_a_hybrid_are_as_planned(tiny_folders, renderer, tmp_path):
    keys = ("learner.zero_stage=2", "model.dtype=bfloat16")
    check_states(tiny_folders("qwen3_5"), keys, renderer, tmp_path)


def check_states(folder, keys, renderer, tmp_path) -> None:
    """Train two steps and compare what lies in memory and in the checkpoint with the plan."""
    config = objectives.resolve(tiny_config(folder, "model.freeze=[vision]", *keys))
    assets = open_assets(folder)
    shape = model_shape(module_on_meta(config)[0])
    rollouts = make_rollouts(renderer.render(make_samples()))
    gc.collect()
    before = tensors()  # held, so that their addresses are not used again
    known = {t.untyped_storage().data_ptr() for t in before if t.layout == torch.strided}
    learner = Learner(config, assets)
    bucket = REDUCE_BUCKET * weight_bytes(config)
    taken: dict[str, int] = {}

    def take(moment: str) -> None:
        gc.collect()
        gradients = [p.grad for p in learner.model.parameters() if p.grad is not None]
        storages = [t.untyped_storage() for t in [*tensors(), *gradients] if t.is_cpu]
        own = {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in known}
        taken[moment] = sum(size for size in own.values() if size != bucket)
        taken[f"{moment}, bucket"] = bucket in own.values()

    step = learner._engine.step
    learner._engine.step = lambda: (take("at the step"), step())
    objective = objectives.build(config)
    for _ in range(2):  # AdamW's moments exist after the first
        learner.update(rollouts, objective, 1e-4)
    take("between updates")
    states = learner_states(shape, config, 1)
    resting = states.resting + states.host - (states.bucket if states.bucket_stays else 0)
    assert taken["between updates"] == pytest.approx(resting, rel=0.05)
    whole = states.weights + states.optimizer + states.gradients + states.host
    assert taken["at the step"] == pytest.approx(whole, rel=0.05)
    assert taken["between updates, bucket"] == states.bucket_stays
    learner.save(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert disk(shape, config, 1).checkpoint == pytest.approx(written, rel=0.05)
    learner.close()


def test_the_cache_holds_as_many_tokens_as_planned(engine, tiny_folder):
    config = tiny_config(tiny_folder)
    shape = model_shape(module_on_meta(config)[0])
    plan = engine_memory(shape, config, cpu(1), workload(config, shape, 1))
    cache = engine._llm.llm_engine.vllm_config.cache_config
    real = cache.num_gpu_blocks * cache.block_size
    assert plan.kv_per_token == 1024  # 2 layers x keys and values x 2 heads x 32 x 4 bytes
    assert plan.kv_tokens == pytest.approx(real, rel=0.02)
