"""Extract the answer from a response. Pure Python, linear time, never raises.

Only the last `TAIL_CHARS` characters after the last `</think>` are searched: an answer tried while
thinking isn't the final one, and a bounded tail bounds the time of every later step. A response is
the whole text of the turn: where the chat template opens a thought, it begins with `<think>`, so
that a thought that never ends has no answer. statements.py reads values out of sentences.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapo_vl.rewards.parsing import statements
from sapo_vl.rewards.parsing.latex import fold, mend_escapes

TAIL_CHARS = 16_384  # the answer is at the end
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
BOX_MARKS = ("\\boxed", "\\fbox")
MAX_ANSWER_CHARS = 4096  # a longer text isn't a final answer
_BOX = re.compile(r"\\(?:boxed|fbox)\s*+\{")
_BETWEEN_BOXES = re.compile(r"[\s$]*+(?:, and|,|and)[\s$]*+")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_UNBRACED = re.compile(
    r"[-+]?(?:\d+(?:[.,]\d+)*|\.\d+)%?|[A-Za-z](?![A-Za-z])|\\[a-zA-Z]+(?:\s?\{[^{}]{0,200}\}){1,2}"
)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer extracted from a response, or the reason why there is none."""

    answer: str | None  # stripped of outer blanks; None when there is none
    reason: str  # which rule extracted it, or why none did
    marked: bool = False  # the response has a box or an answer tag, even if that is empty


def after_thinking(response: str) -> str | None:
    """Return what follows the last `</think>` of a response, None while a `<think>` is open."""
    close = response.rfind(THINK_CLOSE)
    start = 0 if close < 0 else close + len(THINK_CLOSE)
    return None if response.find(THINK_OPEN, start) >= 0 else response[start:]


def answer_part(response: str) -> str | None:
    """Return the tail of `response` that can contain the answer; None for an unclosed <think>.

    Commands whose backslash an escape sequence has eaten (`\\b` of `\\boxed`) are mended.
    """
    visible = after_thinking(response)
    return None if visible is None else mend_escapes(visible[-TAIL_CHARS:])


