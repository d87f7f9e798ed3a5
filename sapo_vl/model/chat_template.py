"""A model's chat template: what it puts around a problem, and how a response begins and ends.

A template is tried once, on a problem with a picture and one without, because a wrong one gives no
error: a text model's template prints the content's Python list, and a template that doesn't know
pictures drops them.

Worked example, Qwen3-VL-Thinking: the prompt ends with `<|im_start|>assistant\\n<think>\\n`. The
model's response then has no `<think>` of its own; `opening` returns the template's, `<think>\\n`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from sapo_vl.errors import DataError

if TYPE_CHECKING:
    from sapo_vl.model.assets import ModelAssets

Content = list[dict[str, str]]
"""A message's parts: `{"type": "text", "text": ..}` and `{"type": "image"}`."""

TURN = "<|im_start|>"
"""Begins a turn in ChatML, the format of all supported families."""

_PROBE = "sapovlprobe"
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")
_FAILURES = (TemplateError, ValueError, TypeError, KeyError, AttributeError)
"""Raised by jinja2 and transformers for a template that is missing, broken or refuses a message."""


class ChatTemplate:
    """The chat template of a model folder."""

    def __init__(self, assets: ModelAssets) -> None:
        """Try the template. Raises DataError when there is none, or when it loses the problem."""
        self._assets = assets
        self._template = _own_template(assets)
        self._check()

    def render(self, content: Content) -> str:
        """Return the prompt's text up to where the response begins.

        Raises DataError when the template refuses the content.
        """
        return self._apply([{"role": "user", "content": content}], prompt=True)

    def opening(self, text: str) -> str:
        """Return what the template wrote of the response itself at the end of a rendered prompt."""
        _, turn, rest = text.rpartition(TURN)
        if turn:
            return rest.partition("\n")[2].lstrip("\n")
        thought = _OPEN_THOUGHT.search(text)
        return thought[0] if thought else ""

    def turn_end(self) -> int:
        """Return the end token that the template puts behind a response.

        It is one of those that end a response in sampling; the first of them where the template
        has none.
        """
        return next(
            (i for i in self.after_response() if i in self._assets.eos_ids), self._assets.eos_ids[0]
        )

    def after_response(self) -> list[int]:
        """Return the ids that the template puts behind a response; empty where it refuses one."""
        message = {"role": "assistant", "content": _PROBE}
        question = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        try:
            text = self._apply([question, message], prompt=False)
        except DataError:
            return []
        after = text.rpartition(_PROBE)[2]
        return self._assets.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []

    def _apply(self, messages: list[dict[str, Any]], *, prompt: bool) -> str:
        try:
            return self._assets.processor.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except _FAILURES as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(
                f"model.path={self._assets.path}: the chat template fails: {reason}"
            ) from error

    def _check(self) -> None:
        words: Content = [{"type": "text", "text": _PROBE}]
        plain, pictured = self.render(words), self.render([{"type": "image"}, *words])
        where = f"model.path={self._assets.path}: the chat template"
        use = "use the template of the base model"
        for text in (plain, pictured):
            if text.count(_PROBE) != 1:
                raise DataError(f"{where} doesn't write the problem's text once; {use}")
            if _PROBE in text.rpartition(TURN)[2] and TURN in text:
                raise DataError(f"{where} doesn't begin the response's turn; {use}")
            if f"'{_PROBE}'" in text or f'"{_PROBE}"' in text:
                raise DataError(
                    f"{where} is made for text: it prints a message's parts as a list; {use}"
                )
        ids = self._assets.tokenizer([plain, pictured], add_special_tokens=False)["input_ids"]
        if [i.count(self._assets.image_token_id) for i in ids] != [0, 1]:
            raise DataError(f"{where} doesn't write one image token per picture; {use}")


def _own_template(assets: ModelAssets) -> str:
    """Return the processor's template, else the tokenizer's. Raises DataError without one."""
    for owner in (assets.processor, assets.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    raise DataError(
        f"model.path={assets.path} has no chat template; copy chat_template.jinja (or "
        "chat_template.json) of the base model into it"
    )


def response_texts(assets: ModelAssets, responses: Sequence[Sequence[int]]) -> list[str]:
    """Return the text that verifiers read of each response's token ids.

    Only the end token is left off: other special tokens stay, because `</think>` is one in some
    folders and decides where the answer begins.
    """
    ends = assets.eos_ids
    kept = [ids[:-1] if len(ids) and ids[-1] in ends else ids for ids in responses]
    return assets.tokenizer.batch_decode(kept, skip_special_tokens=False)
