"""Rollouts with transformers' own `generate`: the slow reference, and the fallback without vLLM.

Left out: batches of several prompts (the n responses of one prompt form a batch), and sleep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig

from sapo_vl.generator.base import SamplingParams, SamplingRequest
from sapo_vl.model import lora
from sapo_vl.model.assets import BAN_BIAS
from sapo_vl.model.chat_template import response_texts
from sapo_vl.model.weights import load_weights
from sapo_vl.runs.signals import beat
from sapo_vl.schema import Prompt, Rollout

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets


class HFGenerator:
    """Samples from its own copy of the model, one prompt after the other."""

    def __init__(self, config: Config, assets: ModelAssets) -> None:
        """Load the model's weights, on the GPU if there is one."""
        self._assets = assets
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = load_weights(assets, config.model.dtype).to(self._device).eval()
        if config.model.lora.rank:
            lora.inject(self._model, config.model.lora, config.model.freeze, config.run.seed)
            self._model.eval()
        # The folder's own settings (repetition penalty, min_p, ..) would be merged into ours.
        self._model.generation_config = GenerationConfig()

    @torch.no_grad()
    def generate(self, requests: Sequence[SamplingRequest]) -> list[list[Rollout]]:
        """See Generator."""
        groups = []
        for request in requests:
            groups.append(self._sample(request.prompt, request.params, request.seed))
            beat()
        return groups

    def _sample(self, prompt: Prompt, params: SamplingParams, seed: int) -> list[Rollout]:
        ids = torch.tensor([prompt.expanded_ids], device=self._device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if prompt.pixel_values is not None and prompt.grid_thw is not None:
            grid_thw = prompt.grid_thw.to(self._device)
            inputs["mm_encoder_outputs"] = {"image": self._encoded(prompt.pixel_values, grid_thw)}
            inputs["image_grid_thw"] = grid_thw
            inputs["mm_token_type_ids"] = (ids == self._assets.image_token_id).int()
        options: dict[str, Any] = {}
        if params.presence_penalty:
            options["logits_processor"] = [PresencePenalty(ids.shape[1], params.presence_penalty)]
        torch.manual_seed(seed)
        out = self._model.generate(
            **inputs, **options, generation_config=_generation_config(self._assets, params)
        )
        scores = torch.stack(out.scores, dim=1).float().log_softmax(-1)
        responses = out.sequences[:, ids.shape[1] :]
        logprobs = scores.gather(-1, responses[..., None])[..., 0].cpu().numpy()
        return [
            self._rollout(prompt, row.tolist(), values)
            for row, values in zip(responses, logprobs, strict=True)
        ]

    def _encoded(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """Return the tower's output for a prompt's pictures, which `generate` copies n times.

        Given raw pixels it would do this only for classes that declare their `input_modalities`.
        Qwen3.5's doesn't, and n copies of its patches would come out interleaved.
        """
        pixels = pixel_values.to(self._device, self._model.dtype)
        return self._assets.family.encode_images(self._model.model, pixels, grid_thw)

    def _rollout(self, prompt: Prompt, ids: list[int], logprobs: np.ndarray) -> Rollout:
        """Cut the padding after the first end token."""
        ends = [i for i, token in enumerate(ids) if token in self._assets.eos_ids]
        length = ends[0] + 1 if ends else len(ids)
        return Rollout(
            prompt=prompt,
            token_ids=ids[:length],
            text=response_texts(self._assets, [ids[:length]])[0],
            finish_reason="stop" if ends else "length",
            generator_logprobs=logprobs[:length].astype(np.float32),
        )

    @torch.no_grad()
    def update_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """See Generator."""
        parameters = dict(self._model.named_parameters())
        # Streamed weights are in the checkpoint's layout; the conversion is its own inverse.
        to_module_layout = self._assets.family.to_checkpoint_layout
        for name, value in weights:
            parameters[name].copy_(to_module_layout(name, value))
        self._model.model.rope_deltas = None

    def update_adapter(self, weights: Iterable[tuple[str, torch.Tensor]], version: int = 0) -> None:
        """See Generator."""
        self.update_weights((lora.module_name(name), value) for name, value in weights)

    def sleep(self) -> None:
        """Do nothing: this generator is for small models."""

    def close(self) -> None:
        """Drop the model."""
        del self._model


def _generation_config(assets: ModelAssets, params: SamplingParams) -> GenerationConfig:
    """Return the settings of a call, made from `params` alone."""
    sampling: dict[str, Any] = {"do_sample": False}
    if params.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
        }
    return GenerationConfig(
        **sampling,
        num_return_sequences=params.n,
        max_new_tokens=params.max_new_tokens,
        sequence_bias=[[[i], BAN_BIAS] for i in assets.banned_ids],
        eos_token_id=list(assets.eos_ids),
        pad_token_id=assets.eos_ids[0],
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=True,
    )


class PresencePenalty:
    """Logits processor equal to vLLM's presence_penalty: lowers tokens already sampled."""

    def __init__(self, prompt_length: int, penalty: float) -> None:
        self._start = prompt_length
        self._penalty = penalty

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores` [B, V] for the sequences `input_ids` [B, T]."""
        seen = torch.zeros_like(scores, dtype=torch.bool)
        seen.scatter_(1, input_ids[:, self._start :], True)
        return scores - self._penalty * seen