def closing_brace(text: str, opening: int) -> int:
    """Return the index of the `}` that closes the `{` at `opening`, or -1. `\\{` does not count."""
    depth = 0
    for match in _BRACE.finditer(text, opening):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def brace_pairs(text: str) -> dict[int, int]:
    """Return the index of each `{` with that of its `}`, in one pass; unclosed ones are absent."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs


def last_box(response: str) -> Extraction:
    """Return the content of the last `\\boxed{}` after thinking; an unclosed one has no answer.

    Without braces, a box holds the number, the single letter or the command that follows.
    """
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
        token = _UNBRACED.match(text, opening)
        if token is None:
            return Extraction(None, "the last \\boxed has no braces", marked=True)
        return Extraction(token[0], "last \\boxed{}", marked=True)
    closing = closing_brace(text, opening)
    if closing < 0:
        return Extraction(None, "the last \\boxed{ is never closed", marked=True)
    answer = text[opening + 1 : closing].strip()
    if not answer:
        return Extraction(None, "the last \\boxed{} is empty", marked=True)
    return Extraction(answer, "last \\boxed{}", marked=True)


def joined_boxes(response: str) -> str | None:
    """Return `1, 2` for `\\boxed{1}` and `\\boxed{2}` joined by commas or "and"; else None."""
    text = answer_part(response) or ""
    boxes = list(_BOX.finditer(text))
    if len(boxes) < 2:
        return None
    closings = brace_pairs(text)
    parts: list[str] = []
    end = -1
    for match in boxes:
        closing = closings.get(match.end() - 1)
        if closing is None:
            return None
        if end < 0 or not _BETWEEN_BOXES.fullmatch(text, end, match.start()):
            parts = []
        parts.append(text[match.end() : closing].strip())
        end = closing + 1
    return ", ".join(parts) if len(parts) > 1 else None


_ANSWER_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_SPECIAL = re.compile(r"</s>|<eoa>|<eoe>|<\|[a-z_]{1,20}\|>.*", re.S)
_NEXT_TURN = re.compile(
    r"(?<=\S)[ ]?\n[ ]?(?:Human|User|Question|Hint|Problem|Instruction)[ ]?:.*", re.S
)
_BLANK_RUN = re.compile(r"[ \t]{2,}|[ \t]*+\n\s*+")
_HASHES = re.compile(r"####[ \t]*+([^\n]+)")
_MARKUP = re.compile(r"\*\*|__|`+(?:json|text|latex|math|python)?(?=\s)|`+|^#+\s*+|^>\s*+", re.M)


def final_answer(response: str) -> Extraction:
    """Return the answer of a response to a question with a mathematical answer.

    The first of these that occurs decides: the last `\\boxed{}`, the last `<answer>` tag, a JSON
    object with an answer, `####`, the last phrase such as "the answer is", a response that is
    nothing but an answer, the last formula or the last number of the last sentence.
    """
    box = last_box(response)
    if box.answer is not None or box.marked:
        return _value(box)
    text = answer_part(response)
    if text is None:
        return box
    tagged = last_tag(text)
    if tagged is not None:
        return _value(tagged)
    text = first_turn(fold(text))
    if (value := statements.json_value(text)) is not None:
        return _bounded(Extraction(value, "the answer of a JSON object"))
    text = _MARKUP.sub("", text).strip()
    if matches := _HASHES.findall(text):
        return _bounded(Extraction(matches[-1].strip(), "after ####"))
    if stated := statements.after_phrase(text):
        return _bounded(Extraction(*stated))
    if not text:
        return box
    if not statements.is_sentence(text) and "\n" not in text:
        return _bounded(Extraction(*statements.whole_response(text)))
    return _bounded(Extraction(*statements.at_the_end(text)))


def calm(text: str) -> str:
    """Return `text` with every run of blanks as one blank, and of line breaks as one line break.

    No pattern behind it meets a long run of blanks, which would cost quadratic time.
    """
    return _BLANK_RUN.sub(lambda match: "\n" if "\n" in match[0] else " ", text)


def first_turn(text: str) -> str:
    """Cut the text at an end token, or where the model goes on with the user's next turn.

    Runs of blanks are reduced (`calm`). Only the end is kept of a text that `fold` made longer.
    """
    text = text[-TAIL_CHARS:]
    text = _SPECIAL.sub(lambda match: "\n" if "\n" in match[0] else " ", text)
    return _NEXT_TURN.sub("", calm(text.strip()))


def last_tag(text: str) -> Extraction | None:
    """Return the content of the last `<answer>` tag; None when there is no tag."""
    opens = [match.end() for match in _ANSWER_OPEN.finditer(text)]
    if not opens:
        return None
    close = _ANSWER_CLOSE.search(text, opens[-1])
    if close is None:
        return Extraction(None, "the last <answer> is never closed", marked=True)
    answer = text[opens[-1] : close.start()].strip()
    if not answer:
        return Extraction(None, "the last <answer> is empty", marked=True)
    return Extraction(answer, "last <answer>", marked=True)


def final_phrase(text: str) -> str | None:
    """Return the words after the last "the answer is", up to the end of the sentence."""
    return statements.words_after_phrase(calm(text))


def _value(marked: Extraction) -> Extraction:
    """Return the value of a marked answer, which may stand in a short sentence."""
    marked = _bounded(marked)
    if marked.answer is None:
        return marked
    return Extraction(statements.stated_value(marked.answer), marked.reason, marked.marked)


def _bounded(extraction: Extraction) -> Extraction:
    if extraction.answer is not None and len(extraction.answer) > MAX_ANSWER_CHARS:
        return Extraction(None, f"the answer is longer than {MAX_ANSWER_CHARS} characters", True)
    return extraction
