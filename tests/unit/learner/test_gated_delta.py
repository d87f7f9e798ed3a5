"""Gated delta nets on shared-prefix rows, by hand and against each response on its own."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
import torch
from delta_kernels import chunk_gated_delta_rule, emulated, step
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.errors import SetupError
from sapo_vl.learner import gated_delta, gated_delta_fla
from sapo_vl.learner.attention import SharedPrefix
from sapo_vl.learner.gated_delta import BatchPlan, DeltaInputs, DeltaPlan, Spans
from sapo_vl.learner.gated_delta_fla import KernelPlan

CPU = torch.device("cpu")
GROUPS = [(2, [3, 0, 1]), (5, []), (4, [2])]
"""Tokens 0-1, 2-4, 5 | 6-10 | 11-14, 15-16. The first prompt is shorter than a context of 3."""
FORMS = {"batched": nullcontext, "fla": emulated}
HEADS, KEY_HEADS, WIDTH, HIDDEN = 4, 2, 8, 12


def delta_net(seed=0):
    """A layer of transformers with two value heads for each key head."""
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    torch.manual_seed(seed)
    net = Qwen3_5GatedDeltaNet(
        Qwen3_5TextConfig(
            hidden_size=HIDDEN,
            linear_num_key_heads=KEY_HEADS,
            linear_num_value_heads=HEADS,
            linear_key_head_dim=WIDTH,
            linear_value_head_dim=WIDTH,
            linear_conv_kernel_dim=4,
        ),
        0,
    )
    for parameter in net.parameters():  # larger than at the start, so that every term matters
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.uniform_(net.A_log, -3.0, 0.0)  # a state that outlives a prompt
    return net


def forked(net, x_TD, groups, form="batched"):
    """Run the layer on the whole row."""
    with FORMS[form]():
        gated_delta.install([net])
        return net(x_TD[None], layout=SharedPrefix.build(groups, CPU))[0]


def alone(net, x_TD, groups):
    """Run transformers' own forward on each prompt, and on each prompt with one response."""
    parts = []
    for (start, prompt), responses in layout_of(groups):
        parts.append(type(net).forward(net, x_TD[None, start : start + prompt])[0])
        for first, length in responses:
            row = torch.cat([x_TD[start : start + prompt], x_TD[first : first + length]])
            parts.append(type(net).forward(net, row[None])[0, prompt:])
    return torch.cat(parts)


def layout_of(groups):
    """Yield each prompt's (start, length) with those of its responses, empty ones too."""
    start = 0
    for prompt, lengths in groups:
        starts = itertools.accumulate(lengths, initial=start + prompt)
        yield (start, prompt), [*zip(starts, lengths, strict=False)]
        start += prompt + sum(lengths)


def total(groups):
    return sum(prompt + sum(lengths) for prompt, lengths in groups)


