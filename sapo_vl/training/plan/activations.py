"""A micro-batch's memory: what autograd saves of its forward pass; its backward pass at work.

Each term was read in the code it names and is compared with the tensors that autograd keeps on a
CPU, in tests/unit/training/test_plan_activations.py. The delta rule of a gated delta net is not the
same code on a GPU; what its kernels keep there is an assumption (`_kernel_saved`).

Legend: b bytes of a weight, T tokens of a row, S segments of a row (prompts and responses), H value
heads, K and V widths of a key and a value head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.learner.activations import EVERY
from sapo_vl.learner.logprobs import CHUNK_LOGITS
from sapo_vl.training.plan.learner import weight_bytes
from sapo_vl.training.plan.shape import Attention, DeltaNet, ModelShape, TextLayer, Vision
from sapo_vl.training.plan.workload import Workload
from sapo_vl.training.receipt import TOKENS

RULE_CHUNK = 64
"""Tokens that the delta rule takes at once, in transformers as in the kernels on a GPU."""


@dataclass(frozen=True)
class Row:
    """What a micro-batch consists of."""

    scored: int  # response tokens whose log-probs are taken
    patches: float  # of its pictures
    prompts: Sequence[int]  # their lengths; in the padded layout those of whole sequences
    responses: Sequence[int]  # their lengths; empty in the padded layout
    filled: int = (
        0  # tokens, where the segments are only typical of a row; 0: those of the segments
    )

    @property
    def tokens(self) -> int:
        """T."""
        return self.filled or sum(self.prompts) + sum(self.responses)


def largest_row(shape: ModelShape, config: Config, work: Workload) -> Row:
    """Return the largest micro-batch. All its tokens count as scored."""
    prompts, T = work.row_prompts, work.row_tokens
    patches = prompts * work.image_tokens * shape.vision.merge
    if config.learner.layout != "shared_prefix":
        longest = work.prompt_tokens + work.response_tokens
        return Row(T, patches, [longest] * max(1, T // longest), [], T)
    own = max(1, work.response_tokens - 1)
    count = max(1, (T - prompts * work.prompt_tokens) // own)
    return Row(T, patches, [work.prompt_tokens] * prompts, [own] * count, T)


@dataclass(frozen=True)
class Activations:
    """Bytes per rank of a micro-batch's forward and backward pass."""

    saved: float  # kept for the backward pass
    layer: float  # of one layer at work in the backward pass: recomputed, and its gradients
    head: float  # the head's chunk of logits and its weight's float32 gradient
    receipt: float  # of the forward pass over the probe of a weight transfer, without a gradient


def activations(
    shape: ModelShape, config: Config, work: Workload, *, on_cpu: bool = False
) -> Activations:
    """Return the activations of the largest micro-batch."""
    b, row = weight_bytes(config), largest_row(shape, config, work)
    saved = saved_activations(shape, config, row, on_cpu=on_cpu)
    again = config.model.gradient_checkpointing != "none"
    layer = max(_backward(la, b, row, again=again, on_cpu=on_cpu) for la in shape.layers)
    chunk = min(CHUNK_LOGITS["cpu" if on_cpu else "cuda"], row.tokens * shape.vocabulary)
    # Exponentials in float32, and a copy in the weights' type if that is another one. The weight's
    # gradient adds up in float32; on a CPU 16-bit weights are converted for each product.
    other = b if b < 4 else 0
    head = chunk * (4 + other)
    if shape.head_trained:
        head += (4 + other) * shape.head
    if on_cpu and other:
        head += 4 * shape.head
    probe = 2 * (work.prompt_tokens + TOKENS)
    return Activations(saved, layer, head, scoring(shape, config, probe, work.image_tokens))


def scoring(shape: ModelShape, config: Config, tokens: int, image_tokens: int) -> float:
    """Return the bytes of a layer at work in a forward pass without a gradient (estimate).

    The residual stream and its norm, what mixes tokens, and three states as wide as the network; in
    the vision tower as many. The head's logits of the probe's few tokens are not counted.
    """
    b, vision = weight_bytes(config), shape.vision
    network = max(la.ffn * max(la.chosen, 1) + la.shared_ffn for la in shape.layers)
    text = tokens * b * (4 * shape.width + 3 * network)
    pictures = image_tokens * vision.merge * b * (8 * vision.width + 2 * vision.ffn)
    return float(max(text, pictures))


