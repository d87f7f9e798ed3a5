"""The attention forms against dense attention in float64, and the output head in chunks.

Neither needs DeepSpeed or a model. Errors are relative: |x - reference| / |reference| over all
elements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
from bench import measure
from bench.random_model import TEXT
from torch import Tensor, nn

from gpu_check.outcome import OK, SKIPPED, Outcome, Setting, at_most
from sapo_vl.learner import attention, logprobs
from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.logprobs import LogprobHead

Groups = Sequence[tuple[int, Sequence[int]]]
"""(prompt length, response lengths) of each group of a row."""

HEADS = {"cpu": (8, 2, 128), "cuda": (32, 8, 128)}
"""Query heads, key-value heads and their width: grouped 4:1; on a GPU those of 8B."""

LAYOUTS: dict[str, tuple[Groups, ...]] = {
    "cpu": (((70, (33, 5, 0, 64)), (130, (17, 90))), ((7, (1,)),)),
    "cuda": (
        ((700, (330, 5, 0, 640)), (1130, (170, 900))),
        ((7, (1,)),),
        ((300, (129, 128, 127)),) * 2,
        ((2048, (512,) * 4),),
    ),
}
"""Rows whose results are compared; several lengths, so that a compiled form meets new ones."""

TIMED: dict[str, dict[str, Groups]] = {
    "cpu": {"4 x 60": ((100, (60,) * 4),)},
    "cuda": {
        "7 x 2k": ((1100, (2047,) * 7),),
        "8 x 500": ((1100, (500,) * 8),) * 3,
        "16 x 250": ((1100, (250,) * 16),) * 3,
    },
}
"""Rows of about 16k tokens (on a GPU) that are timed: responses x tokens of each group."""

FORMS = {"cpu": ("cascade",), "cuda": ("flex", "varlen")}

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""An H100 has 3e-6 and 4e-3 (docs/gpu.md); products in TF32 would exceed the first."""

HEAD_SHAPES = {"cpu": ((64, 16),), "cuda": ((2048, 8192), (4096, 8192))}
"""Hidden width and tokens; the vocabulary is the real one."""

HEAD_CHUNKS = {"cpu": (20,), "cuda": (24, 26, 27, 28, 29, 30)}
"""Logits held at once while the head is timed, as powers of two: 110 tokens at 2^24."""

COMPARED_TOKENS, COMPARED_CHUNK = 16, 2**20
"""Tokens whose log-probs and gradients the head's check computes in float64, in chunks of 6."""


def check_attention(setting: Setting) -> Iterator[Outcome]:
    """Compare each form with dense attention, forward and backward, then time it."""
    device = torch.device(setting.device)
    for form in FORMS[setting.device]:
        for dtype in (torch.float32, torch.bfloat16):
            if form == "varlen" and dtype == torch.float32:
                continue  # its kernels are of 16 bits
            worst = [
                _attention_errors(form, groups, dtype, device) for groups in LAYOUTS[setting.device]
            ]
            out, grads = (max(errors) for errors in zip(*worst, strict=True))
            yield at_most(
                f"{form} against dense, {_short(dtype)}",
                BOUNDS[dtype],
                max(out, grads),
                forward=out,
                backward=grads,
            )
    if setting.device == "cpu":
        for form in FORMS["cuda"]:
            yield Outcome(f"{form} against dense", SKIPPED, "its backward needs a GPU")
    for label, groups in TIMED[setting.device].items():
        for form in FORMS[setting.device]:
            yield _time_attention(form, label, groups, device)


def _attention_errors(
    form: str, groups: Groups, dtype: torch.dtype, device: torch.device
) -> tuple[float, float]:
    """Return the errors of the output and of the worst of the three gradients."""
    heads, kv_heads, width = HEADS[device.type]
    results = []
    for name in (form, "dense"):
        torch.manual_seed(0)
        layout = SharedPrefix.build(groups, device)
        inputs = [
            torch.randn(1, h, len(layout.group_T), width, device=device).to(dtype)
            for h in (heads, kv_heads, kv_heads)
        ]
        if name == "dense":
            inputs = [x.double() for x in inputs]
        inputs = [x.requires_grad_() for x in inputs]
        out = attention.FORMS[name](None, *inputs, None, scaling=width**-0.5, layout=layout)[0]
        out.double().square().sum().backward()
        results.append([out.detach(), *(x.grad for x in inputs)])
    out_error, *grad_errors = (distance(a, b) for a, b in zip(*results, strict=True))
    return out_error, max(grad_errors)


