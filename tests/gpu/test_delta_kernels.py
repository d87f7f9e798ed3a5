"""fla's kernel against the stand-in that the CPU's tests use: values, gradients, signature."""

from __future__ import annotations

import inspect

import delta_kernels
import pytest
import torch

from sapo_vl.learner.gated_delta_fla import delta_kernel, missing_kernels
from sapo_vl.system.machine import gpu_count

pytestmark = pytest.mark.gpu

BOUND = 3e-2
"""Of each tensor, relative to its norm, in bfloat16; an estimate. In float32, run by Triton's
interpreter on a CPU, fla-core 0.6.0 is within 1e-6."""


@pytest.fixture(scope="module")
def kernel():
    if not gpu_count():
        pytest.skip("needs an NVIDIA GPU")
    missing = missing_kernels()
    if missing is not None:
        pytest.skip(missing)
    return delta_kernel()


def test_the_signature_is_that_of_the_stand_in(kernel):
    parameters = inspect.signature(kernel).parameters
    assert list(parameters) == list(
        inspect.signature(delta_kernels.chunk_gated_delta_rule).parameters
    )


@pytest.mark.parametrize("starts", [False, True])
def test_values_and_gradients(kernel, starts):
    """Sequences of 70, 3, 1 and 64 tokens, two value heads to a key head."""
    torch.manual_seed(0)
    device, width = torch.device("cuda"), 128
    shapes = [(1, 138, 2, width), (1, 138, 2, width), (1, 138, 4, width), (1, 138, 4), (1, 138, 4)]
    q, k, v, decay, beta = (torch.randn(shape, device=device) for shape in shapes)
    inputs = [x.bfloat16() for x in (q, k, v)] + [-decay.exp() / 20, beta.sigmoid().bfloat16()]
    state = 0.3 * torch.randn(4, 4, width, width, device=device) if starts else None
    weights = torch.randn(1, 138, 4, width, device=device)
    ends = torch.tensor([0, 70, 73, 74, 138])
    results = []
    for function in (kernel, delta_kernels.chunk_gated_delta_rule):
        leaves = [x.clone().requires_grad_() for x in inputs]
        start = None if state is None else state.clone().requires_grad_()
        out, last = function(
            *leaves,
            initial_state=start,
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
            cu_seqlens=ends.to(device),
            cu_seqlens_cpu=ends,
        )
        assert last.dtype is torch.float32
        ((out.float() * weights).sum() + last.sum()).backward()
        gradients = [x.grad for x in leaves] + ([] if start is None else [start.grad])
        results.append([out.detach(), last.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        gap = float((found.float() - expected.float()).norm() / expected.float().norm())
        assert gap < BOUND
