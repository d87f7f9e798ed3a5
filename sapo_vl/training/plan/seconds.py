"""Seconds of a step, phase by phase, from operations and bytes. An estimate; nothing is measured.

Every response reaches rollout.max_new_tokens (see Workload), so the figures are upper bounds for a
policy that stops earlier. Utilisations are constants below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sapo_vl.config import Config
from sapo_vl.learner.logprobs import CHUNK_LOGITS
from sapo_vl.training.plan.activations import RULE_CHUNK, largest_row, layer_saved
from sapo_vl.training.plan.engine import EngineMemory
from sapo_vl.training.plan.hardware import Gpu, Hardware
from sapo_vl.training.plan.host import engine_base
from sapo_vl.training.plan.learner import reference_bytes, weight_bytes
from sapo_vl.training.plan.shape import DeltaNet, ModelShape
from sapo_vl.training.plan.workload import Workload

PRODUCTS = 0.6
"""Share of the peak FLOP/s that large products and attention reach."""

DECODE = 0.75
ELEMENTWISE = 0.8
"""Shares of the memory bandwidth that decoding and elementwise kernels reach."""

PASSES = 7
"""How often a pass over the layers moves the bytes that they save for the backward pass. Written
and read once would be 2, but norms, rotations and activations are kernels of their own, some in
float32.
Fitted to Qwen3-VL-2B on an H100 (docs/gpu.md): updates within 4 %, log-probs alone within 12 %.
"""

SCHEDULING = 30e-6
"""Seconds per sequence and decoding step of the engine's Python."""

LATENCY = 15e-6
"""Seconds of an empty tensor-parallel sum; two sums per layer and decoding step."""

CHUNK = 0.4e-3
"""Seconds of kernel launches per chunk of the head's logits and pass, forward or backward."""

LOADER = 0.5e-3
"""Seconds per tensor that the engine loads, experts one by one."""

WAKING = 1.0
"""Seconds to put the engine to sleep and wake it, caches included."""

CPU_ADAMW = 4.3e-9
"""Seconds per parameter and thread of an offloaded step, conversions and clipping included: 0.89 s
for 1.72 billion parameters on an H100's host of 16 cores, by this estimate 0.92 s. AdamW alone
takes 1.2e-9 on one thread there."""

CPU_ADAMW_BANDWIDTH = 200e9
ADAMW_BYTES = 28
"""Bytes per second of a server's memory, and bytes that a parameter's step reads and writes."""

STEP_BYTES = 140
"""Bytes that a parameter's step on a GPU moves: besides AdamW's, DeepSpeed makes float32 gradients,
takes their norm, clips them and copies the weights back. 0.09 s for 1.72 billion on an H100."""

