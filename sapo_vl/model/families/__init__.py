"""Model families: everything that differs between Qwen3-VL, Qwen2.5-VL and the next one.

A new family is one file here with a class that satisfies `base.Family`, one line in FAMILIES, and
its name in the tests' list of tiny models (positions, layouts and log-probs are compared there with
transformers' own).
"""

from __future__ import annotations

from sapo_vl.errors import DataError
from sapo_vl.model.families.base import Family
from sapo_vl.model.families.qwen2_5_vl import Qwen25VL
from sapo_vl.model.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VL(),
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
