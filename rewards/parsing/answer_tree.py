"""Take an answer apart: numbers, lists, tuples, intervals, sets, equations, matrices, words.

`parse(text)` turns a cleaned text (see latex.py) into a small tree. It never raises: what it does
not know stays a `Leaf`, which equality.py hands to arithmetic or to sympy.

    parse("(1, 2)")       Group((Leaf("1"), Leaf("2")), "(", ")")
    parse("1 < x")        Relation(("1", "x"), ("<",))
    parse("3 \\pm 1")      Group((Leaf("3 + 1"), Leaf("3 - 1")))
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ITEMS = 256  # of a list; a longer one is compared as text only
MAX_NESTING = 12

Verdict3 = bool | None
"""True, False, or None for undecided."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One expression, unparsed."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words: compared as folded text."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several values between brackets; `opening` is "" for a bare list, "\\{" for a set."""

    items: tuple[Value, ...]
    opening: str = ""
    closing: str = ""

    @property
    def is_ordered(self) -> bool:
        return self.opening in ("(", "[")


@dataclass(frozen=True, slots=True)
class Relation:
    """`a < b < c` or `x = 5`: one more side than there are operators."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of leaves; all matrix environments alike, determinants excepted."""

    rows: tuple[tuple[Leaf, ...], ...]


Value = Leaf | Words | Group | Relation | Matrix

_OPENING, _CLOSING = "([{", ")]}"
_RELATION = re.compile(r"(\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>|==?)")
_CONNECTIVE = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}\s*|(?<=[)\d}])(?:and|or)(?=[({\\\d-])|,?\s+(?:and|or)\s+|\s*\\(?:quad|land|lor|wedge|vee)(?![a-z])\s*"
)
_QUANTIFIER = re.compile(
    r",?\s*(?:\\text\s*\{\s*)?(?:for (?:all|every|any|each)|where|with)\b.*?"
    r"(?=,\s*\\text\s*\{\s*(?:and|or)|,?\s+(?:and|or)\s|$)"
)
_DOMAIN = re.compile(
    r"(?:,|\(|\s)\s*\(?\s*(?<![a-zA-Z\\])[a-z](?:\s*,\s*[a-z])*\s*\\in\s*"
    r"\\mathbb\s*\{?[ZNQC]\}?(?:[\^_]\{?[+*]\}?)?\s*\)?\s*$"
)
_MEMBER = re.compile(r"\s*[A-Za-z](?:_\{?\w+\}?)?\s*\\in(?![a-z])\s*(.+)", re.S)
_BUILDER = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\in(?![a-z])[^|:]*)?[|:](.*)\\\}", re.S)
_MATRIX = re.compile(
    r"\\begin\s*\{((?:small)?[pbB]?matrix|cases|array|aligned)\}(?:\{[lcr|]*\})?((?:(?!\\end).)*)\\end\s*\{\1\}",
    re.S,
)
_LABEL = re.compile(r"(?:\\text\s*\{)?\s*[A-Za-z][A-Za-z ]{2,30}\s*:\s*\}?\s*(.*\d.*)", re.S)
_PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*", re.U)
_TEXT_ONLY = re.compile(r"\{?\\text\s*\{([^{}]*)\}\}?")
_NAME_NOISE = re.compile(
    r"_\s*(?:\{[^{}]*\}|\w)|\\text\s*\{[^{}]*\}|'|\\(?:angle|triangle|overline|vec)"
)
_NAME = re.compile(r"\s*(?:\\[a-z]+|[A-Za-z]+|\|[A-Z]+\|)(?:\s*\([A-Za-z, ]*\))?\s*")
_NAMES = re.compile(
    r"\s*\(?\s*[A-Za-z](?:\([a-z]\))?(?:\s*[,:]\s*[A-Za-z](?:\([a-z]\))?)*\s*\)?\s*"
)
_NOT_NAMES = (
    "\\frac",
    "\\sqrt",
    "\\sin",
    "\\cos",
    "\\tan",
    "\\ln",
    "\\log",
    "\\pm",
    "\\pi",
    "\\infty",
)
_TIGHT_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def parse(text: str, nesting: int = 0) -> Value:
    """Take a cleaned text apart. Never raises; what it does not know stays a Leaf."""
    text = text.strip()
    if nesting > MAX_NESTING:
        return Leaf(text)
    while _wrapped(text, "{", "}"):
        text = text[1:-1].strip()
    if words := as_words(text):
        return Words(words)
    if match := _MATRIX.fullmatch(text):
        return _matrix(match[1], match[2], nesting)
    text = _DOMAIN.sub("", _QUANTIFIER.sub("", text))
    text = _CONNECTIVE.sub(";" if _joins_assignments(text) else ",", text)
    if match := _BUILDER.fullmatch(text):
        return parse(match[1], nesting + 1)
    for separator in (";", ","):
        parts = split_top(_group_digits(text) if separator == "," else text, separator)
        if len(parts) > 1:
            return _listing(parts, nesting)
    if match := _MEMBER.fullmatch(text):
        return parse(match[1], nesting + 1)
    if match := _LABEL.fullmatch(text):
        return parse(match[1], nesting + 1)
    text = _before_approx(text)
    sides = split_relation(text)
    if sides is not None:
        return sides
    parts = split_top(text, "\\cup")
    if len(parts) > 1:
        return Group(tuple(parse(part, nesting + 1) for part in parts))
    return _bracketed(text, nesting)


def _joins_assignments(text: str) -> bool:
    """`p = 5, q = 2 and p = 7, q = 2`: the "and" separates more than the commas."""
    parts = _CONNECTIVE.split(text)
    return len(parts) > 1 and all("," in part and "=" in part for part in parts)


