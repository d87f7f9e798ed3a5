"""Parse an answer into a tree of lists, tuples, intervals, sets, relations, matrices, words.

`parse(text)` takes a cleaned text (see latex.py) and never raises: an expression that it doesn't
recognise stays a `Leaf`, which equality.py passes to arithmetic or to sympy.

    parse("(1, 2)")       Group((Leaf("1"), Leaf("2")), "(", ")")
    parse("1 < x")        Relation(("1", "x"), ("<",))
    parse("3 \\pm 1")      Group((Leaf("3 + 1"), Leaf("3 - 1")))
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sapo_vl.rewards.parsing import units

MAX_ITEMS = 256  # a longer list is compared as text only
MAX_NESTING = 12

Tristate = bool | None
"""True, False, or None: undecided."""


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
    """`a < b < c` or `x = 5`: n sides, n - 1 operators."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of leaves, from any matrix environment except a determinant."""

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
    """Parse a cleaned text. Never raises; an unrecognised expression becomes a Leaf."""
    text = text.strip()
    if nesting > MAX_NESTING:
        return Leaf(text)
    while _wrapped(text, "{", "}"):
        text = text[1:-1].strip()
    text = units.in_digits(text) or units.compound(text) or text
    if words := as_words(text):
        return Words(words)
    if match := _MATRIX.fullmatch(text):
        return _parse_matrix(match[1], match[2], nesting)
    text = _DOMAIN.sub("", _QUANTIFIER.sub("", text))
    text = _CONNECTIVE.sub(";" if _joins_assignments(text) else ",", text)
    if match := _BUILDER.fullmatch(text):
        return parse(match[1], nesting + 1)
    for separator in (";", ","):
        parts = split_top(_group_digits(text) if separator == "," else text, separator)
        if len(parts) > 1:
            return _parse_list(parts, nesting)
    if match := _MEMBER.fullmatch(text):
        return parse(match[1], nesting + 1)
    if match := _LABEL.fullmatch(text):
        return parse(match[1], nesting + 1)
    exact, sign, approximation = text.partition("\\approx")
    if sign:
        text = exact.strip() or approximation.strip()
    relation = split_relation(text)
    if relation is not None:
        return relation
    parts = split_top(text, "\\cup")
    if len(parts) > 1:
        return Group(tuple(parse(part, nesting + 1) for part in parts))
    return _parse_brackets(text, nesting)


def _joins_assignments(text: str) -> bool:
    """Whether "and" separates lists: `p = 5, q = 2 and p = 7, q = 2`."""
    parts = _CONNECTIVE.split(text)
    return len(parts) > 1 and all("," in part and "=" in part for part in parts)


def as_words(text: str) -> str:
    """Return the case-folded words when `text` is words and nothing else, otherwise ''."""
    if match := _TEXT_ONLY.fullmatch(text):
        content = match[1].strip()
        if any(c.isdigit() for c in content) or not any(c.isalpha() for c in content):
            return ""
        return fold_words(content)
    if "\\" in text or not _PLAIN_WORDS.fullmatch(text):
        return ""
    return fold_words(text) if any(len(w) > 2 or not w.isascii() for w in text.split()) else ""


def fold_words(text: str) -> str:
    """Return words in lower case with single blanks, without outer punctuation."""
    return " ".join(text.casefold().split()).strip(" .,;:!?'\"*()")


def split_top(text: str, separator: str) -> list[str]:
    """Split at the separators outside all brackets and environments."""
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
    parts = [part.strip() for part in split_top(_RELATION.sub("\0\\1\0", text), "\0")]
    return Relation(tuple(parts[::2]), tuple(parts[1::2])) if len(parts) >= 3 else None


def is_name(text: str) -> bool:
    """Whether a side is a name (`x`, `a_n`, `f(x)`, `(p,q)`, `V_1:V_2`) and not an expression."""
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
    """Remove thousands separators where the commas can't separate list items."""
    if ", " in text or re.fullmatch(r"[+-]?\s*\d{1,3}(?:,\d{3})+(?:\.\d*)?\D*", text):
        return _TIGHT_THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _parse_list(parts: Sequence[str], nesting: int) -> Value:
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


def _parse_brackets(text: str, nesting: int) -> Value:
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not (text.startswith(opening) and text.endswith(closing)):
            continue
        content = text[len(opening) : -len(closing)]
        if not _is_balanced(content):
            continue
        for separator in (";", ","):
            parts = split_top(content, separator)
            if len(parts) > 1 and len(parts) <= MAX_ITEMS and all(parts):
                items = tuple(parse(part, nesting + 1) for part in parts)
                return _expand_signs(Group(items, opening, closing))
        if opening == "\\{":
            return Group((parse(content, nesting + 1),) if content.strip() else (), "\\{", "\\}")
        if content.strip():
            return parse(content, nesting + 1)
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
    """Return the two values of a leaf with `\\pm`; the items of a bare list; else the value."""
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


def _expand_signs(group: Group) -> Value:
    """Expand a tuple with `\\pm` in its entries to the tuples with every combination of signs."""
    if group.opening == "\\{":
        return Group(tuple(i for item in group.items for i in _alternatives(item)), "\\{", "\\}")
    choices = [_alternatives(item) for item in group.items]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count == 1 or count > 64:
        return group
    return Group(
        tuple(Group(items, group.opening, group.closing) for items in itertools.product(*choices))
    )


def _alternatives(item: Value) -> list[Value]:
    if isinstance(item, Group) and not item.opening:
        return list(item.items)
    return _both_signs(item)


def _parse_matrix(kind: str, body: str, nesting: int) -> Value:
    rows = [row for row in body.split("\\\\") if row.strip()]
    if kind in ("cases", "aligned"):
        return Group(tuple(parse(row.replace("&", ""), nesting + 1) for row in rows), "\\{", "\\}")
    cells = tuple(tuple(Leaf(cell.strip()) for cell in row.split("&")) for row in rows)
    return Matrix(cells)