def _backward(layer: TextLayer, b: int, row: Row, *, again: bool, on_cpu: bool) -> float:
    """Return the bytes of one layer at work in the backward pass.

    What it saves, if that is recomputed, and the gradients of its network's states or of its delta
    rule, whichever are larger. The rule's kernels compute each chunk's state again, its gradient,
    and six tensors of the width of keys or values.
    """
    network = 2 * layer.ffn * max(layer.chosen, 1) + 2 * layer.shared_ffn
    gradients = float(b * network)
    if isinstance(net := layer.mixer, DeltaNet):
        rule = 2 * b * net.state / RULE_CHUNK + 6 * b * net.heads * max(
            net.key_width, net.value_width
        )
        gradients = max(gradients, rule)
    work = row.tokens * (gradients + 3 * b * layer.width)
    return work + (layer_saved(layer, b, row, on_cpu=on_cpu) if again else 0.0)


def saved_activations(
    shape: ModelShape, config: Config, row: Row, *, on_cpu: bool = False
) -> float:
    """Return the bytes that autograd keeps from the forward pass of a row.

    Args:
        shape: the model's, frozen as in the run.
        config: its dtype and gradient checkpointing are used.
        row: the micro-batch.
        on_cpu: whether delta rules run as transformers wrote them, not in kernels.
    """
    b, every = weight_bytes(config), EVERY.get(config.model.gradient_checkpointing)
    saved = 0.0
    for i, layer in enumerate(shape.layers):
        recomputed = every is not None and i % every == 0
        kept = row.tokens * b * layer.width
        saved += kept if recomputed else layer_saved(layer, b, row, on_cpu=on_cpu)
    last, attention = shape.layers[-1], shape.attentions[0]
    per_token = _norm(shape.width, b, last.wide_norms)
    per_token += 2 * b * attention.rotary  # cosines and sines, shared by the layers
    vision = row.patches * _vision_saved(shape, b, every)
    return saved + row.tokens * per_token + row.scored * (b * shape.width + 12) + vision


def layer_saved(layer: TextLayer, b: int, row: Row, *, on_cpu: bool = False) -> float:
    """Return the bytes that a decoder layer keeps of a row, without recomputation.

    Two norms and the inputs of the products behind them, what mixes tokens, and of each gated
    network the gate before and after its activation, the other half, and the product of both.
    """
    width = 2 * (_norm(layer.width, b, layer.wide_norms) + b * layer.width)
    network = 4 * b * layer.ffn
    if layer.experts:
        # Each chosen expert keeps its copy of the token's state and its output, too.
        network = layer.chosen * (b * (2 * layer.width + 4 * layer.ffn) + 24 + b)
        network += 4 * layer.experts
    if layer.shared_ffn:
        network += b * (4 * layer.shared_ffn + layer.width + 1)
    if isinstance(layer.mixer, Attention):
        return row.tokens * (width + network + _attention_saved(layer.mixer, b, layer.wide_norms))
    rule = _chunked_saved(layer.mixer, b, row) if on_cpu else _kernel_saved(layer.mixer, b, row)
    return row.tokens * (width + network) + _delta_saved(layer.mixer, b, row) + rule


def _norm(width: int, b: int, wide: bool) -> float:
    """Root-mean-square norm: its input in float32, the normalised input, one factor.

    A wide one, Qwen3.5's, multiplies by its weight in float32, so the normalised input is kept so.
    """
    return (8 if wide else 4 + b) * width + 4


def _attention_saved(net: Attention, b: int, wide: bool) -> float:
    """Return the bytes per token that attention keeps.

    Per-head norms; queries, keys, values, output and log-sum-exp; a gate, and the output times it.
    """
    heads = net.query + net.key
    norms = (8 if wide else 4 + b) * heads + 4 * heads // net.head_width if net.norms else 0
    gate = 2 * b * net.query if net.gated else 0
    return norms + b * (2 * net.query + 2 * net.key) + 4 * net.heads + gate


