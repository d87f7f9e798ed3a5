"""Qwen3-VL with a mixture of experts in its text layers."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sapo_vl.model.families.qwen3_vl import Qwen3VL

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


class Qwen3VLMoe(Qwen3VL):
    """Adds the experts' layout to the dense model."""

    tiny = replace(
        Qwen3VL.tiny,
        config="Qwen3VLMoeConfig",
        text={
            **Qwen3VL.tiny.text,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        },
    )

    def to_checkpoint_layout(self, name: str, tensor: Tensor) -> Tensor:
        """Transpose experts: [E, out, in] in transformers' modules, [E, in, out] in checkpoints."""
        return tensor.transpose(1, 2).contiguous() if name.endswith(EXPERTS) else tensor
