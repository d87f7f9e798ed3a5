"""Read chats: OpenAI-style turns, ShareGPT turns, or a plain string.

A chat may also be JSON text in a cell, and its parts may hold the images:

    [{"role": "user", "content": [{"type": "image", "image": "file:///data/0.png"},
                                  {"type": "text", "text": "How many?"}]}]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sapo_vl.data.readers.tables import parse_literal
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

_USER_ROLES, _ASSISTANT_ROLES = ("user", "human"), ("assistant", "gpt")


class Exchange(NamedTuple):
    """A user turn and the assistant turn that follows it."""

    question: str  # with image marks
    answer: str
    image_refs: list[Any]  # image references in the question's parts, not loaded
    later: int  # image marks in all other turns


def last_user_turn(prompt: Any) -> dict[str, Any]:
    """Return the last user turn; a plain string counts as one, unless it is a chat in JSON.

    Raises:
        DataError: the prompt has no user turn.
    """
    if isinstance(prompt, str) and not prompt.lstrip().startswith("[{"):
        return {"role": "user", "content": prompt}
    for turn in reversed(_turns(prompt)):
        if _role(turn) in _USER_ROLES:
            return turn
    raise DataError(f"the prompt has no user turn: {prompt!r:.200}")


def first_exchange(chat: Any) -> Exchange:
    """Return the first user turn that an assistant turn follows, with that answer.

    Raises:
        DataError: the chat has no such pair.
    """
    turns = _turns(chat)
    for turn, following in pairwise(turns):
        if _role(turn) in _USER_ROLES and _role(following) in _ASSISTANT_ROLES:
            later = sum(text(t).count(IMAGE_MARK) for t in turns if t is not turn)
            return Exchange(text(turn), text(following), image_refs(turn), later)
    raise DataError(f"the chat has no question followed by an answer: {chat!r:.200}")


def text(turn: dict[str, Any]) -> str:
    """Return a turn's text, with an image mark for each image part."""
    return "".join(
        IMAGE_MARK if _is_image(part) else str(part.get("text") or "") for part in _parts(turn)
    )


def image_refs(turn: dict[str, Any]) -> list[Any]:
    """Return the image references in a turn's parts, not loaded."""
    refs = (part.get("image") or part.get("image_url") for part in _parts(turn) if _is_image(part))
    return [ref for ref in refs if ref]


def _is_image(part: dict[str, Any]) -> bool:
    return part.get("type") in ("image", "image_url")


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"] if "content" in turn else turn.get("value")
    parts = content if isinstance(content, list) else [content]
    return [p if isinstance(p, dict) else {"text": p} for p in parts]


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from"))


def _turns(chat: Any) -> Sequence[dict[str, Any]]:
    turns = parse_literal(chat)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"expected a chat (a list of turns), got {chat!r:.200}")
    return turns