def _delta_saved(net: DeltaNet, b: int, row: Row) -> float:
    """Return the bytes that a gated delta net keeps of a row, besides its delta rule.

    The convolution's input, with each segment's context before it, and output; decay and strength
    of the writes; of the gated norm the rule's output and the gate in float32, the gate after its
    activation, and the normalised output in two steps; the last product's input.
    """
    context = (net.kernel - 1) * (len(row.prompts) + len(row.responses))
    convolution = b * net.channels * (2 * row.tokens + context)
    norm = (12 + 3 * b) * net.value + 4 * net.heads
    return convolution + row.tokens * (norm + (8 + b) * net.heads)


def _kernel_saved(net: DeltaNet, b: int, row: Row) -> float:
    """Return the bytes that the delta rule keeps of a row on a GPU: an assumption.

    Read in fla-core's source (ops/gated_delta_rule/chunk.py): queries and keys, normalised, with
    their factors; values; per value head the decay in float32, the strength, and for each token a
    chunk's width of the triangular solution; and the float32 state that each response starts from.
    """
    keys = 2 * net.key_heads * (b * net.key_width + 4)
    values = net.heads * (b * (net.value_width + RULE_CHUNK + 1) + 4)
    return row.tokens * (keys + values) + 4 * net.state * len(row.responses)


def _chunked_saved(net: DeltaNet, b: int, row: Row) -> float:
    """Return the bytes that transformers' delta rule keeps of a row, all of them in float32.

    Segments run in batches of like length, each padded to a power of two or to whole chunks of Q
    tokens (learner/gated_delta.py). Per token of a batch: queries and keys before the padding, with
    their factors; six tensors of a key's width, three of a value's, five of Q entries, four
    numbers; and per chunk the state that it starts from. Prompts start from zero, so no query is
    kept of their first chunk; a response's last state is not needed, so no key is of its last.
    What is neither converted nor padded is not contiguous, and four tensors are copied.
    """
    K, V = net.key_width, net.value_width
    floats = 0
    for lengths in (row.prompts, row.responses):
        batches: dict[int, list[int]] = defaultdict(list)
        for length in lengths:
            batches[_padded(length)].append(length)
        for padded, members in batches.items():
            S, Q = len(members), min(padded, RULE_CHUNK)
            before = S * max(members) * (2 * K + 2)
            copies = 4 if b == 4 and max(members) == padded else 0
            tokens = S * padded * ((6 + copies) * K + 3 * V + 5 * Q + 4)
            states = S * (padded // Q) * (K * V + 1)
            floats += before + tokens + states - S * Q * K
    return 4.0 * net.heads * floats


def _padded(length: int) -> int:
    """Return what a segment of this length is padded to."""
    if length <= RULE_CHUNK:
        return int(2 ** (length - 1).bit_length())
    return -(-length // RULE_CHUNK) * RULE_CHUNK


def _vision_saved(shape: ModelShape, b: int, every: int | None) -> float:
    """Bytes per patch that the vision tower keeps: nothing if it and the merger are frozen."""
    vision = shape.vision
    saved = 0.0
    if shape.vision_trained:
        kept = vision.depth if every is None else vision.depth - -(-vision.depth // every)
        saved += kept * vision_layer_saved(vision, b)
        saved += (vision.depth - kept) * b * vision.width
        # Pixels, the last state, and the float32 cosines and sines that the layers share.
        saved += b * (vision.patch + vision.width) + 8 * vision.head_width
    if shape.vision_trained or shape.merger_trained:
        saved += vision.mergers * 3 * b * vision.width
    return saved


def vision_layer_saved(vision: Vision, b: int) -> float:
    """Return the bytes per patch that a vision layer keeps.

    Input and output of two norms; queries, keys and values before rotation (as one tensor), queries
    and keys after it, attention's output twice; the network's states before and after activation.
    """
    return b * (11 * vision.width + (4 if vision.gated else 2) * vision.ffn)
