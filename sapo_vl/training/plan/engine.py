"""The sampler's memory: what vLLM takes while awake, and the KV cache that is left for sequences.

The transformers backend holds a second copy of the weights, and the cache and scores of one group.
An engine of the user's own is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.generator.vllm_engine import PREFILL_TOKENS
from sapo_vl.training.plan.hardware import GIB, Hardware
from sapo_vl.training.plan.learner import weight_bytes
from sapo_vl.training.plan.shape import ModelShape
from sapo_vl.training.plan.workload import Workload

GRAPHS = 1.0 * GIB
"""CUDA graphs and communication buffers of the engine, which stay while it sleeps (estimate)."""


@dataclass(frozen=True)
class EngineMemory:
    """Bytes per rank of an engine that is awake, and what they are worth in tokens."""

    weights: float
    work: float  # activations of a prefill, logits, pictures
    graphs: float
    kv_cache: float  # may be negative: there is no room for any
    kv_per_token: float
    kv_tokens: float  # tokens whose keys and values fit, over the ranks of the engine
    sequences: float  # of prompt plus response at full length, over the ranks of the engine
    sleeps: bool  # whether only `graphs` stay on the device during the update

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.work + self.graphs + max(0.0, self.kv_cache)


def kv_bytes_per_token(shape: ModelShape, config: Config) -> float:
    """Return the bytes per rank of a token's keys and values.

    Key-value heads are split over the ranks of an engine; fewer heads than ranks are repeated.
    """
    layer = shape.layers[0]
    heads = layer.key // (layer.query // layer.heads)
    return shape.kv_width * weight_bytes(config) / min(config.generator.tensor_parallel, heads)


def engine_memory(
    shape: ModelShape, config: Config, hardware: Hardware, work: Workload
) -> EngineMemory:
    """Return the engine's memory per rank.

    On a GPU vLLM takes `generator.gpu_memory_utilization` of the whole card and gives the cache
    what weights and the largest step leave. Its other terms are estimates.
    """
    options, b = config.generator, weight_bytes(config)
    kv = kv_bytes_per_token(shape, config)
    length = min(options.max_model_len, work.prompt_tokens + work.response_tokens)
    weights = shape.parameters * b / options.tensor_parallel
    if options.backend != "vllm":
        group = work.group_size if options.backend == "transformers" else 0
        tokens = group * length
        scores = 4.0 * group * work.response_tokens * shape.vocabulary
        weights = shape.parameters * b if group else 0.0
        return EngineMemory(weights, scores, 0.0, tokens * kv, kv, tokens, group, sleeps=False)
    if hardware.is_cpu:
        cache, extra, graphs = float(options.kv_cache_mb << 20), 0.0, 0.0
    else:
        extra, graphs = _work(shape, config, b), GRAPHS
        budget = options.gpu_memory_utilization * hardware.gpu.memory
        cache = budget - weights - extra - graphs
    held = max(0.0, cache) / kv
    sequences = held / length
    return EngineMemory(
        weights, extra, graphs, cache, kv, held, sequences, sleeps=not hardware.is_cpu
    )


def _work(shape: ModelShape, config: Config, b: int) -> float:
    """Return the bytes of the largest step that vLLM tries when it sizes its cache."""
    options, vision = config.generator, shape.vision
    tokens = max(options.max_model_len, PREFILL_TOKENS["cuda"])
    ffn = max(layer.ffn * max(layer.chosen, 1) for layer in shape.layers)
    text = tokens * b * (3 * ffn / options.tensor_parallel + 4 * shape.width)
    logits = options.max_num_seqs * shape.vocabulary * 3 * 4  # float32: logits, two copies
    pictures = tokens * vision.merge * b * (8 * vision.width + 2 * vision.ffn)
    return max(text, pictures) + logits