def as_words(text: str) -> str:
    """Return the folded words when `text` is words and nothing else, otherwise ''."""
    if match := _TEXT_ONLY.fullmatch(text):
        inside = match[1].strip()
        if any(c.isdigit() for c in inside) or not any(c.isalpha() for c in inside):
            return ""
        return fold_words(inside)
    if "\\" in text or not _PLAIN_WORDS.fullmatch(text):
        return ""
    return fold_words(text) if any(len(w) > 2 or not w.isascii() for w in text.split()) else ""


def fold_words(text: str) -> str:
    """Return words in lower case with single blanks, without outer punctuation."""
    return " ".join(text.casefold().split()).strip(" .,;:!?'\"*()")


def split_top(text: str, separator: str) -> list[str]:
    """Split where no bracket of any kind is open."""
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
        elif text[i] in _OPENING:
            depth += 1
        elif text[i] in _CLOSING:
            depth = max(0, depth - 1)
        i += 2 if text[i] == "\\" and text[i + 1 : i + 2] in ("\\", "|") else 1
    parts.append(text[start:])
    return [part.strip() for part in parts]


def split_relation(text: str) -> Relation | None:
    """Return the chain of relations at the top level, or None."""
    if not _RELATION.search(text):
        return None
    marked = _RELATION.sub("\0\\1\0", text)
    pieces = split_top(marked, "\0")
    if len(pieces) < 3:
        return None
    return Relation(tuple(p.strip() for p in pieces[::2]), tuple(p.strip() for p in pieces[1::2]))


def is_name(text: str) -> bool:
    """Whether a left side is a name (`x`, `a_n`, `f(x)`, `(p,q)`, `V_1:V_2`), not an expression."""
    if any(command in text for command in _NOT_NAMES):
        return False
    bare = _NAME_NOISE.sub("", text)
    if not bare.strip():
        return bool(text.strip())
    return bool(_NAME.fullmatch(bare) or _NAMES.fullmatch(bare))


def _wrapped(text: str, opening: str, closing: str) -> bool:
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
        if text[i] in _OPENING:
            depth += 1
        elif text[i] in _CLOSING:
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
        i += 1
    return False


def _group_digits(text: str) -> str:
    """Take thousands separators out where the commas cannot be a list's."""
    if ", " in text or re.fullmatch(r"[+-]?\s*\d{1,3}(?:,\d{3})+(?:\.\d*)?\D*", text):
        return _TIGHT_THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _before_approx(text: str) -> str:
    head, sign, tail = text.partition("\\approx")
    return (head.strip() or tail.strip()) if sign else text


def _listing(parts: Sequence[str], nesting: int) -> Value:
    parts = [part for part in parts if part.strip(" \\")]
    if len(parts) == 1:
        return parse(parts[0], nesting + 1)
    if len(parts) > MAX_ITEMS:
        return Leaf(",".join(parts))
    items: list[Value] = []
    for part in parts:
        item = parse(part, nesting + 1)
        items.extend(_both_signs(item))
    return Group(tuple(items))


def _bracketed(text: str, nesting: int) -> Value:
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not (text.startswith(opening) and text.endswith(closing)):
            continue
        inside = text[len(opening) : -len(closing)]
        if not _is_balanced(inside):
            continue
        for separator in (";", ","):
            parts = split_top(inside, separator)
            if len(parts) > 1 and len(parts) <= MAX_ITEMS and all(parts):
                items = tuple(parse(part, nesting + 1) for part in parts)
                return _signed_tuples(Group(items, opening, closing))
        if opening == "\\{":
            return Group((parse(inside, nesting + 1),) if inside.strip() else (), "\\{", "\\}")
        if inside.strip():
            return parse(inside, nesting + 1)
    if text == "\\emptyset":
        return Group((), "\\{", "\\}")
    signs = _both_signs(Leaf(text))
    return signs[0] if len(signs) == 1 else Group(tuple(signs))


def _is_balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def _both_signs(value: Value) -> list[Value]:
    if (
        isinstance(value, Group)
        and not value.opening
        and all(isinstance(i, Leaf) for i in value.items)
    ):
        return list(value.items)
    if not isinstance(value, Leaf) or ("\\pm" not in value.text and "\\mp" not in value.text):
        return [value]
    plus = value.text.replace("\\pm", "+").replace("\\mp", "-")
    minus = value.text.replace("\\pm", "-").replace("\\mp", "+")
    return [Leaf(plus.strip().removeprefix("+").strip()), Leaf(minus.strip())]


def _signed_tuples(group: Group) -> Value:
    """A tuple with `\\pm` in its entries stands for all the tuples with every choice of signs."""
    if group.opening == "\\{":
        return Group(tuple(i for item in group.items for i in _spread(item)), "\\{", "\\}")
    choices = [_spread(item) for item in group.items]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count == 1 or count > 64:
        return group
    return Group(
        tuple(Group(items, group.opening, group.closing) for items in itertools.product(*choices))
    )


def _spread(item: Value) -> list[Value]:
    if isinstance(item, Group) and not item.opening:
        return list(item.items)
    return _both_signs(item)


def _matrix(kind: str, body: str, nesting: int) -> Value:
    rows = [row for row in body.split("\\\\") if row.strip()]
    if kind in ("cases", "aligned"):
        return Group(tuple(parse(row.replace("&", ""), nesting + 1) for row in rows), "\\{", "\\}")
    cells = tuple(tuple(Leaf(cell.strip()) for cell in row.split("&")) for row in rows)
    return Matrix(cells)
