"""Qwen3.5 and Qwen3.6 with a mixture of experts: routed experts beside a shared one.

Unlike Qwen3-VL's, their modules and checkpoints keep experts in one layout, [E, out, in].
"""

from __future__ import annotations

from dataclasses import replace

from sapo_vl.model.families.qwen3_5 import Qwen35


class Qwen35Moe(Qwen35):
    """The dense model with other MLPs."""

    tiny = replace(
        Qwen35.tiny,
        config="Qwen3_5MoeConfig",
        text={
            **{k: v for k, v in Qwen35.tiny.text.items() if k != "intermediate_size"},
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "shared_expert_intermediate_size": 128,
        },
    )
