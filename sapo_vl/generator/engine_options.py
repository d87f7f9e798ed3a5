"""What every vLLM engine of ours is started and asked with, in this process or as a server.

Why each setting:
- `logprobs_mode=processed_logprobs`, top_p 1, top_k off: log-probs of the sampling policy, with
  the temperature applied (raw ones, or those under top-p, belong to another policy).
- `head_dtype` float32: the head's product is not rounded to bfloat16, nor is the learner's; without
  it both round, each in its own way. On a GPU it costs no copy of the weights.
- `logit_bias` -100 on vision ids: a sampled `<|image_pad|>` breaks the next forward (verl #3469),
  and `bad_words` does not ban special ids. The learner adds the same -100.
- No chunked prefill on a CPU: a seeded request split over two steps raises there. Without it a
  prompt waits for a step that takes it whole, and `max_num_batched_tokens` fits the longest.
- What a family needs besides is in Family.engine_options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sapo_vl.model.assets import BAN_BIAS

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.generator.base import SamplingParams
    from sapo_vl.model.assets import ModelAssets

CPU_BLOCK = 32
"""Tokens of a cache block on a CPU, its kernel's least; only whole blocks of a prompt are shared by
its responses, and vLLM's default of 128 is longer than a short prompt."""

PREFILL_TOKENS = {"cpu": 8192, "small GPU": 8192, "large GPU": 16_384}
"""Least token budget of an engine step. A step's prompts, pictures included, get what its decoding
sequences leave; vLLM's own defaults on GPUs are the same (engine/arg_utils.py)."""

LARGE_GPU = 70 * 2**30
"""Bytes from which a GPU is a large one."""


def engine_options(
    config: Config, assets: ModelAssets, *, seed: int, on_gpu: bool
) -> dict[str, Any]:
    """Return vLLM's engine arguments for the model in `assets`, without those of an adapter.

    Raises DataError for a model that vLLM has no kernels for.
    """
    options = config.generator
    if on_gpu:
        placement: dict[str, Any] = {"gpu_memory_utilization": options.gpu_memory_utilization}
    else:
        placement = {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "block_size": CPU_BLOCK,
            "kv_cache_memory_bytes": options.kv_cache_mb << 20,
        }
    placement |= assets.family.engine_options(assets.config, on_gpu=on_gpu)
    budget = prefill_tokens(torch.cuda.mem_get_info()[1] if on_gpu else None)
    return {
        "model": assets.path,
        "seed": seed,
        "tensor_parallel_size": options.tensor_parallel,
        "dtype": config.model.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": max(options.max_model_len, budget),
        "limit_mm_per_prompt": {"image": options.max_images, "video": 0},
        "mm_processor_kwargs": assets.family.processor_kwargs(
            config.data.min_pixels, config.data.max_pixels
        ),
        "logprobs_mode": "processed_logprobs",
        "hf_overrides": {"head_dtype": "float32"},
        "mm_processor_cache_gb": 0,  # a picture comes once a step
        "mm_device_do_normalize": False,  # patches are normalised as the processor does it
        "disable_log_stats": True,
    } | placement


def prefill_tokens(gpu_memory: float | None) -> int:
    """Return the least token budget of a step on a GPU of so many bytes; None: on a CPU."""
    if gpu_memory is None:
        return PREFILL_TOKENS["cpu"]
    return PREFILL_TOKENS["large GPU" if gpu_memory >= LARGE_GPU else "small GPU"]


def sampling_options(params: SamplingParams, seed: int, assets: ModelAssets) -> dict[str, Any]:
    """Return the arguments of vllm.SamplingParams for one request."""
    return {
        "n": params.n,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "presence_penalty": params.presence_penalty,
        "max_tokens": params.max_new_tokens,
        "seed": seed if params.temperature > 0 else None,
        "logprobs": 0,
        "logit_bias": dict.fromkeys(assets.banned_ids, BAN_BIAS),
        "stop_token_ids": list(assets.eos_ids),
        "detokenize": False,  # per token it takes a fifth of the time; once at the end is enough
        "flat_logprobs": True,
    }


def room_advice(told: str, *, on_gpu: bool) -> str | None:
    """Return which key to change where vLLM's error `told` says that machine or model lack room.

    vLLM's errors have no types of their own, so they are told apart by their words.
    """
    if "desired GPU memory utilization" in told:
        return (
            "lower generator.gpu_memory_utilization, or free memory on the GPU: in training "
            "with learner.offload_optimizer, learner.offload_while_sampling or more ranks"
        )
    if "KV cache is needed" in told or "memory for the cache blocks" in told:
        key = "gpu_memory_utilization" if on_gpu else "kv_cache_mb"
        return f"raise generator.{key} or lower generator.max_model_len"
    if "derived max_model_len" in told:
        return "lower generator.max_model_len to what the model has positions for"
    return None
