"""Token heat: what colours a response's tokens, and the numbers that the page's script gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sapo_vl.errors import printable_lines
from sapo_vl.pages.viewer.files import Loaded, RolloutFiles, StoredResponse
from sapo_vl.pages.viewer.token_text import TokenText


@dataclass(frozen=True, slots=True)
class Heat:
    """A way to colour tokens."""

    name: str
    label: str
    columns: tuple[str, ...]  # of the rollout file, which it needs
    kind: str  # "gate": 1 is plain, 0 is strongest; "size": from 0; "signed": around 0
    about: str


HEATS = (
    Heat(
        "gate",
        "gate weight",
        ("gate_weights",),
        "gate",
        "w of the token in its update: 1 passes its gradient whole, 0 stops it",
    ),
    Heat(
        "ratio",
        "log ratio",
        ("log_ratios",),
        "signed",
        "log pi_theta - log pi_old in its update, nats; 0 in a step's first mini-batch",
    ),
    Heat(
        "mismatch",
        "sampler-learner difference",
        ("generator_logprobs", "old_logprobs"),
        "signed",
        "log mu - log pi_old, nats: sampler against learner with the same weights",
    ),
    Heat(
        "entropy",
        "entropy",
        ("entropies",),
        "size",
        "of the learner's distribution at this token, nats: how open the choice was",
    ),
)


def missing(heat: Heat, files: RolloutFiles, step: int, text: TokenText) -> str:
    """Return why a heat can't be shown for a step; empty where it can."""
    if not text.available:
        return f"tokens can't be told apart: {text.reason}"
    lacking = [name for name in heat.columns if files.lacks(step, name)]
    if lacking:
        return f"the rollout file of step {step} has no {lacking[0]}: an older release wrote it"
    return ""


LIST_TOKENS = 2_000
"""Tokens of a response that pages with several groups show."""

PAGE_TOKENS = 100_000
"""Tokens of a response that the page of its own group shows."""


def token_data(loaded: Loaded, text: TokenText, limit: int) -> list[dict[str, Any]]:
    """Return what the script needs of each response's first `limit` tokens, as JSON values.

    `count` is the number of all tokens, `text` each token's text, `ids` their ids; `gate`,
    `ratio`, `mu`, `old`, `mismatch` and `entropy` are numbers, null where they are not known, or
    a text where they are not finite. A list is null when the response has no such values, as
    without an update.
    """
    return [_response(response, text, limit) for response in loaded.responses]


def _response(response: StoredResponse, text: TokenText, limit: int) -> dict[str, Any]:
    count = len(response.tokens["token_ids"] or [])
    values = {
        name: None if own is None or len(own) != count else own[:limit]
        for name, own in response.tokens.items()
    }
    ids = values["token_ids"] or []
    mu, old = values["generator_logprobs"], values["old_logprobs"]
    difference = None
    if mu is not None and old is not None:
        difference = [m - o for m, o in zip(mu, old, strict=True)]
    return {
        "count": count,
        "text": [printable_lines(piece) for piece in text.pieces(ids)],
        "ids": ids,
        "gate": numbers(values["gate_weights"]),
        "ratio": numbers(values["log_ratios"]),
        "mu": numbers(mu),
        "old": numbers(old),
        "mismatch": numbers(difference),
        "entropy": numbers(values["entropies"]),
    }


def numbers(values: Sequence[float] | None) -> list[float | str | None] | None:
    """Return values with 4 digits, those that are not finite as text; None when there are none."""
    return None if values is None else [_number(value) for value in values]


def _number(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)
