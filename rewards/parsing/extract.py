"""Extract the answer from a response. Pure Python, linear time, never raises.

Only the last `TAIL_CHARS` characters after the last `</think>` are searched: an answer tried while
thinking isn't the final one, and a bounded tail bounds the time of every later step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sapo_vl.rewards.parsing.latex import fold

TAIL_CHARS = 16_384  # the answer is at the end
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BETWEEN_BOXES = re.compile(r"[\s$]*(?:,|and|, and)[\s$]*")
BOX_MARKS = ("\\boxed", "\\fbox")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer extracted from a response, or the reason why there is none."""

    answer: str | None  # stripped of outer blanks; None when there is none
    reason: str  # which rule extracted it, or why none did
    marked: bool = False  # the response has a box or an answer tag, even if that is empty


def answer_part(response: str) -> str | None:
    """Return the tail of `response` that can contain the answer; None for an unclosed <think>."""
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
    """Return the content of the last `\\boxed{}` after thinking; an unclosed one has no answer."""
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


def joined_boxes(response: str) -> str | None:
    """Return `1, 2` for `\\boxed{1}` and `\\boxed{2}` joined by commas or "and"; else None."""
    text = answer_part(response) or ""
    parts: list[str] = []
    end = -1
    for match in _BOX.finditer(text):
        closing = closing_brace(text, match.end() - 1)
        if closing < 0:
            return None
        if end < 0 or not _BETWEEN_BOXES.fullmatch(text, end, match.start()):
            parts = []
        parts.append(text[match.end() : closing].strip())
        end = closing + 1
    return ", ".join(parts) if len(parts) > 1 else None


