"""The learner's memory: states as DeepSpeed holds them, activations as autograd saves them.

Each term was read in the code it names and is compared with the tensors of a real learner in
tests/integration/test_plan_truth.py. Legend: b bytes of a weight, T tokens of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapo_vl.config import Config
from sapo_vl.learner.activations import EVERY
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.learner.logprobs import CHUNK_LOGITS
from sapo_vl.training.plan.shape import ModelShape, TextLayer, Vision
from sapo_vl.training.plan.workload import Workload

MASTER, MOMENTS = 4, 8
"""Bytes per trained parameter: the float32 copy, AdamW's two moments."""

REDUCE_BUCKET = 500_000_000
MAX_LIVE = 1_000_000_000
"""DeepSpeed's defaults of reduce_bucket_size and stage3_max_live_parameters, in parameters."""


def weight_bytes(config: Config) -> int:
    """Return the bytes of a weight in the forward pass."""
    return 2 if config.model.dtype == "bfloat16" else 4


@dataclass(frozen=True)
class LearnerStates:
    """Bytes per rank of what outlives a micro-batch."""

    weights: float
    gradients: float  # between the first backward pass and the optimizer step
    optimizer: float
    bucket: float  # gradients on their way through a collective, during the backward pass
    step: float  # float32 gradients during the optimizer step
    gathered: float  # ZeRO-3: whole weights of the layers at work
    host: float  # in host memory: what is offloaded
    bucket_stays: bool  # also outside the update

    @property
    def resting(self) -> float:
        """On the device between updates."""
        kept = self.gradients + self.bucket if self.bucket_stays else 0.0
        return self.weights + self.optimizer + kept


def learner_states(
    shape: ModelShape, config: Config, ranks: int, *, on_cpu: bool = False
) -> LearnerStates:
    """Return the states of one of `ranks` ranks.

    ZeRO splits the optimizer over the ranks from stage 1, gradients from stage 2, weights in
    stage 3. In float32 DeepSpeed keeps a second copy of the weights from stage 1 on. Offloading
    moves the optimizer and all gradients to host memory: per trained parameter the float32 copy,
    two moments, a float32 gradient, and one (ZeRO-3) or two (ZeRO-2) buffers of the gradient's own
    type.
    """
    options, b = config.learner, weight_bytes(config)
    stage = options.zero_stage
    zero: dict[str, Any] = deepspeed_settings(config)["zero_optimization"]
    trained = shape.trained / (ranks if stage >= 1 else 1)
    grad = 4 if options.grad_accum_dtype == "float32" else b
    copies = 0 if stage == 0 and b == 4 else MASTER
    weights = shape.parameters * b / (ranks if stage == 3 else 1)
    gradients = grad * (trained if stage >= 2 else shape.trained)
    optimizer = (copies + MOMENTS) * trained
    size = int(zero.get("reduce_bucket_size", REDUCE_BUCKET))
    buffers = 2 if stage in (1, 2) and zero.get("overlap_comm") else 1
    # A CPU's pages are only taken when written; the accelerator's whole buffer is.
    bucket = buffers * b * (min(size, shape.trained) if on_cpu else size) if stage else 0
    step = 4.0 * trained + (b * trained if stage in (1, 2) else 0) if copies else 0.0
    host = 0.0
    if options.offload_optimizer:
        host += optimizer + (4 + grad * (1 if stage == 3 else 2)) * trained
        optimizer = gradients = step = 0.0
    if options.offload_parameters:
        host += weights
        weights = 0.0
    live = int(zero.get("stage3_max_live_parameters", MAX_LIVE))
    unit = max(max(layer.parameters for layer in shape.layers), shape.head)
    gathered = b * min(shape.parameters, live + unit) if stage == 3 else 0.0
    return LearnerStates(
        weights, gradients, optimizer, bucket, step, gathered, host, bucket_stays=stage == 3
    )


@dataclass(frozen=True)
class Activations:
    """Bytes per rank of a micro-batch's forward and backward pass."""

    saved: float  # kept for the backward pass
    layer: float  # of one layer at work in the backward pass: recomputed, and its gradients
    head: float  # the head's chunk of logits and its weight's float32 gradient


def activations(
    shape: ModelShape, config: Config, work: Workload, *, on_cpu: bool = False
) -> Activations:
    """Return the activations of the largest micro-batch."""
    b, T = weight_bytes(config), work.row_tokens
    patches = work.row_prompts * work.image_tokens * shape.vision.merge
    saved = saved_activations(shape, config, T, T, patches)
    choice = config.model.gradient_checkpointing
    again = 0.0 if choice == "none" else max(layer_saved(la, b) for la in shape.layers)
    ffn = max(la.ffn * max(la.chosen, 1) for la in shape.layers)
    layer = T * (again + b * (2 * ffn + 3 * shape.width))
    chunk = min(CHUNK_LOGITS["cpu" if on_cpu else "cuda"], T * shape.vocabulary)
    # Exponentials in float32, and a copy in the weights' type if that is another one. The weight's
    # gradient adds up in float32; on a CPU 16-bit weights are converted for each product.
    other = b if b < 4 else 0
    head = chunk * (4 + other)
    if shape.head_trained:
        head += (4 + other) * shape.head
    if on_cpu and other:
        head += 4 * shape.head
    return Activations(saved, layer, head)


def saved_activations(
    shape: ModelShape, config: Config, tokens: int, scored: int, patches: int
) -> float:
    """Return the bytes that autograd keeps from the forward pass of a row.

    Args:
        shape: the model's, frozen as in the run.
        config: its dtype and gradient checkpointing are used.
        tokens: of the row, T.
        scored: its response tokens.
        patches: of its pictures.
    """
    b, every = weight_bytes(config), EVERY.get(config.model.gradient_checkpointing)
    per_token = 0.0
    for i, layer in enumerate(shape.layers):
        recomputed = every is not None and i % every == 0
        per_token += b * layer.width if recomputed else layer_saved(layer, b)
    head_width = shape.layers[0].query // shape.layers[0].heads
    per_token += _norm(shape.width, b)  # the last norm
    per_token += 2 * b * head_width  # cosines and sines, shared by the layers
    vision = patches * _vision_saved(shape, b, every)
    return tokens * per_token + scored * (b * shape.width + 12) + vision


def layer_saved(layer: TextLayer, b: int) -> float:
    """Return the bytes per token that a decoder layer keeps, without recomputation.

    Two norms and the inputs of the products behind them; per-head norms; attention's queries, keys,
    values, output and log-sum-exp; of the gated network the gate before and after its activation,
    the other half, and the product of both.
    """
    width = 2 * (_norm(layer.width, b) + b * layer.width)
    heads = layer.query + layer.key
    head_width = layer.query // layer.heads
    norms = heads * (4 + b) + 4 * heads // head_width if layer.head_norms else 0
    attention = b * (2 * layer.query + 2 * layer.key) + 4 * layer.heads
    if not layer.experts:
        return width + norms + attention + 4 * b * layer.ffn
    # Each chosen expert keeps its copy of the token's state and its output, too.
    routed = layer.chosen * (b * (2 * layer.width + 4 * layer.ffn) + 24 + b)
    return width + norms + attention + routed + 4 * layer.experts


def _norm(width: int, b: int) -> float:
    """Root-mean-square norm: its input in float32, the normalised input, one factor."""
    return (4 + b) * width + 4


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
