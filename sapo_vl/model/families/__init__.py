"""Model families: everything that differs between Qwen3-VL, Qwen2.5-VL and the next one.

A new family is one file here with a class that satisfies `base.Family`, one entry in FAMILIES, and
a tiny random model in FOLDERS of tests/unit/model/test_families.py and in the parity tests under
tests/integration (test_shared_prefix.py, test_generator.py, test_family_engines.py), which compare
positions, hidden states, log-probs and gradients with transformers and vLLM.
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
