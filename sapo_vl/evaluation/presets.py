"""Sampling presets of a benchmark, by kind of model: Qwen3-VL's own evaluation settings.

`instruct` and `thinking` are published in the Qwen3-VL report for its evaluations; `policy` samples
as training does (temperature 1, no top_p or top_k). Lengths are upper bounds: a lower limit of the
engine or the configuration wins.
"""

from __future__ import annotations

from dataclasses import replace

from sapo_vl.errors import ConfigError, nearest
from sapo_vl.generator.base import SamplingParams

KINDS: dict[str, SamplingParams] = {
    "instruct": SamplingParams(
        1, 0.7, max_new_tokens=32_768, top_p=0.8, top_k=20, presence_penalty=1.5
    ),
    "thinking": SamplingParams(1, 1.0, max_new_tokens=40_960, top_p=0.95, top_k=20),
    "policy": SamplingParams(1, 1.0, max_new_tokens=40_960),
}
"""Name of a preset -> parameters of one response."""


def choose(
    kind: str, model: str, chat_template: str, max_new_tokens: int
) -> tuple[str, SamplingParams]:
    """Return the preset's name and parameters, with at most `max_new_tokens`.

    "auto" is thinking when the model's name contains "thinking" or its chat template opens
    `<think>`, else instruct. Raises ConfigError for an unknown kind.
    """
    if kind == "auto":
        thinks = "thinking" in model.lower() or "<think>" in chat_template.split("assistant")[-1]
        kind = "thinking" if thinks else "instruct"
    if kind not in KINDS:
        known = nearest(kind, KINDS) or f"; known: auto, {', '.join(KINDS)}"
        raise ConfigError(f"--kind {kind!r} is unknown{known}")
    sampling = KINDS[kind]
    return kind, replace(sampling, max_new_tokens=min(sampling.max_new_tokens, max_new_tokens))
