"""The planner's arithmetic for models with gated delta nets, by hand."""

from __future__ import annotations

from functools import cache

import pytest

from sapo_vl.config import Config, load
from sapo_vl.model.families import FAMILIES
from sapo_vl.training.plan.activations import Row, activations, layer_saved
from sapo_vl.training.plan.engine import engine_memory, kv_bytes_per_token, state_bytes
from sapo_vl.training.plan.fit import make_plan
from sapo_vl.training.plan.hardware import GIB, cpu, gpus
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.seconds import forward_operations, rule_operations
from sapo_vl.training.plan.shape import Attention, DeltaNet, ModelShape, model_shape
from sapo_vl.training.plan.tables import print_plan
from sapo_vl.training.plan.workload import workload

BFLOAT16 = "model.dtype=bfloat16"


def config(*keys: str) -> Config:
    return load(None, [BFLOAT16, *keys])


@cache
def shape_of(size: str) -> ModelShape:
    """Return a published size with a frozen vision tower; `tiny:FAMILY` too."""
    return model_shape(module_on_meta(config(f"model.path={size}", "model.freeze=[vision]"))[0])


def test_the_layers_of_a_hybrid():
    shape = shape_of("Qwen3.5-9B")
    assert len(shape.delta_nets) == 24
    assert [isinstance(layer.mixer, Attention) for layer in shape.layers[:5]] == [
        False, False, False, True, False,
    ]  # fmt: skip
    attention, delta = shape.attentions[0], shape.delta_nets[0]
    # q_proj is twice as wide as the queries: the other half is the gate
    assert attention == Attention(4096, 1024, 16, head_width=256, rotary=64, norms=True, gated=True)
    assert delta == DeltaNet(32, 16, key_width=128, value_width=128, kernel=4)
    assert (delta.channels, delta.value, delta.state) == (8192, 4096, 2**19)
    assert all(layer.wide_norms for layer in shape.layers)
    assert not any(layer.wide_norms for layer in shape_of("Qwen3-VL-2B").layers)


def test_the_experts_of_a_hybrid():
    shape = shape_of("Qwen3.5-35B-A3B")
    layer = shape.layers[0]
    assert (layer.experts, layer.chosen, layer.ffn, layer.shared_ffn) == (256, 8, 512, 512)
    assert layer.parameters - layer.active == 248 * 3 * 512 * 2048
    assert (shape.body + 2 * shape.head) / 1e9 == pytest.approx(3.2, abs=0.3)  # A3B


