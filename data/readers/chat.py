"""Read chats: OpenAI-style turns, ShareGPT turns, or a plain string.

A chat may also be JSON text in a cell, and its parts may hold the images:

    [{"role": "user", "content": [{"type": "image", "image": "file:///data/0.png"},
                                  {"type": "text", "text": "How many?"}]}]

What stands before the question (a system turn, earlier questions and answers) belongs to it: "Let x
be 3." gives "What is x + 4?" its answer. It is put in front of the question, a system turn as it
is, earlier turns with "User:" and "Assistant:".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sapo_vl.data.readers.literals import is_missing, parse_literal
from sapo_vl.data.readers.marks import normalize
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

KEPT_BEFORE = "a system turn or earlier turns, put in front of the problem"
LEFT_OUT_AFTER = "later turns, left out"

_ROLES = {
    "user": "user", "human": "user", "question": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "answer": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
_NOT_CONTENT = ("type", "role", "text", "index", "detail", "image_wh", "mime_type", "media_type",
                "cache_control", "min_pixels", "max_pixels", "id")  # fmt: skip
_TEXT_TYPES = ("text", "input_text", "output_text", "")
_IMAGE_TYPES = ("image", "image_url", "input_image", "image_path", "image_file", "img", "picture")


class Asked(NamedTuple):
    """What is asked, with what the chat says before it."""

    text: str  # with image marks
    image_refs: list[Any]  # image references in the turns' parts, not loaded
    notes: tuple[str, ...] = ()  # what was put in front or left out


class Exchange(NamedTuple):
    """A question and the assistant turn that follows it."""

    question: Asked
    answer: str
    later: int  # image marks in the turns after it


def last_question(prompt: Any, wording: str | None = None) -> Asked:
    """Return the last user turn with what precedes it; a plain string is a question itself.

    `wording` is the turn's text without a trainer's own instruction, where the record has it.

    Raises:
        DataError: the prompt has no user turn, or a turn is of another kind.
    """
    if isinstance(prompt, str) and not prompt.lstrip().startswith("[{"):
        return Asked(wording or prompt, [])
    turns = _turns(prompt)
    users = [number for number, turn in enumerate(turns) if _role(turn) == "user"]
    if not users:
        raise DataError(f"the prompt has no user turn: {prompt!r:.200}")
    after = (LEFT_OUT_AFTER,) if turns[users[-1] + 1 :] else ()
    asked = {"role": "user", "content": wording} if wording else turns[users[-1]]
    return _question([*turns[: users[-1]], asked], after)


def first_exchange(chat: Any) -> Exchange:
    """Return the first user turn that an assistant turn follows, with that answer.

    Raises:
        DataError: the chat has no such pair, or a turn is of another kind.
    """
    turns = _turns(chat)
    roles = [_role(turn) for turn in turns]
    for number, pair in enumerate(pairwise(roles)):
        if pair == ("user", "assistant"):
            after = turns[number + 2 :]
            question = _question(turns[: number + 1], (LEFT_OUT_AFTER,) if after else ())
            answer, _ = _content(turns[number + 1])
            return Exchange(question, answer, sum(_content(t)[0].count(IMAGE_MARK) for t in after))
    raise DataError(f"the chat has no question followed by an answer: {chat!r:.200}")


def _question(turns: Sequence[dict[str, Any]], notes: tuple[str, ...]) -> Asked:
    """Return the last of `turns` with the others in front of it."""
    contents = [(_role(turn), *_content(turn)) for turn in turns]
    refs = [ref for _, _, found in contents for ref in found]
    spoken = [(role, text) for role, text, _ in contents if text.strip()]
    asked = contents[-1][1]
    if not contents[-1][1].strip() or len(spoken) == 1:
        return Asked(asked, refs, notes)
    has_earlier = any(role != "system" for role, _ in spoken[:-1])
    lines = [
        text.strip()
        if role == "system" or not has_earlier
        else f"{role.capitalize()}: {text.strip()}"
        for role, text in spoken
    ]
    return Asked("\n\n".join(lines), refs, (KEPT_BEFORE, *notes))


def _content(turn: dict[str, Any]) -> tuple[str, list[Any]]:
    """Return a turn's text, with a mark for each image part, and the image references in it.

    Where the text has a mark for each image part already, as xtuner writes it, the parts have none.
    """
    parts = _parts(turn)
    images = [part for part in parts if _is_image(part)]
    texts = [normalize(str(part.get("text") or "")) for part in parts if not _is_image(part)]
    if images and sum(text.count(IMAGE_MARK) for text in texts) == len(images):
        joined = "".join(texts)
    else:
        joined = "".join(
            IMAGE_MARK if _is_image(part) else normalize(str(part.get("text") or ""))
            for part in parts
        )
    refs = (_reference(part) for part in images)
    return joined, [ref for ref in refs if ref is not None]


def _reference(part: dict[str, Any]) -> Any:
    """Return what a part of an image points to; None for the next entry of the images' column."""
    found = {k: v for k, v in part.items() if k not in _NOT_CONTENT and not is_missing(v)}
    return found or None


def _is_image(part: dict[str, Any]) -> bool:
    """Whether a part is an image, else it is text.

    Raises:
        DataError: it is neither; names its type.
    """
    kind = str(part.get("type") or "").lower()
    if kind in _IMAGE_TYPES:
        return True
    others = [k for k, v in part.items() if k not in _NOT_CONTENT and not is_missing(v)]
    media = next((k for k in others if k.lower().startswith(("video", "audio", "input_audio"))), "")
    if kind not in _TEXT_TYPES or media:
        raise DataError(f"a chat's part is neither text nor image: {media or kind!r}")
    if kind == "" and others:
        if not all(key.startswith(("image", "inline", "path", "bytes", "url")) for key in others):
            raise DataError(f"a chat's part is neither text nor image: {', '.join(others)!r:.100}")
        return True
    return False


def _parts(turn: dict[str, Any]) -> list[dict[str, Any]]:
    present = [key for key in ("content", "value", "text") if key in turn]
    if not present:
        raise DataError(f"a chat's turn has no content: {', '.join(turn)!r:.100}")
    content = next((turn[key] for key in present if turn[key] is not None), "")
    parts = content if isinstance(content, list) else [content]
    return [part if isinstance(part, dict) else {"text": part} for part in parts]


def _role(turn: dict[str, Any]) -> str:
    name = str(turn.get("role") or turn.get("from") or "")
    role = _ROLES.get(name.strip().lower())
    if role is None:
        raise DataError(f"a chat's turn of the role {name!r:.40} is not read")
    return role


def _turns(chat: Any) -> list[dict[str, Any]]:
    turns = parse_literal(chat)
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"expected a chat (a list of turns), got {chat!r:.200}")
    return list(turns)
