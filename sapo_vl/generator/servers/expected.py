"""Which weights a server's model has, by the files that the server was started from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sapo_vl.model import weight_files

Shape = tuple[int, ...]

SPECULATIVE = "mtp."
"""Prefix of heads for speculative decoding, which aren't trained and aren't sent."""


class ExpectedWeights:
    """Checks one update's weights: only those of the model, in its shapes, all of them."""

    def __init__(
        self, shapes: Mapping[str, Shape], tied_head: bool, vllm_name: Callable[[str], str | None]
    ) -> None:
        """`shapes` are those of the model's files.

        `tied_head` says that the head is the embedding; `vllm_name` is vLLM's mapping of names,
        by which a name that transformers has changed since the files were written is found.
        """
        self._shapes = {
            name: shape
            for name, shape in shapes.items()
            if not name.startswith(SPECULATIVE) and not (tied_head and name == "lm_head.weight")
        }
        self._vllm_name = vllm_name
        self._by_vllm_name = {vllm_name(name): name for name in self._shapes}
        self._missing: set[str] = set()

    @classmethod
    def of(cls, model_config: Any, model: Any) -> ExpectedWeights:
        """Read the shapes of a vLLM worker's model. Raises DataError as weight_files does."""
        from huggingface_hub import snapshot_download

        folder = Path(model_config.model)
        if not folder.is_dir():  # a hub id, downloaded when the server started
            folder = Path(
                snapshot_download(
                    model_config.model, revision=model_config.revision, local_files_only=True
                )
            )
        shapes = weight_files.local_shapes(weight_files.weight_files(folder))
        texts = (model_config.hf_config, model_config.hf_text_config)
        tied = any(getattr(text, "tie_word_embeddings", False) for text in texts)
        mapper = getattr(model, "hf_to_vllm_mapper", None)
        return cls(shapes, tied, mapper.map_name if mapper is not None else str)

    def start(self) -> None:
        """Forget what came before."""
        self._missing = set(self._shapes)

    def receive(self, name: str, shape: Shape) -> None:
        """Note one tensor. Raises ValueError for one that the model doesn't have, or not so."""
        own = name if name in self._shapes else self._by_vllm_name.get(self._vllm_name(name))
        if own is None:
            raise ValueError(f"this server's model has no weight {name}: it is another model")
        if shape != self._shapes[own]:
            raise ValueError(
                f"{name} came as {list(shape)}, and is {list(self._shapes[own])} in this server's "
                "model"
            )
        self._missing.discard(own)

    def check_complete(self) -> None:
        """Raise ValueError, with a name, when weights are missing."""
        if self._missing:
            raise ValueError(
                f"{min(self._missing)} didn't come ({len(self._missing)} of {len(self._shapes)} "
                "weights are missing)"
            )