def row(groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(total(groups), HIDDEN, generator=generator)


def gradients(net, x_TD, run, weights):
    """Return the gradients of a weighted sum of the outputs: of the input, and by parameter."""
    net.zero_grad()
    x_TD = x_TD.clone().requires_grad_()
    out = run(x_TD)
    (out * weights).sum().backward()
    return out.detach(), {"input": x_TD.grad} | {n: p.grad for n, p in net.named_parameters()}


def assert_gradients_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        gap = float((found[name] - gradient).norm())
        assert gap <= tolerance * float(gradient.norm()) + 1e-6, (name, gap)


def test_spans_by_hand():
    spans = Spans.of(GROUPS)
    assert spans.prompts == [(0, 2), (6, 5), (11, 4)]
    assert spans.responses == [(2, 3), (5, 1), (15, 2)]  # the empty one has no place in the row
    assert spans.owners == [0, 0, 2]


def test_convolution_by_hand():
    """Index 0-2 are zeros, 3 is token 0. The short prompt leaves one zero in the context."""
    plan = DeltaPlan.build(GROUPS, 4, CPU, "batched")
    assert plan.conv_in.tolist() == [
        *(0, 1, 2, 3, 4),  # first prompt
        *(0, 3, 4, 5, 6, 7),  # a zero, the prompt's two tokens, the response
        *(0, 3, 4, 8),
        *(0, 1, 2, 9, 10, 11, 12, 13),
        *(0, 1, 2, 14, 15, 16, 17),
        *(15, 16, 17, 18, 19),  # the last three of four prompt tokens
    ]
    assert plan.conv_out_T.tolist() == [
        *(3, 4),
        *(8, 9, 10),
        14,
        *(18, 19, 20, 21, 22),
        *(26, 27, 28, 29),
        *(33, 34),
    ]


def test_batches_by_hand():
    """Segments that the rule pads alike share a call: 5 tokens to 8, 4 and 3 to 4."""
    plan = BatchPlan.build(Spans.of(GROUPS), CPU)
    assert [part.tokens_N.tolist() for part in plan.prompts] == [
        [6, 7, 8, 9, 10],
        [11, 12, 13, 14],
        [0, 1],
    ]
    assert plan.prompt_order_P.tolist() == [2, 0, 1]
    assert [(part.tokens_N.tolist(), owner.tolist()) for part, owner in plan.responses] == [
        ([2, 3, 4], [0]),
        ([15, 16], [2]),
        ([5], [0]),
    ]
    outputs = [6, 7, 8, 9, 10, 11, 12, 13, 14, 0, 1, 2, 3, 4, 15, 16, 5]
    assert [outputs[i] for i in plan.order_T.tolist()] == list(range(17))


def test_kernel_calls_by_hand():
    plan = KernelPlan.build(Spans.of(GROUPS), CPU)
    assert plan.prompts.tokens_N.tolist() == [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert plan.prompts.ends.tolist() == plan.prompts.host_ends.tolist() == [0, 2, 7, 11]
    assert plan.responses.tokens_N.tolist() == [2, 3, 4, 5, 15, 16]
    assert plan.responses.ends.tolist() == [0, 3, 4, 6]
    assert plan.prompt_R.tolist() == [0, 0, 2]
    outputs = plan.prompts.tokens_N.tolist() + plan.responses.tokens_N.tolist()
    assert [outputs[i] for i in plan.order_T.tolist()] == list(range(17))


def test_two_kernel_calls_a_layer_with_bounds_made_once():
    net, groups = delta_net(), [(9, [4, 2]), (3, [1, 1, 1])]
    layout = SharedPrefix.build(groups, CPU)
    with emulated() as calls:
        gated_delta.install([net])
        net(row(groups)[None], layout=layout)
        net(row(groups)[None], layout=layout)  # another layer, or the recomputation
    assert [call["cu_seqlens"].tolist() for call in calls[:2]] == [[0, 9, 12], [0, 4, 6, 7, 8, 9]]
    assert calls[0]["starts"] is None
    assert calls[1]["starts"].shape == (5, HEADS, WIDTH, WIDTH)
    assert [call["cu_seqlens"] for call in calls[2:]] == [c["cu_seqlens"] for c in calls[:2]]
    assert all(a["cu_seqlens"] is b["cu_seqlens"] for a, b in zip(calls, calls[2:], strict=False))


def test_prompts_alone_take_one_kernel_call():
    net, groups = delta_net(), [(4, [0]), (3, [])]
    with emulated() as calls:
        gated_delta.install([net])
        out = net(row(groups)[None], layout=SharedPrefix.build(groups, CPU))[0]
    assert len(calls) == 1
    torch.testing.assert_close(out, alone(net, row(groups), groups), atol=1e-5, rtol=1e-5)


def test_the_convolution_sees_its_own_prompt_only():
    net = delta_net().double()
    x_TC = torch.randn(17, 32 + HEADS * WIDTH, dtype=torch.float64)
    found = gated_delta.convolve(net, x_TC, DeltaPlan.build(GROUPS, 4, CPU, "batched"))
    taps = net.conv1d.weight[:, 0].T  # [4, C], the last is that of the token itself
    for (start, prompt), responses in layout_of(GROUPS):
        for first, length in [(start + prompt, 0), *responses]:
            tokens = [*range(start, start + prompt), *range(first, first + length)]
            for i, token in enumerate(tokens):
                window = [x_TC[j] for j in tokens[max(0, i - 3) : i + 1]]
                value = sum(x * w for x, w in zip(window, taps[-len(window) :], strict=True))
                torch.testing.assert_close(found[token], value * value.sigmoid())


def rule_inputs(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(KEY_HEADS, WIDTH), (KEY_HEADS, WIDTH), (HEADS, WIDTH), (HEADS,), (HEADS,)]
    q, k, v, decay, beta = (torch.randn(tokens, *s, generator=generator) for s in shapes)
    return DeltaInputs(q, k, v, -decay.exp() / 20, beta.sigmoid())


def recurrence(inputs, groups):
    """Each prompt token by token, then each response from its prompt's state, in float64."""
    q, k, v, decay, beta = (x.double() for x in inputs)
    q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    q, k = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (q / WIDTH**0.5, k))
    out = torch.zeros_like(v)
    for (start, prompt), responses in layout_of(groups):
        after_prompt = torch.zeros(HEADS, WIDTH, WIDTH, dtype=torch.float64)
        for t in range(start, start + prompt):
            after_prompt, out[t] = step(after_prompt, q[t], k[t], v[t], decay[t], beta[t])
        for first, length in responses:
            state = after_prompt
            for t in range(first, first + length):
                state, out[t] = step(state, q[t], k[t], v[t], decay[t], beta[t])
    return out


def test_one_step_by_hand():
    """S = e^g S0 + beta k (v - k e^g S0), out = q S; one head, keys of 2, values of 1."""
    state = torch.tensor([[[4.0], [8.0]]])
    q, k, v = torch.tensor([[1.0, 10.0]]), torch.tensor([[0.5, 0.25]]), torch.tensor([[5.0]])
    after, out = step(state, q, k, v, torch.tensor([0.5]).log(), torch.tensor([0.5]))
    # decayed: 2, 4; read: 0.5 * 2 + 0.25 * 4 = 2; error 3, of which half is written: 1.5
    assert after.flatten().tolist() == pytest.approx([2.75, 4.375])
    assert out.item() == pytest.approx(2.75 + 43.75)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [GROUPS, [(70, [130, 64, 65, 1])], [(64, [3]), (128, [7, 7])]])
