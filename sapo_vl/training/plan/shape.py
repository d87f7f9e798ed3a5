"""The shape of a model: what memory and time follow from, read off a module without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapo_vl.learner.engine import GATHER_GROUP
from sapo_vl.model.families.qwen3_5 import LINEAR
from sapo_vl.model.weights import trainable_rows


@dataclass(frozen=True)
class Attention:
    """Widths of a layer's attention, in elements per token."""

    query: int  # heads x head width
    key: int  # key-value heads x head width
    heads: int
    head_width: int
    rotary: int  # of a head's width, what is rotated
    norms: bool  # whether queries and keys are normalised per head
    gated: bool  # whether the output is multiplied by a gate, as wide as the queries


@dataclass(frozen=True)
class DeltaNet:
    """Widths of a layer's gated delta net; a head's state is key_width x value_width."""

    heads: int  # of values
    key_heads: int  # of queries and of keys
    key_width: int
    value_width: int
    kernel: int  # taps of the convolution

    @property
    def channels(self) -> int:
        """Of the convolution: queries, keys and values, before heads are repeated."""
        return 2 * self.key_heads * self.key_width + self.value

    @property
    def value(self) -> int:
        """Heads x width of a value."""
        return self.heads * self.value_width

    @property
    def state(self) -> int:
        """Elements of a sequence's recurrent state."""
        return self.heads * self.key_width * self.value_width


@dataclass(frozen=True)
class TextLayer:
    """Widths of one decoder layer, in elements per token."""

    width: int  # of the residual stream
    mixer: Attention | DeltaNet
    wide_norms: bool  # whether the layer's norms also scale in float32
    ffn: int  # of one gated feed-forward network or expert
    chosen: int  # experts per token; 0 in a dense layer
    experts: int  # 0 in a dense layer
    shared_ffn: int  # of an expert that every token takes besides; 0: there is none
    parameters: int
    active: int  # parameters that take part in one token's products


@dataclass(frozen=True)
class Vision:
    """The vision tower; a merger joins `merge` patches to one token."""

    width: int
    head_width: int
    ffn: int
    gated: bool
    depth: int
    mergers: int  # with those whose output is added to text layers
    merge: int
    patch: int  # values of one patch of pixels
    patch_side: int  # pixels
    block_parameters: int  # of all blocks
    merger_parameters: int


@dataclass(frozen=True)
class ModelShape:
    """A model's widths and counts of parameters, tied weights counted once."""

    rows: tuple[tuple[str, int, int], ...]  # (component, parameters, trained parameters)
    layers: tuple[TextLayer, ...]
    vision: Vision
    vocabulary: int
    head_trained: bool
    language_trained: bool
    vision_trained: bool
    merger_trained: bool
    tensors: int
    largest: int  # parameters of the largest tensor
    largest_group: int  # parameters of the largest GATHER_GROUP neighbouring tensors

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.rows[-1][1]

    @property
    def trained(self) -> int:
        """Parameters with a gradient."""
        return self.rows[-1][2]

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.layers[0].width

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocabulary * self.width

    @property
    def body(self) -> int:
        """Parameters of the decoder layers that take part in one token's products."""
        return sum(layer.active for layer in self.layers)

    @property
    def attentions(self) -> list[Attention]:
        """Of the layers that attend."""
        return [la.mixer for la in self.layers if isinstance(la.mixer, Attention)]

    @property
    def delta_nets(self) -> list[DeltaNet]:
        """Of the layers that carry a recurrent state instead."""
        return [la.mixer for la in self.layers if isinstance(la.mixer, DeltaNet)]


def model_shape(module: Any) -> ModelShape:
    """Read the shape of a transformers module (on any device, `meta` too), frozen as in the run."""
    text_config = module.config.text_config
    layers = tuple(_text_layer(layer, text_config) for layer in module.model.language_model.layers)
    rows = tuple(trainable_rows(module))
    trained = {name: count > 0 for name, _, count in rows}
    sizes = [p.numel() for p in module.parameters()]
    groups = [sum(sizes[i : i + GATHER_GROUP]) for i in range(0, len(sizes), GATHER_GROUP)]
    return ModelShape(
        rows=rows,
        layers=layers,
        vision=_vision(module.model.visual, module.config.vision_config),
        vocabulary=module.get_input_embeddings().num_embeddings,
        head_trained=module.lm_head.weight.requires_grad,
        language_trained=trained["language"],
        vision_trained=trained["vision"],
        merger_trained=trained["merger"],
        tensors=len(sizes),
        largest=max(sizes),
        largest_group=max(groups),
    )


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _text_layer(layer: Any, config: Any) -> TextLayer:
    mlp = layer.mlp
    width = layer.input_layernorm.weight.shape[0]
    stacked = [p for p in mlp.parameters() if p.dim() == 3]  # experts x rows x columns
    parameters = active = _count(layer)
    shared = getattr(mlp, "shared_expert", None)
    if stacked:
        experts, chosen = stacked[0].shape[0], int(config.num_experts_per_tok)
        ffn = min(p.numel() for p in stacked) // (experts * width)
        held = sum(p.numel() for p in stacked)
        active += held * chosen // experts - held
    else:
        experts, chosen, ffn = 0, 0, mlp.gate_proj.weight.shape[0]
    kinds = getattr(config, "layer_types", None) or []
    return TextLayer(
        width=width,
        mixer=_mixer(layer, config),
        wide_norms=LINEAR in kinds,
        ffn=ffn,
        chosen=chosen,
        experts=experts,
        shared_ffn=0 if shared is None else shared.gate_proj.weight.shape[0],
        parameters=parameters,
        active=active,
    )


def _mixer(layer: Any, config: Any) -> Attention | DeltaNet:
    if hasattr(layer, "linear_attn"):
        net = layer.linear_attn
        return DeltaNet(
            heads=net.num_v_heads,
            key_heads=net.num_k_heads,
            key_width=net.head_k_dim,
            value_width=net.head_v_dim,
            kernel=net.conv_kernel_size,
        )
    attention = layer.self_attn
    heads, query = int(config.num_attention_heads), attention.o_proj.weight.shape[1]
    rotated = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return Attention(
        query=query,
        key=attention.k_proj.weight.shape[0],
        heads=heads,
        head_width=query // heads,
        rotary=int(query // heads * rotated),
        norms=hasattr(attention, "q_norm"),
        gated=attention.q_proj.weight.shape[0] > query,
    )


def _vision(visual: Any, config: Any) -> Vision:
    block = visual.blocks[0]
    matrices = [p for p in block.mlp.parameters() if p.dim() == 2]
    mergers = [visual.merger, *getattr(visual, "deepstack_merger_list", [])]
    return Vision(
        width=block.attn.qkv.weight.shape[1],
        head_width=block.attn.qkv.weight.shape[1] // int(config.num_heads),
        ffn=max(p.shape[0] for p in matrices),
        gated=len(matrices) == 3,
        depth=len(visual.blocks),
        mergers=len(mergers),
        merge=int(config.spatial_merge_size) ** 2,
        patch=visual.patch_embed.proj.weight[0].numel(),
        patch_side=int(config.patch_size),
        block_parameters=_count(visual.blocks),
        merger_parameters=sum(_count(merger) for merger in mergers),
    )
