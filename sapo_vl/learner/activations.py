"""Which layers recompute their activations in the backward pass instead of keeping them."""

from __future__ import annotations

from typing import Any, Literal

EVERY = {"alternate": 2, "all": 1}
"""Of how many layers one is recomputed."""


def recompute_activations(model: Any, choice: Literal["none", "alternate", "all"]) -> None:
    """Apply `model.gradient_checkpointing` to the layers of a transformers model.

    `alternate` takes the layers 0, 2, 4, .. of the text model and of the vision tower, each counted
    from 0. A recomputed layer saves its input only. A frozen vision tower saves nothing either way,
    because its output needs no gradient, and is not run twice.
    """
    if choice == "none":
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    # The reentrant form passes no gradient to a layer whose input needs none (frozen embeddings).
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layers in model.modules():
        children = [m for m in layers.children() if isinstance(m, GradientCheckpointingLayer)]
        for i, layer in enumerate(children):
            layer.gradient_checkpointing = i % EVERY[choice] == 0
