"""Find the answer inside a response. Pure Python, linear time, never raises.

Only the text after the last `</think>` counts, and only its last `TAIL_CHARS` characters: what the
model tried while it thought is not its answer, and a bounded tail bounds every later step.
"""

from __future__ import annotations

from dataclasses import dataclass

TAIL_CHARS = 16_384  # an answer stands at the end; the rest is never looked at
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BOX_MARKS = ("\\boxed", "\\fbox")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer found in a response, or why there is none."""

    answer: str | None  # the answer's text, outer blanks cut; None when there is none
    reason: str  # how it was found or why not, in words
    marked: bool = False  # the response marks an answer place, even when that place is empty


def answer_part(response: str) -> str | None:
    """Return the tail of `response` that may hold the answer; None when thinking never ends."""
    close = response.rfind(THINK_CLOSE)
    start = 0 if close < 0 else close + len(THINK_CLOSE)
    if response.find(THINK_OPEN, start) >= 0:
        return None
    return response[max(start, len(response) - TAIL_CHARS) :]


def closing_brace(text: str, opening: int) -> int:
    """Return the index of the `}` that closes the `{` at `opening`, or -1. `\\{` does not count."""
    depth, i = 0, opening
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def last_box(response: str) -> Extraction:
    """Return the content of the last `\\boxed{}` after thinking; an unclosed one is no answer."""
    text = answer_part(response)
    if text is None:
        return Extraction(None, "<think> is never closed")
    start, mark = max((text.rfind(mark), mark) for mark in BOX_MARKS)
    if start < 0:
        return Extraction(None, "no \\boxed{} after thinking")
    opening = start + len(mark)
    while opening < len(text) and text[opening] in " \t\n":
        opening += 1
    if opening >= len(text) or text[opening] != "{":
        return Extraction(None, "the last \\boxed has no braces", marked=True)
    closing = closing_brace(text, opening)
    if closing < 0:
        return Extraction(None, "the last \\boxed{ is never closed", marked=True)
    answer = text[opening + 1 : closing].strip()
    if not answer:
        return Extraction(None, "the last \\boxed{} is empty", marked=True)
    return Extraction(answer, "last \\boxed{}", marked=True)
