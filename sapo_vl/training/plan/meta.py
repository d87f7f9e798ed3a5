"""A config's model on the meta device: shapes and parameter counts, no memory.

If the model's own config can't be fetched (no hub), the published shapes of a known size are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sapo_vl.config import Config
from sapo_vl.errors import DataError, UserError
from sapo_vl.model import shapes
from sapo_vl.model.assets import open_assets
from sapo_vl.model.weights import freeze

UNREACHED = "published shapes; the hub can't be reached"


def module_on_meta(config: Config) -> tuple[Any, str]:
    """Return (the transformers module, frozen as in the run; where its config is from).

    Raises DataError when model.path can't be opened and names no known size, ConfigError when
    model.freeze doesn't fit it.
    """
    from transformers import AutoModelForImageTextToText

    found, origin = _model_config(config)
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(found)
    freeze(module, config.model.freeze)
    return module, origin


def _model_config(config: Config) -> tuple[Any, str]:
    path = config.model.path
    if path == "tiny":
        return shapes.configuration(path), "built in the run"
    try:
        return open_assets(path).config, "its own config"
    except UserError as error:
        known = None if Path(path).exists() else shapes.configuration(path)
        if known is None:
            raise DataError(str(error)) from error
        return known, UNREACHED