def _time_attention(form: str, label: str, groups: Groups, device: torch.device) -> Outcome:
    """Measure a form in the learner's type: first call, forward, forward and backward, mask."""
    heads, kv_heads, width = HEADS[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    layout = SharedPrefix.build(groups, device)
    shape = (1, len(layout.group_T), width)
    inputs = [
        # transformers' layout: [1, heads, T, D] as a view of [1, T, heads, D]
        torch.randn(1, shape[1], h, width, device=device, dtype=dtype).transpose(1, 2)
        for h in (heads, kv_heads, kv_heads)
    ]
    inputs = [x.detach().requires_grad_() for x in inputs]

    def forward() -> Tensor:
        attend: Any = attention.FORMS[form]
        return attend(None, *inputs, None, scaling=width**-0.5, layout=layout)[0]

    def both() -> None:
        forward().sum().backward()

    def with_mask() -> None:
        layout.block_mask = None
        forward()

    started = time.perf_counter()
    both()
    if device.type == "cuda":
        torch.cuda.synchronize()
    first = time.perf_counter() - started
    with torch.no_grad():
        alone = seconds(forward, device)
        mask = max(0.0, seconds(with_mask, device) - alone) if form == "flex" else 0.0
    together = seconds(both, device)
    operations = 4.0 * visible_pairs(groups) * heads * width
    return Outcome(
        f"{form}, {label}, {shape[1]:,} tokens",
        OK,
        "",
        {
            "first call s": first,
            "forward ms": 1e3 * alone,
            "forward and backward ms": 1e3 * together,
            "mask ms": 1e3 * mask,
            "forward TFLOP/s": operations / alone / 1e12,
            "both TFLOP/s": 3.5 * operations / together / 1e12,
        },
    )


def check_head(setting: Setting) -> Iterator[Outcome]:
    """Compare the head's log-probs and gradients with float64, then time it by size of chunk."""
    device = torch.device(setting.device)
    dtypes = [torch.float32, torch.bfloat16] if setting.device == "cuda" else [torch.float32]
    shipped = logprobs.CHUNK_LOGITS[device.type]
    try:
        for width, tokens in HEAD_SHAPES[setting.device]:
            logprobs.CHUNK_LOGITS[device.type] = COMPARED_CHUNK
            for dtype in dtypes:
                error = _head_error(width, dtype, device)
                yield at_most(f"head {width} wide, {_short(dtype)}", BOUNDS[dtype], error)
            for power in HEAD_CHUNKS[setting.device]:
                logprobs.CHUNK_LOGITS[device.type] = 2**power
                what = f"head {width} wide, {_short(dtypes[-1])}, chunks of 2^{power} logits"
                yield Outcome(what, OK, "", _time_head(width, tokens, dtypes[-1], device))
    finally:
        logprobs.CHUNK_LOGITS[device.type] = shipped


def _head(width: int, tokens: int, dtype: torch.dtype, device: torch.device) -> list[Any]:
    """Return head, states [N, D], targets [N] and bias [V]; logits have unit variance."""
    torch.manual_seed(0)
    vocabulary = TEXT["vocab_size"]
    head = nn.Linear(width, vocabulary, bias=False, device=device, dtype=dtype)
    with torch.no_grad():
        nn.init.normal_(head.weight, std=width**-0.5)
    hidden = torch.randn(tokens, width, device=device).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), device=device)
    bias = torch.zeros(vocabulary, device=device)
    bias[:3] = -100.0
    return [LogprobHead.adopt(head), hidden, targets, bias]


def _loss_of(out: logprobs.ResponseLogprobs, chunk: slice) -> tuple[Tensor, Tensor]:
    """The cheapest loss, as what is measured is the head: minus the sum of the log-probs."""
    return -out.logprobs_N.sum(), torch.full_like(out.logprobs_N, -1.0)


def _head_error(width: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the worst error of log-probs and gradients, fused and not, against float64."""
    temperature = 0.7
    head, hidden, targets, bias = _head(width, COMPARED_TOKENS, dtype, device)
    weight, states = (x.detach().double().requires_grad_() for x in (head.weight, hidden))
    exact = ((states @ weight.T + bias) / temperature).log_softmax(-1)
    exact = exact.gather(-1, targets[:, None])[:, 0]
    (-exact.sum()).backward()
    errors = []
    for fused in (True, False):
        head.weight.grad = hidden.grad = None
        if fused:
            loss, out = logprobs.fused_loss(head, hidden, targets, bias, temperature, _loss_of)
        else:
            out = logprobs.response_logprobs(head, hidden, targets, bias, temperature)
            loss = -out.logprobs_N.sum()
        loss.backward()
        pairs = (
            (out.logprobs_N, exact),
            (head.weight.grad, weight.grad),
            (hidden.grad, states.grad),
        )
        errors += [distance(a.detach(), b.detach()) for a, b in pairs]
    return max(errors)


def _time_head(
    width: int, tokens: int, dtype: torch.dtype, device: torch.device
) -> dict[str, float]:
    head, hidden, targets, bias = _head(width, tokens, dtype, device)

    def both() -> None:
        head.weight.grad = hidden.grad = None
        logprobs.fused_loss(head, hidden, targets, bias, 1.0, _loss_of)[0].backward()

    def forward() -> None:
        with torch.no_grad():
            logprobs.response_logprobs(head, hidden, targets, bias, 1.0)

    figures = {}
    if device.type == "cuda":
        figures["peak GiB"] = measure.peak_memory(both, device) * 1e6 / 2**30
    repeats = 5 if device.type == "cuda" else 1
    figures["log-probs ms"] = 1e3 * seconds(forward, device, repeats)
    figures["loss and gradients ms"] = together = 1e3 * seconds(both, device, repeats)
    operations = 6.0 * tokens * width * TEXT["vocab_size"]
    return figures | {"TFLOP/s": operations / together / 1e9}


def seconds(work: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    """Return the median seconds of `work` after one call that doesn't count."""
    work()
    return median(measure.timed(work, device).busy for _ in range(repeats))


def visible_pairs(groups: Groups) -> float:
    """Return how many (query, key) pairs of a row attend, with half of each diagonal block."""
    return sum(p * p / 2 + sum(n * p + n * n / 2 for n in lengths) for p, lengths in groups)


def distance(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
