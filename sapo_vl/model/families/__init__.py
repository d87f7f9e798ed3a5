"""Model families: everything that differs between Qwen3-VL, Qwen2.5-VL and the next one.

A new family is one file here with a class that satisfies `base.Family`, and one entry in FAMILIES.
The tests go through FAMILIES: they build each family's tiny model and compare positions, hidden
states, log-probs and gradients with transformers and vLLM.
"""

from __future__ import annotations

from sapo_vl.errors import DataError
from sapo_vl.model.families.base import Family
from sapo_vl.model.families.qwen2_5_vl import Qwen25VL
from sapo_vl.model.families.qwen2_vl import Qwen2VL
from sapo_vl.model.families.qwen3_5 import Qwen35
from sapo_vl.model.families.qwen3_5_moe import Qwen35Moe
from sapo_vl.model.families.qwen3_vl import Qwen3VL
from sapo_vl.model.families.qwen3_vl_moe import Qwen3VLMoe

FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Qwen25VL(),
    "qwen2_vl": Qwen2VL(),
    "qwen3_5": Qwen35(),
    "qwen3_5_moe": Qwen35Moe(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VLMoe(),
}
"""`model_type` of config.json -> family."""


def family_of(model_type: str) -> Family:
    """Return the family of a `model_type`. Raises DataError when there is none."""
    if model_type not in FAMILIES:
        raise DataError(
            f"model type {model_type!r} is not supported (supported: {', '.join(FAMILIES)}); a new "
            "family needs a class in sapo_vl/model/families and an entry in FAMILIES"
        )
    return FAMILIES[model_type]
