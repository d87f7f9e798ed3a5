"""The parts, in the order in which they run: what others depend on first."""

from __future__ import annotations

from gpu_check.runner import Part

PARTS: dict[str, Part] = {
    "attention": Part(
        "attention forms against dense, forward and backward; their speed",
        "gpu_check.kernels:check_attention",
    ),
    "head": Part(
        "output head at the real vocabulary against float64, by size of chunk; its speed",
        "gpu_check.kernels:check_head",
    ),
    "delta": Part(
        "a gated delta net by flash-linear-attention's kernels against PyTorch; its speed",
        "gpu_check.delta:check_delta",
        needs=("fla",),
    ),
    "learner": Part(
        "one step of the policy by layout and attention form, without DeepSpeed",
        "gpu_check.learning:check_policy",
    ),
    "zero": Part(
        "ZeRO-3 and gradient checkpointing against ZeRO-2",
        "gpu_check.learning:check_zero",
        needs=("deepspeed",),
    ),
    "offload": Part(
        "optimizer and parameters on the host against on the device",
        "gpu_check.learning:check_offload",
        needs=("deepspeed",),
    ),
    "engine": Part(
        "vLLM beside the learner: sleep, wake, parity of text and of pictures",
        "gpu_check.engine:check_engine",
        needs=("deepspeed", "vllm"),
        slow_on_cpu=True,
    ),
    "ranks": Part(
        "ZeRO-3 on two ranks with unequal shares against one rank",
        "gpu_check.ranks:check_ranks",
        needs=("deepspeed",),
        ranks=2,
        slow_on_cpu=True,
        limit=600,
    ),
    "tp": Part(
        "one engine on two ranks (tensor parallel) with ZeRO-3",
        "gpu_check.ranks:check_tensor_parallel",
        needs=("deepspeed", "vllm"),
        ranks=2,
        slow_on_cpu=True,
        limit=600,
    ),
    "smoke": Part(
        "the main job in two steps",
        "gpu_check.jobs:check_smoke",
        needs=("deepspeed",),
        slow_on_cpu=True,
        limit=600,
    ),
    "bench": Part(
        "the learner's benchmark at one real size",
        "gpu_check.jobs:check_bench",
        needs=("deepspeed",),
        limit=600,
    ),
}