MAX_ANSWER_CHARS = 4096  # a longer text isn't a final answer
MAX_PHRASES = 8  # bounds the time on a response that repeats "the answer is" with nothing after it
_ANSWER_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
_SPECIAL = re.compile(r"</s>|<eoa>|<eoe>|<\|[a-z_]{1,20}\|>.*", re.S)
_NEXT_TURN = re.compile(
    r"(?<=\S)\s*\n\s*(?:Human|User|Question|Hint|Problem|Instruction)\s*:.*", re.S
)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_PHRASE = re.compile(
    r"(?:\b(?:(?:answer|ans|result|solution)\b|(?:final|numeric|integer|total)(?: \w+)? value\b)"
    r"\s*(?:\([^()\n]{0,40}\)\s*)?"
    r"(?:(?:is|are|was|would be|will be|should be|equals)\b|=|:|(?=\$|\\\(|\\\[))\s*"
    r"(?::|\bequal to\b)?"
    r"|\bfinal answer\b[^\n:$]{0,40}[:\n]"
    r"|^\s*\**A(?:ns)?\**\s*:|(?:答案|结果)\s*】?\s*(?:是|为|選|选)?\s*[:]?)\s*",
    re.IGNORECASE | re.MULTILINE,
)
_STATED = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|equal to|gets?|about|approximately|roughly|exactly)\b"
    r"|[=≈:])\s*"
    r"(?:(?:about|approximately|roughly|only|exactly|around|equal to)\s+)?(?=[-+$(]*[\d.])"
)
_MATH_SPAN = re.compile(
    r"\$\$(?P<a>[^$]+)\$\$|\$(?P<b>[^$\n]+)\$(?!\d)|\\\[(?P<c>.*?)\\\]|\\\((?P<d>.*?)\\\)", re.S
)
_JOINED = re.compile(r"\s*(?:,|;|and|or|, and)\s*")
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?\$?\s?(?:\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s*/\s*\d+(?![\d/]))?(?:[eE][-+]?\d+)?\s*%?"
)
_SENTENCE_END = re.compile(r"(?<=[^\d\s])[.!?](?=\s|$)|(?<=\d)[.!?](?=\s|$)|[。！？]|\n")
_REASON = re.compile(
    r",?\s+(?:because|since|as (?:the|it|there|we)|so that|which (?:is|means|makes))\b|[，,]因为"
)
_PROSE_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}(?![\w{(])")
_MARKUP = re.compile(r"\*\*|__|^#+\s*|^\s*>\s*", re.MULTILINE)


def final_answer(response: str) -> Extraction:
    """Return the answer of a response to a question with a mathematical answer.

    The first of these that occurs decides: the last `\\boxed{}`, the last `<answer>` tag, `####`,
    the last phrase such as "the answer is", a response that is nothing but an answer, the last
    formula or the last number of the last sentence.
    """
    box = last_box(response)
    if box.answer is not None or box.marked:
        return _bounded(box)
    text = answer_part(response)
    if text is None:
        return box
    tagged = last_tag(text)
    if tagged is not None:
        return _bounded(tagged)
    text = _MARKUP.sub("", first_turn(fold(text))).strip()
    if matches := _HASHES.findall(text):
        return _bounded(Extraction(matches[-1].strip(), "after ####"))
    if stated := _from_phrase(text):
        return _bounded(stated)
    if not is_sentence(text) and "\n" not in text:
        spans = list(_MATH_SPAN.finditer(text))
        is_number = len(spans) == 1 and any(char.isdigit() for char in _inside(spans[0]))
        if is_number and _PROSE_WORD.search(_MATH_SPAN.sub("", text)):
            return _bounded(Extraction(_inside(spans[0]), "the only formula"))
        return _bounded(Extraction(text, "the whole response")) if text else box
    return _bounded(_from_end(text))


def first_turn(text: str) -> str:
    """Cut the text at an end token, or where the model goes on with the user's next turn."""
    text = _SPECIAL.sub(lambda match: "\n" if "\n" in match[0] else " ", text)
    return _NEXT_TURN.sub("", text.strip())


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


def is_sentence(text: str) -> bool:
    """Whether a text has words around its answer (formulas and `\\text{}` don't count)."""
    plain = re.sub(r"\\text\s*\{[^{}]*\}|\$[^$]*\$|\\[a-zA-Z]+", " ", text)
    return len(_PROSE_WORD.findall(plain)) >= 3 or any("\u4e00" <= c <= "\u9fff" for c in plain)


def _bounded(extraction: Extraction) -> Extraction:
    if extraction.answer is not None and len(extraction.answer) > MAX_ANSWER_CHARS:
        return Extraction(None, f"the answer is longer than {MAX_ANSWER_CHARS} characters", True)
    return extraction


def _from_phrase(text: str) -> Extraction | None:
    """Extract the value after the last "the answer is" that has one."""
    for match in list(_PHRASE.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        rest = text[match.end() :].lstrip(" :*\n")
        if not rest:
            continue
        value = _first_value(_one_sentence(rest))
        if value:
            return Extraction(value, f"after {' '.join(match[0].split())[:40]!r}")
    return None


def _one_sentence(text: str) -> str:
    """Cut at the end of the sentence or at "because"; a formula at the start is kept whole."""
    formula = _MATH_SPAN.match(text)
    start = formula.end() if formula else 0
    rest = text[start:]
    ends = [match.start() for match in (_SENTENCE_END.search(rest), _REASON.search(rest)) if match]
    return text[: start + min(ends)] if ends else text


def _first_value(text: str) -> str:
    """Return the formulas at the start, a short answer as it is, or the stated number."""
    text = text.strip()
    spans = list(_MATH_SPAN.finditer(text))
    if spans and (spans[0].start() == 0 or not _NUMBER.search(text[: spans[0].start()])):
        after = _STATED.search(text, spans[-1].end())
        if spans[0].start() > 0 and after and _NUMBER.match(text, after.end()):
            return _stated_number(text[spans[-1].end() :]) or ""
        end = 0
        while end + 1 < len(spans) and _JOINED.fullmatch(
            text[spans[end].end() : spans[end + 1].start()]
        ):
            end += 1
        return ", ".join(_inside(span) for span in spans[: end + 1])
    if not is_sentence(text):
        return text
    return _stated_number(text) or ""


def _stated_number(sentence: str) -> str | None:
    """Return the last number after a verb ("... is 5"), else the first number."""
    stated = [m for m in _STATED.finditer(sentence) if _NUMBER.match(sentence, m.end())]
    number = _NUMBER.match(sentence, stated[-1].end()) if stated else _NUMBER.search(sentence)
    return number[0].strip() if number else None


def _inside(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()


def _from_end(text: str) -> Extraction:
    """Return the last formula, or the stated number of the last sentence with a number."""
    lines = [line for line in text.split("\n") if line.strip()]
    tail = "\n".join(lines[-12:])
    spans, numbers = list(_MATH_SPAN.finditer(tail)), list(_NUMBER.finditer(tail))
    if spans and (not numbers or numbers[-1].start() < spans[-1].end()):
        return Extraction(_inside(spans[-1]), "last formula")
    if numbers:
        sentence = _sentence_around(tail, numbers[-1].start())
        stated = _STATED.search(sentence) and _stated_number(sentence)
        return Extraction(stated or numbers[-1][0].strip(), "last number")
    return Extraction(None, "no answer found")


def _sentence_around(text: str, position: int) -> str:
    start = max((m.end() for m in _SENTENCE_END.finditer(text, 0, position)), default=0)
    end = _SENTENCE_END.search(text, position)
    return text[start : end.start() if end else len(text)]


def final_phrase(text: str) -> str | None:
    """Return the words after the last "the answer is", up to the end of the sentence."""
    for match in list(_PHRASE.finditer(text))[: -MAX_PHRASES - 1 : -1]:
        rest = _one_sentence(text[match.end() :].lstrip(" :*\n")).strip(" *$\"'")
        if rest:
            return rest
    return None
