"""Rollouts with vLLM, the engine in this process.

On a GPU the engine shares the device with its learner rank: it sleeps during the update (level 2:
weights discarded) and reloads them from the learner. `generator.tensor_parallel` consecutive ranks
share one engine through vLLM's external launcher, on GPUs and on CPU ranks alike; all of them then
send the requests of all of them, so each rank must call `generate` as often as the others.

Why each setting: see engine_options.py. Besides:
- With model.lora the engine sleeps at level 1 (its base weights wait in host memory) and gets
  adapters alone, through folders in shared memory; see generator/adapter_folder.py.
- `update_weights` resets the prefix cache *and* the encoder cache; either one alone keeps values of
  the old weights (trl #7198, vLLM #44910).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sapo_vl.errors import SetupError
from sapo_vl.generator.adapter_folder import AdapterFolder
from sapo_vl.generator.base import (
    NO_VLLM,
    SamplingParams,
    SamplingRequest,
    check_tensor_parallel,
)
from sapo_vl.generator.engine_input import EngineInputs, ProcessedPrompt
from sapo_vl.generator.engine_options import engine_options, room_advice, sampling_options
from sapo_vl.model.chat_template import response_texts
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Prompt, Rollout
from sapo_vl.system import distributed

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

ADAPTER = "policy"
"""The adapter's name in the engine."""


