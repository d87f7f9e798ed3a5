"""Chats as data sets write them: OpenAI-style turns, ShareGPT turns, plain strings.

A chat may also be written as JSON in a string, and its parts may hold the pictures:

    [{"role": "user", "content": [{"type": "image", "image": "file:///data/0.png"},
                                  {"type": "text", "text": "How many?"}]}]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sapo_vl.data.readers.tables import written
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

_USER, _MODEL = ("user", "human"), ("assistant", "gpt")


class Exchange(NamedTuple):
    """A question and its answer."""

    question: str  # with image marks
    answer: str
    pictures: list[Any]  # that the question's parts hold, as they are written there
    later: int  # image marks in other turns


def last_user_turn(prompt: Any) -> dict[str, Any]:
    """Return the last user turn of a prompt; a plain string is one, unless it is a chat in JSON.

    Raises:
        DataError: there is none.
    """
    if isinstance(prompt, str) and not prompt.lstrip().startswith("[{"):
        return {"role": "user", "content": prompt}
    for turn in reversed(_turns(prompt)):
        if _role(turn) in _USER:
            return turn
    raise DataError(f"the prompt has no user turn: {prompt!r:.200}")


def first_exchange(turns: Any) -> Exchange:
    """Return the first user turn and the model's turn after it.

    Raises:
        DataError: there is none.
    """
    found = _turns(turns)
    for turn, following in pairwise(found):
        if _role(turn) in _USER and _role(following) in _MODEL:
            later = sum(text(t).count(IMAGE_MARK) for t in found if t is not turn)
            return Exchange(text(turn), text(following), pictures(turn), later)
    raise DataError(f"no question with an answer after it: {turns!r:.200}")


def text(turn: dict[str, Any]) -> str:
    """Return a turn's text; each image part of it is an image mark."""
    return "".join(
        IMAGE_MARK if _is_picture(part) else str(part.get("text") or "") for part in _parts(turn)
    )


def pictures(turn: dict[str, Any]) -> list[Any]:
    """Return the pictures that a turn's parts hold, as they are written there."""
    parts = (part for part in _parts(turn) if _is_picture(part))
    held = (part.get("image") or part.get("image_url") for part in parts)
    return [picture for picture in held if picture]


def _is_picture(part: dict[str, Any]) -> bool:
    return part.get("type") in ("image", "image_url")


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    content = turn["content"] if "content" in turn else turn.get("value")
    parts = content if isinstance(content, list) else [content]
    return [p if isinstance(p, dict) else {"text": p} for p in parts]


def _role(turn: dict[str, Any]) -> str:
    return str(turn.get("role") or turn.get("from"))


def _turns(turns: Any) -> Sequence[dict[str, Any]]:
    found = written(turns)
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise DataError(f"a chat is a list of turns, this is {turns!r:.200}")
    return found
