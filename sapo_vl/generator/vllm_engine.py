"""Rollouts through vLLM, the engine in our own process.

On a GPU the engine shares the device with its learner rank: it sleeps during the update (level 2:
weights dropped) and takes them back from the learner. Groups of `generator.tensor_parallel` ranks
share one engine through vLLM's external launcher; all ranks of a group then send the same requests.

What each setting is for:
- `logprobs_mode=processed_logprobs`, top_p 1, top_k off: log-probs of the policy that sampled,
  divided by the temperature (raw ones, or those under top-p, are another policy's).
- `logit_bias` -100 on the vision ids: a sampled `<|image_pad|>` breaks the next forward (verl
  #3469); `bad_words` does not ban special ids. The learner subtracts the same 100.
- no chunked prefill: on a CPU a seeded request split over two steps raises.
- `update_weights` resets the prefix cache *and* the encoder cache; either alone leaves values of
  the old weights behind (trl #7198, vLLM #44910).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sapo_vl.errors import DataError, SetupError
from sapo_vl.generator.base import NO_VLLM, SamplingParams
from sapo_vl.model.assets import BAN_BIAS
from sapo_vl.schema import Prompt, Rollout
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

PREFILL_TOKENS = 8192  # per engine step: enough to prefill a batch of small prompts at once


class VLLMGenerator:
    """Samples with vLLM and takes new weights without a restart."""

    def __init__(self, config: Config, assets: ModelAssets, *, seed: int) -> None:
        """Start the engine. Raises SetupError when vLLM can't be imported."""
        try:
            from vllm import LLM
        except ImportError as error:
            raise SetupError(f"{NO_VLLM} ({error})") from error
        self._assets = assets
        self._on_gpu = torch.cuda.is_available()
        self._asleep = False
        options = config.generator
        self._engine_ranks = options.tensor_parallel if self._on_gpu else 1
        placement: dict[str, Any] = {}
        if self._on_gpu:
            placement = {
                "enable_sleep_mode": True,
                "gpu_memory_utilization": options.gpu_memory_utilization,
                "tensor_parallel_size": options.tensor_parallel,
            }
            if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                placement["distributed_executor_backend"] = "external_launcher"
        else:
            placement = {
                "enforce_eager": True,
                "enable_chunked_prefill": False,
                "kv_cache_memory_bytes": options.kv_cache_mb << 20,
            }
        self._llm = LLM(
            model=assets.path,
            dtype=config.model.dtype,
            seed=seed,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=max(options.max_model_len, PREFILL_TOKENS),
            limit_mm_per_prompt={"image": options.max_images, "video": 0},
            mm_processor_kwargs={
                "do_resize": False,
                "size": {
                    "shortest_edge": config.data.min_pixels,
                    "longest_edge": config.data.max_pixels,
                },
            },
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **placement,
        )

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams, seeds: Sequence[int]
    ) -> list[list[Rollout]]:
        """See Generator. Raises DataError when vLLM's prompt ids differ from the processor's."""
        own = [(_request(prompt), seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        shared, first = distributed.all_gather_block(own, self._engine_ranks)
        outputs = self._sample(shared, params)[first : first + len(own)] if shared else []
        for prompt, output in zip(prompts, outputs, strict=True):
            if list(output.prompt_token_ids or ()) != prompt.expanded_ids:
                raise DataError(
                    f"record {prompt.sample.id}: vLLM expanded the prompt to "
                    f"{len(output.prompt_token_ids or ())} tokens and the processor to "
                    f"{len(prompt.expanded_ids)}; the model folder's processor config disagrees "
                    "with data.min_pixels and data.max_pixels"
                )
        flat = [c for output in outputs for c in output.outputs]
        texts = iter(
            self._assets.tokenizer.batch_decode(
                [list(c.token_ids) for c in flat], skip_special_tokens=True
            )
        )
        return [
            [self._rollout(prompt, c, next(texts)) for c in output.outputs]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def _sample(self, requests: Sequence[tuple[Any, int]], params: SamplingParams) -> list[Any]:
        from vllm import SamplingParams as VLLMSamplingParams

        assert not self._asleep, "generate() on a sleeping engine"
        requests_params = [
            VLLMSamplingParams(
                n=params.n,
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k or -1,
                presence_penalty=params.presence_penalty,
                max_tokens=params.max_new_tokens,
                seed=seed if params.temperature > 0 else None,
                logprobs=0,
                logit_bias=dict.fromkeys(self._assets.banned_ids, BAN_BIAS),
                stop_token_ids=list(self._assets.eos_ids),
                detokenize=False,  # once per response below: per token it takes a fifth of the time
                flat_logprobs=True,
            )
            for _, seed in requests
        ]
        return self._llm.generate(
            [request for request, _ in requests], requests_params, use_tqdm=False
        )

    def _rollout(self, prompt: Prompt, output: Any, text: str) -> Rollout:
        ids = list(output.token_ids)
        logprobs = np.array(
            [entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True)],
            dtype=np.float32,
        )
        assert not set(ids) & set(self._assets.banned_ids), f"a vision id was sampled: {ids}"
        reason = "length" if output.finish_reason == "length" else "stop"
        return Rollout(prompt, ids, text, reason, logprobs)

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See Generator. All weights, in any order, in one go: fused modules can't take a part."""
        if self._on_gpu and self._asleep:
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if not self._on_gpu:
            self._llm.apply_model(_repack)
        if self._on_gpu and self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self.reset_caches()

    def reset_caches(self, *, encoder: bool = True) -> None:
        """Forget prefixes and image embeddings. `encoder=False` exists for the test of its need."""
        self._llm.reset_prefix_cache()
        if encoder:
            self._llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        """See Generator."""
        if self._on_gpu and not self._asleep:
            self._llm.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """See Generator."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm


def _request(prompt: Prompt) -> dict[str, Any]:
    request: dict[str, Any] = {"prompt_token_ids": prompt.token_ids}
    if prompt.images:
        request["multi_modal_data"] = {"image": prompt.images}
    return request


def _repack(model: torch.nn.Module) -> None:
    """Pack anew what the CPU backend keeps packed and a reload leaves stale or unpacked.

    That is the output head and the experts of a mixture.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)