class VLLMGenerator:
    """A vLLM engine whose weights are replaced without a restart."""

    def __init__(self, config: Config, assets: ModelAssets, *, seed: int) -> None:
        """Start the engine.

        Raises SetupError when vLLM can't be imported or finds too little memory, ConfigError when
        generator.tensor_parallel doesn't divide the number of ranks.
        """
        try:
            from vllm import LLM
        except ImportError as error:
            raise SetupError(f"{NO_VLLM} ({error})") from error
        self._assets = assets
        self._on_gpu = torch.cuda.is_available()
        self._asleep = False
        self._engine_ranks = config.generator.tensor_parallel
        options = engine_options(config, assets, seed=seed, on_gpu=self._on_gpu)
        if distributed.world_size() > 1:
            check_tensor_parallel(config, distributed.world_size())
            options["distributed_executor_backend"] = "external_launcher"
        if self._on_gpu:
            options["enable_sleep_mode"] = True
        self._adapter: AdapterFolder | None = None
        self._lora_request: Any = None
        if config.model.lora.rank:
            self._adapter = AdapterFolder(assets, config.model)
            options |= self._adapter.engine_options()
        dtype = options["dtype"]
        if dtype != config.model.dtype:
            distributed.print0(
                f"vLLM has {assets.family.name} in {dtype} only here: rollouts are sampled in "
                f"{dtype}, from weights that are trained in {config.model.dtype}"
            )
        self._llm = _start(LLM, self._on_gpu, **options)
        self._inputs = EngineInputs(self._llm, assets)
        gc.collect()
        gc.freeze()  # else each full collection goes through all that vLLM has imported

    def generate(self, requests: Sequence[SamplingRequest]) -> list[list[Rollout]]:
        """See Generator. Raises DataError when vLLM processes pictures otherwise than we do."""
        processed = {id(r.prompt): r.prompt for r in requests}
        prompts = {key: self._inputs.process(prompt) for key, prompt in processed.items()}
        own = [(prompts[id(r.prompt)], r.params, r.seed) for r in requests]
        block, offset = distributed.all_gather_block(own, self._engine_ranks)
        outputs = self._run(block)[offset : offset + len(own)] if block else []
        ids = [list(c.token_ids) for output in outputs for c in output.outputs]
        texts = iter(response_texts(self._assets, ids))
        return [
            [self._rollout(request.prompt, response, next(texts)) for response in output.outputs]
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _run(self, requests: Sequence[tuple[ProcessedPrompt, SamplingParams, int]]) -> list[Any]:
        """Return vLLM's output of each request, in order."""
        assert not self._asleep, "generate() on a sleeping engine"
        assert self._adapter is None or self._lora_request, "generate() without an adapter"
        engine = self._llm.llm_engine
        inputs = {id(prompt): prompt for prompt, _, _ in requests}
        converted = {key: self._inputs.engine_input(prompt) for key, prompt in inputs.items()}
        for i, (prompt, params, seed) in enumerate(requests):
            engine.add_request(
                str(i),
                converted[id(prompt)],
                self._vllm_params(params, seed),
                lora_request=self._lora_request,
            )
        finished = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                finished[output.request_id] = output
            beat()
        return [finished[str(i)] for i in range(len(requests))]

    def _vllm_params(self, params: SamplingParams, seed: int) -> Any:
        import vllm
        from vllm.sampling_params import RequestOutputKind

        return vllm.SamplingParams(
            **sampling_options(params, seed, self._assets),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _rollout(self, prompt: Prompt, output: Any, text: str) -> Rollout:
        ids = list(output.token_ids)
        assert not set(ids) & set(self._assets.banned_ids), f"a vision id was sampled: {ids}"
        # With logprobs=0 vLLM keeps one entry a token, the sampled token's, in flat lists; going
        # through its per-token dictionaries instead costs 30 times as much.
        assert output.logprobs.token_ids == ids, "not one log-prob for each sampled token"
        return Rollout(
            prompt=prompt,
            token_ids=ids,
            text=text,
            finish_reason="length" if output.finish_reason == "length" else "stop",
            generator_logprobs=np.array(output.logprobs.logprobs, dtype=np.float32),
        )

    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """See Generator. Needs all weights in one call, in any order, because modules are fused."""
        if self._on_gpu and self._asleep:
            self._llm.wake_up(tags=["weights"])
            self._llm.apply_model(_zero_deepstack)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        if not self._on_gpu:
            self._llm.apply_model(repack)
        if self._on_gpu and self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        self.reset_caches()

    def update_adapter(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """See Generator. The engine's base weights are never sent again."""
        from vllm.lora.request import LoRARequest

        assert self._adapter is not None, "update_adapter() without model.lora"
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        folder = str(self._adapter.write(weights))
        # In place once: a request with this flag would read the folder again at each step.
        self._llm.llm_engine.add_lora(LoRARequest(ADAPTER, 1, folder, load_inplace=True))
        self._lora_request = LoRARequest(ADAPTER, 1, folder)
        self.reset_caches()

    def reset_caches(self, *, encoder: bool = True) -> None:
        """Drop cached prefixes and image embeddings; a test shows that both are necessary."""
        self._llm.reset_prefix_cache()
        if encoder:
            self._llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        """See Generator. The engine wakes up in `update_weights` or `update_adapter`."""
        if self._on_gpu and not self._asleep:
            self._llm.sleep(level=2 if self._adapter is None else 1)
            self._asleep = True

    def close(self) -> None:
        """See Generator."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        if self._adapter is not None:
            self._adapter.close()


def _start(engine: Callable[..., Any], on_gpu: bool, **settings: Any) -> Any:
    """Return engine(**settings). Raises SetupError, with the key, where machine or model lack room.

    What vLLM says is told apart by `room_advice`.
    """
    try:
        return engine(**settings)
    except ValueError as error:
        told = " ".join(str(error).split())
        advice = room_advice(told, on_gpu=on_gpu)
        if advice is None:
            raise
        raise SetupError(f"{advice}. vLLM: {told}") from error


def _zero_deepstack(model: torch.nn.Module) -> None:
    """Zero the rows that vLLM adds to the first layers' states, for text and decoding too.

    vLLM keeps them in a plain list of tensors in the weights' memory pool. They are no buffers of
    the module, so a sleep that discards weights loses them and nothing restores them.
    """
    for module in model.modules():
        for rows in getattr(module, "deepstack_input_embeds", None) or ():
            rows.zero_()


def repack(model: torch.nn.Module) -> None:
    """Repack the output head and the experts for the CPU backend after a reload.

    The backend holds both in a packed form; a reload leaves it stale (head) or unpacked (experts).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)