THREADS = 8
"""Threads per rank of the optimizer on the CPU."""


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of each phase, and the useful operations per rank."""

    prefill: float
    decode: float
    old_logprobs: float
    reference: float  # the KL penalty's pass, and its weights from host memory and back
    products: float  # of the update's layers: forward, backward, recomputation
    head: float  # products, exponentials and gradients, chunk by chunk
    elementwise: float
    collectives: float  # gathers of weights and sums of gradients, not overlapped
    optimizer: float
    sync: float  # with what learner and engine move to host memory and back
    useful: float  # operations of forward and backward, without recomputation
    tokens: int  # response tokens of this rank

    @property
    def update(self) -> float:
        """All of the update."""
        return self.products + self.head + self.elementwise + self.collectives + self.optimizer

    @property
    def total(self) -> float:
        """The whole step."""
        scoring = self.old_logprobs + self.reference
        return self.prefill + self.decode + scoring + self.update + self.sync

    def utilisation(self, gpu: Gpu) -> float:
        """MFU of the update: useful operations over what the card could do in that time."""
        return self.useful / gpu.flops / self.update


def forward_operations(shape: ModelShape, work: Workload) -> float:
    """Return the operations of the layers' forward pass over a rank's step, pictures included."""
    text = 2.0 * shape.body * work.tokens
    attention = 4.0 * work.pairs * sum(net.query for net in shape.attentions)
    rules = work.tokens * sum(rule_operations(net) for net in shape.delta_nets)
    return text + attention + rules + vision_operations(shape, work)


def rule_operations(net: DeltaNet) -> float:
    """Return the operations per token of the chunked delta rule, projections left out.

    Of a chunk of C tokens and per head: products of keys with keys and of queries with keys, a
    triangular solution for keys and values, outputs within the chunk; reading the state twice,
    writing it once.
    """
    C, K, V = RULE_CHUNK, net.key_width, net.value_width
    within = 2 * C * K + 2 * C * K + C * (K + V) + 2 * C * V
    return float(net.heads * (within + 6 * K * V))


def vision_operations(shape: ModelShape, work: Workload) -> float:
    """Return the operations of the vision tower's forward pass over a rank's step."""
    vision = shape.vision
    pictures = work.prompts
    patches = pictures * work.image_tokens * vision.merge
    per_picture = work.image_tokens * vision.merge
    products = 2.0 * patches * vision.block_parameters
    mergers = 2.0 * pictures * work.image_tokens * vision.merger_parameters
    attention = 4.0 * pictures * per_picture**2 * vision.width * vision.depth
    return products + mergers + attention


def recomputed_share(config: Config) -> float:
    """Return the share of the layers whose forward pass runs again in the backward pass."""
    return {"none": 0.0, "alternate": 0.5, "all": 1.0}[config.model.gradient_checkpointing]


def step_seconds(
    shape: ModelShape,
    config: Config,
    hardware: Hardware,
    work: Workload,
    engine: EngineMemory,
    swapped: float = 0.0,
) -> StepSeconds:
    """Return the estimate for one rank's share of a step.

    `swapped` is what the learner copies to and from host memory, in bytes.
    """
    gpu, b = hardware.gpu, weight_bytes(config)
    rate = PRODUCTS * gpu.flops
    forward = forward_operations(shape, work)
    vision = vision_operations(shape, work)
    text = forward - vision
    rows = CHUNK_LOGITS["cpu" if hardware.is_cpu else "cuda"] // shape.vocabulary
    share = recomputed_share(config)
    tower = 3 + share if shape.vision_trained else 1
    row = largest_row(shape, config, work)
    elementwise = work.tokens / row.tokens * sum(layer_saved(la, b, row) for la in shape.layers)
    elementwise *= PASSES / (ELEMENTWISE * gpu.bandwidth)
    later = 1 - 1 / work.mini_batches  # the first mini-batch is on policy
    if config.algorithm.staleness == "gate":
        later = 0.0
    # Frozen weights have no gradient; those of adapters are a hundredth of their layers'.
    weights = 0.0 if config.model.lora.rank else text
    scoring = forward / rate + elementwise + scoring_seconds(shape, gpu, b, work, rows)
    reference = 0.0
    if config.algorithm.kl_coef:  # policy and reference change places twice
        reference = scoring + 4 * reference_bytes(shape, config, hardware.ranks) / gpu.host_link
    prefill, decode = _rollout(shape, config, hardware, work, engine)
    learned = weights + 2 * text + (3 if shape.vision_trained else 1) * vision
    return StepSeconds(
        prefill=prefill,
        decode=decode,
        old_logprobs=later * scoring,
        reference=reference,
        products=(weights + (2 + share) * text + tower * vision) / rate,
        head=head_seconds(shape, gpu, b, work, rows),
        elementwise=(3 + share) * elementwise,
        collectives=_collectives(shape, config, hardware, work, share),
        optimizer=_optimizer(shape, config, hardware, work),
        sync=_sync(shape, config, hardware) + swapped / gpu.host_link,
        useful=learned + (6.0 if shape.head_trained else 4.0) * shape.head * work.scored,
        tokens=work.scored,
    )


def head_seconds(shape: ModelShape, gpu: Gpu, b: int, work: Workload, rows: int) -> float:
    """Return the seconds of the update's head, in chunks of `rows` tokens.

    Three products per chunk (two with a frozen head), each at least as long as reading the weight;
    eight passes over its float32 logits; the weight's float32 gradient read and written, with the
    product added to it.
    """
    memory = ELEMENTWISE * gpu.bandwidth
    product = max(2.0 * rows * shape.head / (PRODUCTS * gpu.flops), b * shape.head / memory)
    logits = 8 * 4 * rows * shape.vocabulary / memory
    if shape.head_trained:
        gradient = (8 + 2 * b) * shape.head / memory
        chunk = 3 * product + logits + gradient + 2 * CHUNK
    else:
        chunk = 2 * product + logits + 2 * CHUNK
    return math.ceil(work.scored / rows) * chunk


def scoring_seconds(shape: ModelShape, gpu: Gpu, b: int, work: Workload, rows: int) -> float:
    """Return the seconds to score a step's tokens without a gradient: one product, seven passes."""
    memory = ELEMENTWISE * gpu.bandwidth
    product = max(2.0 * rows * shape.head / (PRODUCTS * gpu.flops), b * shape.head / memory)
    logits = 7 * 4 * rows * shape.vocabulary / memory
    return math.ceil(work.scored / rows) * (product + logits + CHUNK)


