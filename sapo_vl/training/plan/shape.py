"""The shape of a model: what memory and time follow from, read off a module without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sapo_vl.learner.engine import GATHER_GROUP
from sapo_vl.model.weights import trainable_rows


@dataclass(frozen=True)
class TextLayer:
    """Widths of one decoder layer, in elements per token."""

    width: int  # of the residual stream
    query: int  # heads x head width
    key: int  # key-value heads x head width
    heads: int
    head_norms: bool  # whether queries and keys are normalised per head
    ffn: int  # of one gated feed-forward network or expert
    chosen: int  # experts per token; 0 in a dense layer
    experts: int  # 0 in a dense layer
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
    def kv_width(self) -> int:
        """Keys and values of a token over all layers, in elements."""
        return sum(2 * layer.key for layer in self.layers)


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
    attention, mlp = layer.self_attn, layer.mlp
    query, width = attention.q_proj.weight.shape
    stacked = [p for p in mlp.parameters() if p.dim() == 3]  # experts x rows x columns
    parameters = active = _count(layer)
    if stacked:
        experts, chosen = stacked[0].shape[0], int(config.num_experts_per_tok)
        ffn = min(p.numel() for p in stacked) // (experts * width)
        held = sum(p.numel() for p in stacked)
        active += held * chosen // experts - held
    else:
        experts, chosen, ffn = 0, 0, mlp.gate_proj.weight.shape[0]
    return TextLayer(
        width=width,
        query=query,
        key=attention.k_proj.weight.shape[0],
        heads=int(config.num_attention_heads),
        head_norms=hasattr(attention, "q_norm"),
        ffn=ffn,
        chosen=chosen,
        experts=experts,
        parameters=parameters,
        active=active,
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