def test_the_rule_is_the_recurrence(form, groups):
    inputs = rule_inputs(total(groups))
    with FORMS[form]():
        plan = DeltaPlan.build(groups, 4, CPU, form).rule
        found = plan.run(inputs)
    torch.testing.assert_close(found.double(), recurrence(inputs, groups), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_response_moves_its_prompt_through_the_state(form):
    """Its gradient by finite differences of the float64 recurrence: each input of a prompt token.

    The loss reads the responses alone, so that all of it came through the prompt's last state.
    """
    groups = [(3, [2, 4])]
    inputs = rule_inputs(total(groups))
    weights = torch.randn(total(groups), HEADS, WIDTH)
    weights[:3] = 0
    leaves = DeltaInputs(*(x.clone().requires_grad_() for x in inputs))
    with FORMS[form]():
        (DeltaPlan.build(groups, 4, CPU, form).rule.run(leaves) * weights).sum().backward()
    epsilon = 1e-5
    for name, leaf in zip(inputs._fields, leaves, strict=True):
        place = (1, *(0 for _ in leaf.shape[1:]))
        sums = []
        for sign in (1, -1):
            moved = DeltaInputs(*(x.double() for x in inputs))
            getattr(moved, name)[place] += sign * epsilon
            sums.append((recurrence(moved, groups) * weights).sum())
        slope = float(sums[0] - sums[1]) / (2 * epsilon)
        if name == "query_TGK":
            assert slope == 0  # a query reads the state and leaves none
        else:
            assert abs(slope) > 1e-3
        assert float(leaf.grad[place]) == pytest.approx(slope, rel=1e-3, abs=1e-5), name


shapes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 6), max_size=4)), min_size=1, max_size=4
)


@settings(max_examples=16)
@given(shapes, st.sampled_from(sorted(FORMS)), st.integers(0, 50))
def test_forked_is_each_response_alone(groups, form, seed):
    """Outputs and all gradients, for any shape of row."""
    net, x_TD = delta_net(seed), row(groups, seed)
    weights = torch.randn(total(groups), HIDDEN)
    # Alone, a prompt is computed again for each response; its own outputs count once.
    expected = gradients(net, x_TD, lambda x: alone(net, x, groups), weights)
    found = gradients(net, x_TD, lambda x: forked(net, x, groups, form), weights)
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-4)
    assert_gradients_near(found[1], expected[1], 1e-4)


def test_long_segments_cross_chunks():
    groups = [(150, [64, 65, 200]), (63, [1, 129])]
    net, x_TD = delta_net(), row(groups)
    weights = torch.randn(total(groups), HIDDEN)
    expected = gradients(net, x_TD, lambda x: alone(net, x, groups), weights)
    found = gradients(net, x_TD, lambda x: forked(net, x, groups), weights)
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=1e-4)
    assert_gradients_near(found[1], expected[1], 1e-4)


