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


def family_of(model_type: object) -> Family:
    """Return the family of config.json's `model_type`. Raises DataError when there is none."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise DataError(
        f"{_fault(model_type)} (supported: {', '.join(FAMILIES)}); a new family needs a file in "
        "sapo_vl/model/families: see CONTRIBUTING.md, 'A model family'"
    )


def _fault(model_type: object) -> str:
    """Return why a model type is no family's."""
    if model_type is None:
        return "config.json has no model_type"
    if not isinstance(model_type, str):
        return f"config.json's model_type is {model_type!r:.40}, not a text"
    if _is_text_model(model_type):
        return f"model type {model_type!r} is a text model: it has no vision tower"
    return f"model type {model_type!r} is not supported"


def _is_text_model(model_type: str) -> bool:
    """Whether transformers knows the type as a language model, and not as one with pictures."""
    from transformers.models.auto import modeling_auto as auto

    return (
        model_type.removesuffix("_text") in FAMILIES
        or model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ) and model_type not in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
