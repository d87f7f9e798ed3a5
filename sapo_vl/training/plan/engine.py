"""The sampler's memory: what vLLM takes while awake, and the KV cache that is left for sequences.

In a model with gated delta nets only every fourth layer has keys and values; the others hold a
state per sequence, in the same cache. vLLM makes a block of keys and values as large as a state,
rounded up to what attention kernels take (platforms/interface.py, _align_hybrid_block_size).

The transformers backend holds a second copy of the weights, and the cache and scores of one group.
An engine of the user's own is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.generator.engine_options import CPU_BLOCK, prefill_tokens
from sapo_vl.training.plan.activations import RULE_CHUNK
from sapo_vl.training.plan.hardware import GIB, Hardware
from sapo_vl.training.plan.learner import weight_bytes
from sapo_vl.training.plan.shape import ModelShape
from sapo_vl.training.plan.workload import Workload

GRAPHS = 1.0 * GIB
"""CUDA graphs and communication buffers of the engine, which stay while it sleeps (estimate)."""

GPU_BLOCK = 16
"""Tokens of a cache block on a GPU."""

STATE_BYTES = 4
"""Of an element of a recurrent state: float32, see Qwen35.engine_options."""

STATES = {"cpu": 1, "cuda": 2}
"""States that a sequence holds at most: with a prefix cache, which a hybrid has on a GPU only, that
of the last full block and the current one (MambaSpec.max_memory_usage_bytes)."""


@dataclass(frozen=True)
class EngineMemory:
    """Bytes per rank of an engine that is awake, and what they are worth in tokens."""

    weights: float
    work: float  # activations of a prefill, logits, pictures
    graphs: float
    kv_cache: float  # may be negative: there is no room for any
    kv_per_token: float
    state: float  # of a sequence's recurrent states, read and written with every token
    held_state: float  # what a sequence holds for them, in whole blocks
    block: int  # tokens of a block of keys and values
    kv_tokens: float  # of sequences of full length that fit, over the ranks of the engine
    longest: float  # tokens of the longest sequence that fits
    sequences: float  # of prompt plus response at full length, over the ranks of the engine
    sleeps: bool  # whether only `graphs` stay on the device during the update

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.work + self.graphs + max(0.0, self.kv_cache)


def kv_bytes_per_token(shape: ModelShape, config: Config, *, on_cpu: bool = False) -> float:
    """Return the bytes per rank of a token's keys and values.

    Key-value heads are split over the ranks of an engine; fewer heads than ranks are repeated.
    """
    b, split = cache_bytes(shape, config, on_cpu=on_cpu), config.generator.tensor_parallel
    return sum(2 * net.key * b / min(split, net.key // net.head_width) for net in shape.attentions)


def cache_bytes(shape: ModelShape, config: Config, *, on_cpu: bool = False) -> int:
    """Return the bytes of a weight or cached key in the engine.

    On a CPU vLLM runs gated delta nets in bfloat16 only, whatever the learner's type is.
    """
    return 2 if on_cpu and shape.delta_nets else weight_bytes(config)


def state_bytes(shape: ModelShape, config: Config, *, on_cpu: bool = False) -> float:
    """Return the bytes per rank of a sequence's recurrent states and convolutions' contexts."""
    b = cache_bytes(shape, config, on_cpu=on_cpu)
    states = sum(
        STATE_BYTES * net.state + b * (net.kernel - 1) * net.channels for net in shape.delta_nets
    )
    return states / config.generator.tensor_parallel


def engine_memory(
    shape: ModelShape, config: Config, hardware: Hardware, work: Workload
) -> EngineMemory:
    """Return the engine's memory per rank.

    On a GPU vLLM takes `generator.gpu_memory_utilization` of the whole card and gives the cache
    what weights and the largest step leave. Its other terms are estimates.
    """
    options, on_cpu = config.generator, hardware.is_cpu
    b = cache_bytes(shape, config, on_cpu=on_cpu)
    kv = kv_bytes_per_token(shape, config, on_cpu=on_cpu)
    state = state_bytes(shape, config, on_cpu=on_cpu)
    length = min(options.max_model_len, work.prompt_tokens + work.response_tokens)
    weights = shape.parameters * b / options.tensor_parallel
    if options.backend != "vllm":
        group = work.group_size if options.backend == "transformers" else 0
        tokens = group * length
        scores = 4.0 * group * work.response_tokens * shape.vocabulary
        weights = shape.parameters * b if group else 0.0
        cache = tokens * kv + group * state
        return EngineMemory(
            weights, scores, 0.0, cache, kv, state, state, 1, tokens, length, group, sleeps=False
        )
    if on_cpu:
        cache, extra, graphs = float(options.kv_cache_mb << 20), 0.0, 0.0
    else:
        extra, graphs = _work(shape, config, b, hardware.gpu.memory), GRAPHS
        budget = options.gpu_memory_utilization * hardware.gpu.memory
        cache = budget - weights - extra - graphs
    block, held = _blocks(shape, kv, state, on_cpu=on_cpu)
    sequence = (math.ceil(length / block) * block if held else length) * kv + held
    sequences = max(0.0, cache) / sequence
    longest = max(0.0, cache - held) / kv
    return EngineMemory(
        weights, extra, graphs, cache, kv, state, held, block, sequences * length, longest,
        sequences, sleeps=not on_cpu,
    )  # fmt: skip


def _blocks(shape: ModelShape, kv: float, state: float, *, on_cpu: bool) -> tuple[int, float]:
    """Return the tokens of a cache block, and the bytes that a sequence holds for its states."""
    least = CPU_BLOCK if on_cpu else GPU_BLOCK
    if not shape.delta_nets:
        return least, 0.0
    per_layer = state / len(shape.delta_nets)
    token = kv / len(shape.attentions)
    block = least * math.ceil(per_layer / (least * token))
    blocks = len(shape.delta_nets) * STATES["cpu" if on_cpu else "cuda"]
    return block, blocks * block * token


def _work(shape: ModelShape, config: Config, b: int, memory: float) -> float:
    """Return the bytes of the largest step that vLLM tries when it sizes its cache."""
    options, vision = config.generator, shape.vision
    tokens = max(options.max_model_len, prefill_tokens(memory))
    split = max(layer.ffn * max(layer.chosen, 1) + layer.shared_ffn for layer in shape.layers) * 3
    for net in shape.delta_nets[:1]:  # its projections, and each chunk's state
        split = max(split, 2 * net.channels + 2 * net.value + net.state // RULE_CHUNK)
    text = tokens * b * (split / options.tensor_parallel + 4 * shape.width)
    logits = options.max_num_seqs * shape.vocabulary * 3 * 4  # float32: logits, two copies
    pictures = tokens * vision.merge * b * (8 * vision.width + 2 * vision.ffn)
    return max(text, pictures) + logits
