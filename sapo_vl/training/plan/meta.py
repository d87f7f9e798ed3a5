"""A config's model on the meta device: shapes and parameter counts, no memory.

A model's own config is read from its folder or the hub; for a known size the published shapes do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sapo_vl.config import Config, tiny_family
from sapo_vl.errors import DataError, UserError
from sapo_vl.model import lora, shapes
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import freeze

UNREACHED = "published shapes; the hub can't be reached"
PUBLISHED = "published shapes"


def module_on_meta(config: Config, *, ask_hub: bool = True) -> tuple[Any, str]:
    """Return (the transformers module, frozen as in the run; where its config is from).

    Without `ask_hub` a known size by name is taken as published, which needs no network. Raises
    DataError when model.path can't be opened and names no known size, ConfigError when
    model.freeze or model.lora doesn't fit it.
    """
    from transformers import AutoModelForImageTextToText

    found, origin = _model_config(config.model.path, ask_hub=ask_hub)
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(found)
    freeze(module, config.model.freeze)
    if config.model.lora.rank:
        fresh = config.model.lora.model_copy(update={"path": None})
        lora.inject(module, fresh, config.model.freeze, config.run.seed)
    return module, origin


def _model_config(path: str, *, ask_hub: bool) -> tuple[Any, str]:
    made_here = tiny_family(path) is not None
    known = None if not made_here and Path(path).exists() else shapes.configuration(path)
    if made_here:
        return known, "built in the run"
    if known is not None and not ask_hub:
        return known, PUBLISHED
    try:
        return open_assets(path).config, "its own config"
    except UserError as error:
        if known is None:
            raise DataError(str(error)) from error
        return known, UNREACHED
