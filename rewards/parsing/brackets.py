"""Scanning of brackets in a cleaned text: each function makes one pass."""

from __future__ import annotations

OPENING, CLOSING = "([{", ")]}"
MAX_DEPTH = 40  # a text with brackets nested deeper is left to no one: no verdict


def split_top(text: str, separator: str) -> list[str]:
    """Split at the separators outside all brackets and environments; the parts are stripped."""
    if separator not in text:
        return [text]
    parts, depth, start, i, n = [], 0, 0, 0, len(separator)
    while i < len(text):
        if depth == 0 and text.startswith(separator, i):
            parts.append(text[start:i])
            i += n
            start = i
            continue
        if text.startswith("\\begin", i):
            depth += 1
        elif text.startswith("\\end", i):
            depth -= 1
        elif text[i] in OPENING:
            depth += 1
        elif text[i] in CLOSING:
            depth = max(0, depth - 1)
        i += 2 if text[i] == "\\" and text[i + 1 : i + 2] in ("\\", "|") else 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def is_wrapped(text: str, opening: str, closing: str) -> bool:
    """Whether the first bracket of `text` is closed by its last character."""
    if not text.startswith(opening) or not text.endswith(closing) or len(text) < 2:
        return False
    if text.endswith("\\}") and closing == "}":
        return False
    depth, i = 0, 0
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in ("{", "}", "\\"):
            i += 2
            continue
        if text[i] in OPENING:
            depth += 1
        elif text[i] in CLOSING:
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
        i += 1
    return False


def unwrapped(text: str) -> str:
    """Return the text without the braces around the whole of it."""
    text = text.strip()
    matching = _matching_braces(text)
    start, end = 0, len(text)
    while start < end and matching.get(start) == end - 1:
        start, end = start + 1, end - 1
        while start < end and text[start] == " ":
            start += 1
        while start < end and text[end - 1] == " ":
            end -= 1
    return text[start:end]


def _matching_braces(text: str) -> dict[int, int]:
    """Return the index of the closing brace per opening brace; escaped braces don't count."""
    if not (text.startswith("{") and text.endswith("}")):
        return {}
    matching, stack, i = {}, [], 0
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if text[i] == "{":
            stack.append(i)
        elif text[i] == "}" and stack:
            matching[stack.pop()] = i
        i += 1
    return matching


def is_balanced(text: str) -> bool:
    """Whether every bracket is closed, whatever its kind: `[0, 1)` is balanced."""
    depth = 0
    for char in text:
        depth += (char in OPENING) - (char in CLOSING)
        if depth < 0:
            return False
    return depth == 0


def is_too_deep(text: str) -> bool:
    """Whether brackets are nested deeper than `MAX_DEPTH`."""
    if sum(map(text.count, OPENING)) <= MAX_DEPTH:
        return False
    depth = 0
    for char in text:
        depth += (char in OPENING) - (char in CLOSING)
        if depth > MAX_DEPTH:
            return True
    return False
