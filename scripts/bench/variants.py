"""The variants compared: each runs forward, SAPO loss and backward on the same rollouts.

- `shared`: this learner, with a prompt and its image once per group.
- `padded`: its reference layout, with a prompt and image per response.
- `trl`: TRL's GRPOTrainer unchanged, `compute_loss` on a batch in its format.
- `trl-compact`: the same with the head on response positions only, as TRL does on GPUs.
- `trl-logits`: the same with full logits of the responses, built from TRL's functions, as TRL did
  before its chunked head.

Left out: the optimizer, which is the same for all.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from sapo_vl.algorithm import sapo
from sapo_vl.algorithm.surrogate import Surrogate
from sapo_vl.learner.logprobs import ResponseLogprobs
from sapo_vl.learner.patch_embedding import use_product
from sapo_vl.learner.policy import Policy
from sapo_vl.learner.token_constants import TokenConstants
from sapo_vl.model.assets import ModelAssets
from sapo_vl.schema import Rollout

OPTIONS = sapo.Options(tau_pos=1.0, tau_neg=1.05)
"""Temperatures of both toolkits' loss."""

Step = Callable[[], Tensor]
"""Computes loss and gradients; returns the loss."""


def has_trl() -> bool:
    """Return whether TRL is installed."""
    return find_spec("trl") is not None


class Variant:
    """A copy of the model and a step on the batch."""

    def __init__(self, model: Any, step: Step) -> None:
        self.model = model
        self.step = step

    def run(self) -> float:
        """Clear the gradients and take one step; return the loss."""
        self.model.zero_grad(set_to_none=True)
        return float(self.step().detach())

    def grad_norm(self) -> float:
        """Return the norm of the last step's gradients."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def build(
    name: str, model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]
) -> Variant:
    """Build a variant of VARIANTS on a copy of `model`; rollouts have old log-probs."""
    return VARIANTS[name](copy.deepcopy(model), assets, case, rollouts)


def _shared(model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]) -> Variant:
    return ours(model, assets, rollouts, "shared_prefix")


def _padded(model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]) -> Variant:
    return ours(model, assets, rollouts, "padded")


def ours(model: Any, assets: ModelAssets, rollouts: list[Rollout], layout: str) -> Variant:
    """Return this learner's step with a layout of learner.layout, on `model` itself."""
    use_product(model)
    policy = Policy(model, assets, temperature=1.0, layout=layout)
    lengths = torch.tensor([len(rollout.token_ids) for rollout in rollouts])
    advantages = torch.tensor([rollout.advantage for rollout in rollouts])
    old = torch.cat([torch.from_numpy(r.old_logprobs) for r in rollouts])
    device = policy.bias_V.device
    constants = TokenConstants(
        advantages_T=advantages.repeat_interleave(lengths).to(device),
        weights_T=(1.0 / (lengths * len(rollouts))).repeat_interleave(lengths).to(device),
        old_logprobs_T=old.to(device),
        generator_logprobs_T=None,
        lengths_R=lengths.to(device),
    )

    def objective(out: ResponseLogprobs, chunk: slice) -> Surrogate:
        inputs = constants.inputs(out.logprobs_N, chunk, importance_cap=None)
        return sapo.loss(inputs, OPTIONS)

    def step() -> Tensor:
        surrogate = policy(rollouts, objective).surrogate
        assert surrogate is not None
        surrogate.loss.backward()
        return surrogate.loss

    return Variant(model, step)


def _trl(model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]) -> Variant:
    trainer = trl_trainer(model, assets, case, len(rollouts))
    batch = trl_batch(rollouts, assets, model.device)

    def step() -> Tensor:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        return loss

    return Variant(model, step)


def _trl_compact(model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]) -> Variant:
    from trl.trainer import utils

    plain = _trl(model, assets, case, rollouts)

    def step() -> Tensor:
        original, utils._use_triton = utils._use_triton, lambda device: True
        try:
            return plain.step()
        finally:
            utils._use_triton = original

    return Variant(model, step)


def _trl_logits(model: Any, assets: ModelAssets, case: Case, rollouts: list[Rollout]) -> Variant:
    from trl.trainer.utils import selective_log_softmax_and_entropy

    trainer = trl_trainer(model, assets, case, len(rollouts))
    batch = trl_batch(rollouts, assets, model.device)

    def from_logits(
        model: Any, input_ids: Tensor, attention_mask: Tensor, keep: int, **inputs: Any
    ) -> tuple[Tensor, Tensor, None]:
        passed = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
        logits = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            logits_to_keep=keep + 1,
            use_cache=False,
            **{name: inputs[name] for name in passed},
        ).logits[:, :-1]
        targets = input_ids[:, -keep:]
        return (*selective_log_softmax_and_entropy(logits, targets, False), None)

    trainer._get_per_token_logps_and_entropies = from_logits

    def step() -> Tensor:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        return loss

    return Variant(model, step)


VARIANTS = {
    "shared": _shared,
    "padded": _padded,
    "trl": _trl,
    "trl-compact": _trl_compact,
    "trl-logits": _trl_logits,
}
"""Name -> builder from model, assets, case and rollouts."""


def trl_trainer(model: Any, assets: ModelAssets, case: Case, batch_size: int) -> Any:
    """Return TRL's GRPOTrainer with loss_type sapo, ready for `compute_loss`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(Path(tempfile.gettempdir()) / "sapo_vl-bench"),
        use_cpu=model.device.type == "cpu",
        bf16=model.dtype == torch.bfloat16,
        gradient_checkpointing=False,
        per_device_train_batch_size=batch_size,
        num_generations=case.group,
        max_completion_length=case.longest,
        loss_type="sapo",
        sapo_temperature_pos=OPTIONS.tau_pos,
        sapo_temperature_neg=OPTIONS.tau_neg,
        temperature=1.0,
        beta=0.0,
        save_strategy="no",
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "none"}] * batch_size),
        processing_class=assets.processor,
    )
    trainer.current_gradient_accumulation_steps = 1  # its training loop sets it
    trainer.model.train()
    return trainer


def trl_batch(
    rollouts: Sequence[Rollout], assets: ModelAssets, device: torch.device
) -> dict[str, Any]:
    """Convert to TRL's format: prompts padded left, completions right, images per response."""
    from trl.trainer.utils import pad

    pad_id = assets.tokenizer.pad_token_id
    prompts = [torch.tensor(rollout.prompt.expanded_ids) for rollout in rollouts]
    answers = [torch.tensor(rollout.token_ids) for rollout in rollouts]
    prompt_ids = pad(prompts, padding_value=pad_id, padding_side="left")
    completion_ids = pad(answers, padding_value=pad_id, padding_side="right")
    old = [torch.from_numpy(rollout.old_logprobs) for rollout in rollouts]
    types = (prompt_ids == assets.image_token_id).int()
    batch = {
        "prompt_ids": prompt_ids,
        "prompt_mask": pad([torch.ones_like(p) for p in prompts], 0, "left"),
        "completion_ids": completion_ids,
        "completion_mask": pad([torch.ones_like(a) for a in answers], 0, "right"),
        "advantages": torch.tensor([rollout.advantage for rollout in rollouts]),
        "old_per_token_logps": pad(old, 0.0, "right"),
        "pixel_values": torch.cat([r.prompt.pixel_values for r in rollouts]),  # type: ignore[misc]
        "image_grid_thw": torch.cat([r.prompt.grid_thw for r in rollouts]),  # type: ignore[misc]
        "mm_token_type_ids": torch.cat([types, torch.zeros_like(completion_ids).int()], dim=1),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()} | {
        "num_images": [1] * len(rollouts)
    }
