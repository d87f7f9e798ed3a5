"""Texts of chats, as data sets write them: OpenAI-style turns, ShareGPT turns, plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

_USER, _MODEL = ("user", "human"), ("assistant", "gpt")


class Exchange(NamedTuple):
    """What was asked, with image marks, and what was answered."""

    question: str
    answer: str


def last_user_text(prompt: Any) -> str:
    """Return the last user turn of a prompt, or the prompt itself when it is a string.

    Raises:
        DataError: there is none.
    """
    if isinstance(prompt, str):
        return prompt
    for turn in reversed(_turns(prompt)):
        if _role(turn) in _USER:
            return text(turn)
    raise DataError(f"the prompt has no user turn: {prompt!r:.200}")


def first_exchange(turns: Any) -> Exchange:
    """Return the first user turn and the model's turn after it.

    Raises:
        DataError: there is none.
    """
    found = _turns(turns)
    for turn, following in pairwise(found):
        if _role(turn) in _USER and _role(following) in _MODEL:
            return Exchange(text(turn), text(following))
    raise DataError(f"no question with an answer after it: {turns!r:.200}")


def text(turn: dict[str, Any]) -> str:
    """Return a turn's text; each image part of it is an image mark."""
    content = turn["content"] if "content" in turn else turn.get("value")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(IMAGE_MARK if p.get("type") == "image" else p.get("text") or "" for p in parts)


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from"))


def _turns(turns: Any) -> Sequence[dict[str, Any]]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"a chat is a list of turns, this is {turns!r:.200}")
    return turns