def _rollout(
    shape: ModelShape, config: Config, hardware: Hardware, work: Workload, engine: EngineMemory
) -> tuple[float, float]:
    """Return seconds of prefill and of decoding; prompts are computed once per group.

    Of a hybrid's prompt only whole blocks are, which are long; each response computes the rest.
    Servers sample beside the learner: 0 and 0.
    """
    if config.generator.backend == "server":
        return 0.0, 0.0
    gpu, split = hardware.gpu, config.generator.tensor_parallel
    prompts = work.prompts * split
    rest = work.prompt_tokens % engine.block if shape.delta_nets else 0
    tokens = prompts * (work.prompt_tokens + (work.group_size - 1) * rest)
    rules = sum(rule_operations(net) for net in shape.delta_nets)
    products = (2.0 * shape.body + rules) * tokens + vision_operations(shape, work) * split
    prefill = products / split / (PRODUCTS * gpu.flops)
    sequences = prompts * work.group_size
    length = work.prompt_tokens + work.response_tokens / 2
    # A new sequence starts as soon as one ends, so on average a sequence is half grown.
    room = max(
        1, int(max(0.0, engine.kv_cache) / (length * engine.kv_per_token + engine.held_state))
    )
    at_once = min(sequences, config.generator.max_num_seqs, room)
    waves = sequences / at_once
    # All weights are read once per decoding step; with hundreds of sequences every expert is used.
    # A recurrent state is read and written.
    sequence = length * engine.kv_per_token + 2 * engine.state
    bytes_read = engine.weights + at_once * sequence
    device = bytes_read / (DECODE * gpu.bandwidth)
    if split > 1:
        moved = 2 * at_once * shape.width * weight_bytes(config) / gpu.link
        device += 2 * len(shape.layers) * (LATENCY + moved)
    return prefill, waves * work.response_tokens * max(device, at_once * SCHEDULING)


def _collectives(
    shape: ModelShape, config: Config, hardware: Hardware, work: Workload, share: float
) -> float:
    if hardware.ranks == 1:
        return 0.0
    b, stage = weight_bytes(config), config.learner.zero_stage
    others = (hardware.ranks - 1) / hardware.ranks
    sums = work.rows * shape.trained * b if stage >= 2 else work.mini_batches * shape.trained * b
    gathers = 0.0
    if stage == 3:  # forward, backward (recomputation shares it), old log-probs, the reference
        later = 1 - 1 / work.mini_batches + (config.algorithm.kl_coef > 0)
        gathers = (2 + share + later) * work.rows * shape.parameters * b
    elif stage:
        gathers = work.mini_batches * shape.trained * b
    return (sums + gathers) * others / hardware.gpu.link


def _optimizer(shape: ModelShape, config: Config, hardware: Hardware, work: Workload) -> float:
    ranks = hardware.ranks if config.learner.zero_stage else 1
    own = shape.trained / ranks
    if not config.learner.offload_optimizer:
        return work.mini_batches * own * STEP_BYTES / (ELEMENTWISE * hardware.gpu.bandwidth)
    step = max(
        own * CPU_ADAMW / THREADS,
        own * hardware.ranks_here * ADAMW_BYTES / CPU_ADAMW_BANDWIDTH,
    )
    copies = (work.rows + work.mini_batches) * own * weight_bytes(config) / hardware.gpu.host_link
    return work.mini_batches * step + copies


def _sync(shape: ModelShape, config: Config, hardware: Hardware) -> float:
    """Return seconds to send the weights to the engine, with its sleep and waking.

    With adapters the engine's frozen weights go to host memory and back, and the adapters alone are
    sent.
    """
    if hardware.is_cpu:
        return 0.0
    if config.model.lora.rank:
        moved = 2 * engine_base(shape, config)
        return WAKING + shape.tensors * LOADER + moved / hardware.gpu.host_link
    b = weight_bytes(config)
    experts = sum(3 * layer.experts for layer in shape.layers)
    gathered = shape.parameters * b if config.learner.zero_stage == 3 else 0
    copied = 3 * shape.parameters * b / (ELEMENTWISE * hardware.gpu.bandwidth)
    loading = (shape.tensors + experts) * LOADER
    return WAKING + loading + gathered / hardware.gpu.link + copied
