"""Format reward: does the response have the required form? Ignores whether the answer is correct.

The form: either no thinking tags, or exactly one `</think>` with at most one `<think>`, which must
then start the response; after it exactly one `\\boxed{}`, closed and not empty (special tokens such
as `<|im_start|>` don't fill it). A response begins with what its chat template opened, so that a
`<think>` of the template counts as the response's. Off by default, because Qwen's own recipe has no
format reward.
"""

from __future__ import annotations

import re

from sapo_vl.rewards.parsing.extract import BOX_MARKS, THINK_CLOSE, THINK_OPEN, last_box
from sapo_vl.schema import Outcome, Sample, Verdict

_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\n]{1,40}\|>")


def score(sample: Sample, response: str) -> Verdict:
    """Return CORRECT with 1 for a response of the form above, else WRONG with 0 and the reason."""
    fault = _fault(response)
    if fault:
        return Verdict(Outcome.WRONG, 0.0, fault)
    return Verdict(Outcome.CORRECT, 1.0, "well formed", extracted=last_box(response).answer)


def _fault(response: str) -> str | None:
    opens, closes = response.count(THINK_OPEN), response.count(THINK_CLOSE)
    if closes > 1 or opens > 1:
        return "more than one thinking block"
    if opens > closes:
        return "<think> is never closed"
    if opens and not response.lstrip().startswith(THINK_OPEN):
        return "text before <think>"
    box = last_box(response)
    if box.answer is None:
        return box.reason
    if not _SPECIAL_TOKEN.sub("", box.answer).strip():
        return "the last \\boxed{} holds nothing but special tokens"
    visible = response.rpartition(THINK_CLOSE)[2]
    if sum(visible.count(mark) for mark in BOX_MARKS) > 1:
        return "more than one box after thinking"
    return None
