"""A gated delta net of Qwen3.5 by flash-linear-attention's kernels and by PyTorch, on packed rows.

The reference is PyTorch's form in float32, which tests compare with a recurrence token by token.
Errors are relative, over all elements. Needs neither DeepSpeed nor a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from bench import measure
from torch import Tensor

from gpu_check.kernels import LAYOUTS, TIMED, Groups, distance, seconds
from gpu_check.outcome import OK, SKIPPED, Outcome, Setting, at_most
from sapo_vl.learner import gated_delta
from sapo_vl.learner.attention import SharedPrefix

WIDTHS = {"cpu": (128, 2, 4), "cuda": (4096, 16, 32)}
"""Hidden width, key heads and value heads, all 128 wide; on a GPU those of Qwen3.5-9B."""

FORMS = {"cpu": ("batched",), "cuda": ("batched", "fla")}

OUT_BOUND, GRADIENT_BOUND = 2e-2, 5e-2
"""In bfloat16; estimates for a GPU. On a CPU PyTorch's form has 0.7 % and 0.8 %."""


def check_delta(setting: Setting) -> Iterator[Outcome]:
    """Compare each form in bfloat16 with float32, forward and backward, then time it."""
    device = torch.device(setting.device)
    for form in FORMS[setting.device]:
        worst = [_errors(form, groups, device) for groups in LAYOUTS[setting.device]]
        out, gradients = (max(errors) for errors in zip(*worst, strict=True))
        yield at_most(f"{form}, bfloat16: output", OUT_BOUND, out)
        yield at_most(f"{form}, bfloat16: gradients", GRADIENT_BOUND, gradients)
    if setting.device == "cpu":
        yield Outcome("fla against PyTorch", SKIPPED, "its kernels need a GPU")
    for label, groups in TIMED[setting.device].items():
        for form in FORMS[setting.device]:
            yield _time(form, label, groups, device)


def _layer(device: torch.device, dtype: torch.dtype, form: str) -> Any:
    """Return the layer with random weights, run in a form."""
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    hidden, key_heads, value_heads = WIDTHS[device.type]
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        hidden_size=hidden, linear_num_key_heads=key_heads, linear_num_value_heads=value_heads
    )
    net: Any = Qwen3_5GatedDeltaNet(config, 0)
    with torch.no_grad():
        # A state that lasts for 50 to 1,500 tokens, so that prompts reach their responses' ends.
        net.A_log.uniform_(-7.0, -4.0)
    net = net.to(device, dtype)
    net.forward = partial(gated_delta.run_layer, net, form)
    return net


def _input(groups: Groups, device: torch.device) -> tuple[Tensor, SharedPrefix]:
    layout = SharedPrefix.build(groups, device)
    torch.manual_seed(1)
    tokens, width = len(layout.group_T), WIDTHS[device.type][0]
    return torch.randn(1, tokens, width).bfloat16().float().to(device), layout


def _errors(form: str, groups: Groups, device: torch.device) -> tuple[float, float]:
    """Return the errors of the output, and of the gradients of input and weights together."""
    results = []
    for dtype, name in ((torch.bfloat16, form), (torch.float32, "batched")):
        net = _layer(device, torch.bfloat16, name).to(dtype)  # the same rounded weights
        x, layout = _input(groups, device)
        x = x.to(dtype).requires_grad_()
        out = net(x, layout=layout)
        out.float().square().sum().backward()
        # Each scaled to its own size, or the largest parameter would decide alone.
        gradients = [x.grad, *(p.grad for p in net.parameters())]
        results.append((out.detach(), [g.double().flatten() for g in gradients]))
    (out, gradients), (exact_out, exact) = results
    sizes = [float(g.norm()) + 1e-30 for g in exact]
    scaled = [
        torch.cat([g / s for g, s in zip(gs, sizes, strict=True)]) for gs in (gradients, exact)
    ]
    return distance(out, exact_out), distance(*scaled)


def _time(form: str, label: str, groups: Groups, device: torch.device) -> Outcome:
    """Measure a layer in the learner's type; of it, the convolution alone."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    net = _layer(device, dtype, form)
    x, layout = _input(groups, device)
    x = x.to(dtype).requires_grad_()

    def both() -> None:
        net(x, layout=layout).sum().backward()

    def forward() -> None:
        with torch.no_grad():
            net(x, layout=layout)

    def convolution() -> None:
        gated_delta.convolve(net, mixed, layout.delta_plan).sum().backward()

    figures = {}
    if device.type == "cuda":
        figures["peak GiB"] = measure.peak_memory(both, device) * 1e6 / 2**30
    figures["forward ms"] = 1e3 * seconds(forward, device)
    figures["forward and backward ms"] = 1e3 * seconds(both, device)
    mixed = net.in_proj_qkv(x)[0].detach().requires_grad_()
    figures["convolution, both ms"] = 1e3 * seconds(convolution, device)
    return Outcome(f"{form}, {label}, {x.shape[1]:,} tokens", OK, "", figures)