def test_a_cache_of_keys_and_states_by_hand():
    shape, keys = shape_of("Qwen3.5-9B"), ("generator.gpu_memory_utilization=0.5",)
    made = config(*keys, "rollout.max_new_tokens=4096", "generator.max_model_len=6144")
    assert kv_bytes_per_token(shape, made) == 8 * 2 * 4 * 256 * 2  # 8 of 32 layers attend
    one = 32 * 128 * 128 * 4 + 3 * 8192 * 2  # a float32 state, 3 inputs of the convolution
    assert state_bytes(shape, made) == 24 * one
    memory = engine_memory(shape, made, gpus(80, 8), workload(made, shape, 8))
    # a layer's token has 4,096 bytes, so a state of 2,146,304 is 524 of them, in 16s 528
    assert memory.block == 528
    assert memory.held_state == 24 * 2 * 528 * 4096
    length = memory.kv_tokens / memory.sequences
    sequence = -(-length // 528) * 528 * 8 * 4096 + memory.held_state
    assert memory.sequences == pytest.approx(memory.kv_cache / sequence)
    assert memory.longest == pytest.approx((memory.kv_cache - memory.held_state) / (8 * 4096))


def test_states_are_split_over_the_ranks_of_an_engine():
    shape = shape_of("Qwen3.5-35B-A3B")  # two heads of keys
    one, eight = (config(f"generator.tensor_parallel={n}") for n in (1, 8))
    assert state_bytes(shape, eight) == state_bytes(shape, one) / 8
    assert kv_bytes_per_token(shape, eight) == kv_bytes_per_token(shape, one) / 2  # repeated
    memory = engine_memory(shape, eight, gpus(80, 8), workload(eight, shape, 8))
    state = (32 * 128 * 128 * 4 + 3 * 8192 * 2) / 8
    assert memory.block == -(-state // (16 * 2 * 256 * 2)) * 16


def test_an_engine_on_a_cpu_keeps_one_state_and_bfloat16():
    shape, made = shape_of("tiny:qwen3_5"), load(None, ["model.dtype=float32"])
    memory = engine_memory(shape, made, cpu(1), workload(made, shape, 1))
    assert memory.weights == 2 * shape.parameters
    assert memory.kv_per_token == 2 * 64 * 2  # one layer attends, with one head of 64
    state = 2 * 64 * 64 * 4 + 3 * 256 * 2  # one layer has it, with two heads of 64
    assert memory.state == state
    assert memory.block == 160  # 34,304 of its bytes, at 256 a token, in 32s
    assert memory.held_state == 160 * 256


def test_the_engines_own_cache_and_a_reference_sampler():
    shape, keys = shape_of("Qwen3.5-2B"), ["rollout.max_new_tokens=1024"]
    made = config("generator.backend=transformers", *keys)
    memory = engine_memory(shape, made, gpus(80, 1), workload(made, shape, 1))
    group = made.rollout.group_size
    assert memory.kv_cache == memory.kv_tokens * memory.kv_per_token + group * memory.state


def test_what_a_delta_net_saves_on_a_gpu_by_hand():
    layer = shape_of("Qwen3.5-9B").layers[0]
    row = Row(scored=70, patches=0, prompts=[30], responses=[40, 30])
    norms = 2 * (8 * 4096 + 4 + 2 * 4096)
    network = 4 * 2 * 12_288
    convolution = 2 * 8192 * (2 * 100 + 3 * 3)
    beside = 100 * (18 * 4096 + 4 * 32 + 10 * 32)
    kernels = 100 * (2 * 16 * (2 * 128 + 4) + 32 * (2 * (128 + 64 + 1) + 4))
    kernels += 2 * 4 * 32 * 128 * 128  # where the responses start
    assert layer_saved(layer, 2, row) == 100 * (norms + network) + convolution + beside + kernels


def test_operations_of_the_delta_rule_by_hand():
    shape = shape_of("Qwen3.5-9B")
    rule = 32 * (2 * 64 * 128 * 2 + 64 * 256 + 2 * 64 * 128 + 6 * 128 * 128)
    assert rule_operations(shape.delta_nets[0]) == rule
    made = config("rollout.max_new_tokens=2048", "generator.max_model_len=4096")
    work = workload(made, shape, 8)
    total = forward_operations(shape, work)
    delta = 4096 * (8192 + 4096 + 2 * 32) + 4096 * 4096 + 4 * 8192
    attention = 4096 * (2 * 4096 + 2 * 1024) + 4096 * 4096
    body = 24 * delta + 8 * attention + 32 * 3 * 4096 * 12_288
    text = (2 * body + 24 * rule) * work.tokens + 4 * work.pairs * 4096 * 8
    assert text < total < 1.05 * text  # norms and pictures are the rest


def test_a_state_is_read_and_written_with_every_token():
    """A sequence's states move as many bytes a token as the keys and values of 3,144 tokens."""
    shape = shape_of("Qwen3.5-9B")
    keys = ("generator.gpu_memory_utilization=0.5", "generator.max_model_len=6144")
    plan = make_plan(config(*keys, "rollout.prompts=64"), shape, gpus(80, 8))
    assert 2 * plan.engine.state / plan.engine.kv_per_token == pytest.approx(3144, rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["shared_prefix", "padded"])
def test_every_familys_tiny_model_has_a_plan(family, layout):
    shape, made = shape_of(f"tiny:{family}"), config(f"learner.layout={layout}")
    for hardware in (cpu(2), gpus(24, 1)):
        plan = make_plan(made, shape, hardware)
        assert 0 < plan.peak.total < 24 * GIB
        assert plan.seconds.total > 0
        assert 0 < activations(shape, made, plan.work, on_cpu=hardware.is_cpu).saved < 24 * GIB


def test_the_tables_show_the_states_of_a_hybrid_alone(capsys):
    for size, shown in (("Qwen3.5-9B", True), ("Qwen3-VL-8B", False)):
        print_plan(make_plan(config(), shape_of(size), gpus(80, 8)))
        text = capsys.readouterr().out
        assert ("a sequence's recurrent states" in text) == shown
        assert "sequences at full length in it" in text