def test_the_state_alone_carries_the_prompt(monkeypatch):
    """Without the prompt's states the outputs are far off: the comparisons above can fail."""
    groups = [(9, [4, 6])]
    net, x_TD = delta_net(), row(groups)
    expected = alone(net, x_TD, groups)
    rule = gated_delta._rule
    monkeypatch.setattr(
        gated_delta,
        "_rule",
        lambda inputs, part, start, final_state: rule(inputs, part, None, final_state=final_state),
    )
    gap = (forked(net, x_TD, groups) - expected).abs()
    assert gap[:9].max() < 1e-5
    assert gap[9:].max() > 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_any_order_and_split_gives_the_same(form):
    """Responses swapped, prompts swapped, or the group cut in two rows."""
    net = delta_net()
    groups = [(5, [3, 4, 2]), (6, [7])]
    x_TD, weights = row(groups), torch.randn(total(groups), HIDDEN)
    (p0, (a, b, c)), (p1, (d,)) = (
        (range(s, s + n), [range(f, f + k) for f, k in r]) for (s, n), r in layout_of(groups)
    )
    rows = {
        "swapped": [([*p1, *d, *p0, *c, *a, *b], [(6, [7]), (5, [2, 3, 4])])],
        "split": [([*p0, *a], [(5, [3])]), ([*p1, *d, *p0, *b, *c], [(6, [7]), (5, [4, 2])])],
    }
    expected = gradients(net, x_TD, lambda x: forked(net, x, groups, form), weights)
    for name, parts in rows.items():
        seen = torch.zeros(total(groups))

        def run(x, parts=parts, seen=seen):
            out = torch.zeros_like(x)
            for order, shape in parts:
                fresh = torch.tensor([t for t in order if not seen[t]])
                values = forked(net, x[order], shape, form)
                keep = torch.tensor([not seen[t] for t in order])
                out = out.index_add(0, fresh, values[keep])
                seen[order] = 1
            return out

        found = gradients(net, x_TD, run, weights)
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-4, msg=name)
        assert_gradients_near(found[1], expected[1], 1e-4)


def test_without_a_layout_the_layer_is_transformers_own():
    net = delta_net()
    x_TD = row([(7, [])])
    expected = net(x_TD[None])
    gated_delta.install([net])
    torch.testing.assert_close(net(x_TD[None]), expected, atol=0, rtol=0)


CUDA = torch.device("cuda")


def test_form_by_device_and_type(monkeypatch):
    monkeypatch.setattr(gated_delta_fla.metadata, "version", lambda name: "0.10.1.dev3")
    assert gated_delta.choose_form(CPU, torch.bfloat16) == "batched"
    assert gated_delta.choose_form(CUDA, torch.float32) == "batched"
    assert gated_delta.choose_form(CUDA, torch.bfloat16) == "fla"
    monkeypatch.setattr(gated_delta_fla.metadata, "version", lambda name: "0.5.9")
    with pytest.raises(SetupError, match=r"fla-core 0\.5\.9 is too old"):
        gated_delta.choose_form(CUDA, torch.bfloat16)


@pytest.mark.parametrize(
    ("triton", "major", "refused"),
    [("3.6.0", 9, True), ("3.7.0", 9, True), ("3.6.0", 8, False), ("3.7.1", 9, False),
     ("3.9.0", 9, False), ("3.3.1", 9, False)],
)  # fmt: skip
def test_a_triton_whose_kernels_are_wrong_on_a_hopper_is_refused(
    monkeypatch, triton, major, refused
):
    versions = {"fla-core": "0.6.0", "triton": triton}
    monkeypatch.setattr(gated_delta_fla.metadata, "version", versions.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    reason = gated_delta_fla.missing_kernels()
    assert (reason is not None) == refused
    if refused:
        assert f"Triton {triton} computes wrong gradients" in reason
        assert "install Triton 3.7.1 or newer" in reason


def test_a_gpu_without_the_kernels_is_refused(monkeypatch):
    def absent(name):
        raise gated_delta_fla.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gated_delta_fla.metadata, "version", absent)
    with pytest.raises(SetupError, match=r"pip install 'fla-core>=0\.6'"):
        gated_delta.choose_form(CUDA, torch.bfloat16)
    assert gated_delta.choose_form(CUDA, torch.float32) == "batched"


def test_the_emulation_refuses_what_the_kernel_would_not_take():
    q = torch.zeros(1, 3, 2, 4)
    arguments = [q, q, q, torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)]
    ends = torch.tensor([0, 1, 3])
    out, states = chunk_gated_delta_rule(*arguments, cu_seqlens=ends, output_final_state=True)
    assert out.shape == (1, 3, 2, 4)
    assert states.shape == (2, 2, 4, 4)
    for wrong in (
        {"cu_seqlens": ends.int()},
        {"cu_seqlens": ends, "initial_state": torch.zeros(1, 2, 4, 4)},
        {"cu_seqlens": ends, "cu_seqlens_cpu": torch.tensor([0, 2, 3])},
        {"cu_seqlens": ends, "chunk": 64},
    ):
        with pytest.raises(AssertionError):
            chunk_gated_delta_rule(*arguments, **wrong)
