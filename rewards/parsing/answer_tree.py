r"""Parse an answer into a tree of typed values (answer_values.py).

`parse(text)` takes a cleaned text (latex.py) and never raises: an expression without a structure
stays a `Leaf`, which equality.py passes to arithmetic or to computer algebra. The grammar decides,
not the letters: words are read by phrases.py, pairs by pairs.py, points by geometry.py.

    parse("(1, 2)")       Group((Leaf("1"), Leaf("2")), "(", ")")
    parse("x = 1 or 2")   Group((Relation(("x", "1"), ("=",)), Leaf("2")), joint="or")
    parse("3 \\pm 1")      Group((Leaf("3 + 1"), Leaf("3 - 1")))
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.answer_values import (
    AND,
    OR,
    Alternatives,
    Approximation,
    Group,
    Leaf,
    Matrix,
    Named,
    Value,
    Words,
)
from sapo_vl.rewards.parsing.brackets import is_balanced, is_wrapped, split_top, unwrapped
from sapo_vl.rewards.parsing.geometry import parse_figure, parse_statement
from sapo_vl.rewards.parsing.pairs import parse_between, parse_date, parse_pair, parse_time
from sapo_vl.rewards.parsing.phrases import as_words, symbols
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.rewards.parsing.relations import (
    base_name,
    canonical_name,
    is_assignment,
    is_name,
    name_first,
    split_relation,
)

MAX_ITEMS = 256  # a longer list is compared as text only
MAX_NESTING = 12

_PLAIN_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_TEXT_ONLY = re.compile(r"\\text\s*\{([^{}]*)\}")
_REALS = "(-\\infty ,\\infty )"
_REALS_WITHOUT = re.compile(r"\(-\\infty ,\\infty \)\s*-\s*(\\?\{.*\})")
_QUANTIFIED = ("for ", "where", "with ")
_QUANTIFIER = re.compile(
    r",?\s*(?:\\text\s*\{\s*)?(?:for (?:all|every|any|each|some)|where|with)\b.*?"
    r"(?=,\s*\\text\s*\{\s*(?:and|or)|,?\s+(?:and|or)\s|$)"
)
_DOMAIN = re.compile(
    r"(?:,|\(|\s)\s*\(?\s*(?<![a-zA-Z\\])[a-z](?:\s*,\s*[a-z])*\s*\\in\s*"
    r"(?P<set>\\mathbb\s*\{?[ZNQC]\}?(?:[\^_]\s*\{?[+*]\}?)?|[ZNQC](?:[\^_]?\s*\{?[+*]\}?)?)\s*\)?\s*$"
)
_INTEGERS = re.compile(
    r"[a-z](?:\s*,\s*[a-z])*\s+(?:is|are|be)\s+(?:an?\s+|any\s+)?"
    r"(?P<kind>positive |nonnegative |non-negative |natural )?(?:integers?|numbers?)"
    r"|[a-z]\s*\\in\s*(?P<set>\\mathbb\s*\{?[ZNQC]\}?(?:[\^_]\s*\{?[+*]\}?)?)"
    r"|(?P<bare>positive |nonnegative )?integers? [a-z]"
)
_MEMBER = re.compile(r"\s*[A-Za-z](?:_\{?\w+\}?)?\s*\\in(?![a-z])\s*(.+)", re.S)
_BUILDER = re.compile(r"\\\{\s*[A-Za-z]\s*(?:\\in(?![a-z])[^|:]*)?[|:](.*)\\\}", re.S)
_MATRIX = re.compile(
    r"\\begin\s*\{((?:small)?[pbB]?matrix|cases|array|aligned)\}\s*(?:\{[lcr|@ ]*\})?"
    r"((?:(?!\\end).)*)\\end\s*\{\1\}",
    re.S,
)
_LABEL = re.compile(
    r"(?:\\text\s*\{)?\s*([A-Za-z][a-z][A-Za-z ]{1,30}?)\s*:\s*\}?\s*(.*\d.*)", re.S
)
_NAMED_TUPLE = re.compile(r"([A-Z]'*(?:_\{?\w\}?)?)\s*(\(.*\))", re.S)
_OR_INSIDE = re.compile(rf"(.+?)\s*\(\s*(?:{OR}|=|\\approx)\s*(.+)\)", re.S)
_TWICE = re.compile(r"(-?[\d.,/]+)\s+\(([^()]+)\)")
_TIGHT_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_ONE_GROUPED = re.compile(r"[+-]?\s*\d{1,3}(?:,\d{3})+(?:\.\d*)?(?:[^\d,][^,]*)?")
_RANGE_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+\s*-\s*\d{1,3}(?:,\d{3})+\D*")
_FIGURE_IN_WORDS = re.compile(r"[a-z ]{3,13} [A-Z]{1,8}$")
_NEXT_NAME = re.compile(r"(?<=[\d)}]) +(?=[a-zA-Z](?:_\{?\w\}?)?\s*=)")  # `x = 1 y = 2`
_SPOKEN = re.compile(r"past|o'|noon|night|quarter|half| to |[a-z]{3}", re.IGNORECASE)
_CONSTANTS = ("e", "i", "\\pi")


@lru_cache(maxsize=16384)
def parse(text: str, nesting: int = 0) -> Value:
    """Parse a cleaned text. Never raises; an unrecognised expression becomes a Leaf."""
    text = text.strip()
    if _PLAIN_NUMBER.fullmatch(text) or nesting > MAX_NESTING:
        return Leaf(text)
    if text == "{}":
        return Group((), "\\{", "\\}")
    text = unwrapped(text)
    if _FIGURE_IN_WORDS.match(text) and (figure := parse_figure(text)):
        return figure
    text = units.in_digits(text) or units.compound(text) or text
    if words := as_words(text):
        return (parse_time(text) if _SPOKEN.search(text) else None) or Words(words)
    if (match := _TEXT_ONLY.fullmatch(text)) and any(map(str.isdigit, match[1])):
        return parse(match[1], nesting + 1)
    if text.startswith("\\{") and not is_balanced(text) and is_balanced(text[2:]):
        text = text[2:].strip()  # the open brace of a system of equations
    if "\\begin" in text and (match := _MATRIX.fullmatch(text)):
        return _parse_matrix(match[1], match[2], nesting)
    if any(map(str.isalpha, text)) and (found := parse_date(text) or parse_between(text)):
        return found
    text = symbols(without_domain(text)[0])
    if match := _BUILDER.fullmatch(text):
        return parse(match[1], nesting + 1)
    text = _NEXT_NAME.sub(", ", text)
    return _parse_alternatives(text, nesting) or _parse_list(text, nesting)


def without_domain(text: str) -> tuple[str, str]:
    r"""Split off what a parameter ranges over: `k\pi, k \in \mathbb{Z}` has the domain "Z".

    Positive integers are "N+"; the domain is "" where none is named.
    """
    domain = ""
    if any(word in text for word in _QUANTIFIED) and (match := _QUANTIFIER.search(text)):
        domain = _domain_in(match[0])
        text = _QUANTIFIER.sub("", text)
    if "\\in" in text and (match := _DOMAIN.search(text)):
        return text[: match.start()], _domain(match["set"])
    return text, domain


def _domain_in(quantifier: str) -> str:
    match = _INTEGERS.search(quantifier)
    if match is None:
        return ""
    if match["set"]:
        return _domain(match["set"])
    kind = match["kind"] or match["bare"] or ""
    return {"positive ": "N+", "": "Z" if "integer" in match[0] else ""}.get(kind, "N")


def _domain(text: str) -> str:
    letter = next(char for char in text.replace("mathbb", "") if char.isupper())
    if any(sign in text for sign in "+*"):
        return "N+" if letter in "NZ" else f"{letter}+"
    return letter


def _parse_alternatives(text: str, nesting: int) -> Value | None:
    """Parse `0.75 (or 3/4)`, and `0.75 (3/4)` where both are the same number."""
    if not text.endswith(")"):
        return None
    match = _OR_INSIDE.fullmatch(text)
    if match and all(map(is_balanced, match.groups())):
        return Alternatives(tuple(parse(part, nesting + 1) for part in match.groups()))
    match = _TWICE.fullmatch(text)
    if match and _number(match[1]) is not None and _number(match[1]) == _number(match[2]):
        return parse(match[1], nesting + 1)
    return None


def _number(text: str) -> object:
    try:
        return to_fraction(text)
    except OverLimitError:
        return None


def _parse_list(text: str, nesting: int) -> Value:
    """Parse the outermost list, or the single value of a text without separators."""
    for separator, joint in ((OR, "or"), (AND, "and"), (";", ""), (",", "")):
        parts = split_top(_group_digits(text) if separator == "," else text, separator)
        if len(parts) > 1:
            return _items(parts, joint, nesting)
    return _parse_single(text, nesting)


def _items(parts: Sequence[str], joint: str, nesting: int) -> Value:
    parts = [part for part in parts if part.strip(" \\,")]
    if len(parts) == 1:
        return parse(parts[0].strip(" ,"), nesting + 1)
    if len(parts) > MAX_ITEMS:
        return Leaf(",".join(parts))
    items = [parse(part.strip(" ,"), nesting + 1) for part in parts]
    if not _are_systems(items):
        items = [value for item in items for value in _spread(item)]
    return Group(tuple(items), joint=joint)


def _are_systems(items: Sequence[Value]) -> bool:
    """Whether every item is itself a list of assignments: `p = 5, q = 2 and p = 7, q = 2`."""
    return all(
        isinstance(item, Group)
        and not item.opening
        and len({base_name(canonical_name(i.sides[0])) for i in item.items if is_assignment(i)})
        == len(item.items)
        > 1
        for item in items
    )


def _spread(item: Value) -> Sequence[Value]:
    """Return the items of a bare list, both values of `\\pm`, or the value alone."""
    if isinstance(item, Group) and not item.opening and item.joint in ("", "and", "or"):
        return item.items
    return _both_signs(item)


def _parse_single(text: str, nesting: int) -> Value:
    if match := _MEMBER.fullmatch(text):
        return parse(match[1], nesting + 1)
    if match := _LABEL.fullmatch(text):
        return Named(match[1].strip(), parse(match[2], nesting + 1))
    if "\\approx" in text and (found := _parse_approximation(text, nesting)):
        return found
    if relation := split_relation(text):
        return name_first(relation)
    if match := _REALS_WITHOUT.fullmatch(text):
        text = f"{_REALS}\\setminus {match[1]}"
    for operator, joint in (("\\setminus", "setminus"), ("\\cup", "cup"), ("\\cap", "cap")):
        parts = split_top(text, operator)
        if len(parts) > 1 and all(parts):
            return Group(tuple(_parse_operand(part, nesting) for part in parts), joint=joint)
    match = _NAMED_TUPLE.fullmatch(text)
    if match and is_wrapped(match[2], "(", ")") and len(split_top(match[2][1:-1], ",")) > 1:
        return Named(match[1], parse(match[2], nesting + 1))
    return (
        parse_figure(text)
        or parse_statement(text)
        or parse_pair(text)
        or _parse_brackets(text, nesting)
    )


def _parse_operand(text: str, nesting: int) -> Value:
    """Parse an operand of a union; unescaped braces are a set: `{1,2} \\cup [0,3]`."""
    if text.startswith("{") and is_wrapped(text, "{", "}"):
        text = f"\\{text[:-1]}\\}}"
    return parse(text, nesting + 1)


def _parse_approximation(text: str, nesting: int) -> Value | None:
    """Parse `x = a \\approx b`; a name alone on the left, or nothing, leaves only b."""
    parts = split_top(text, "\\approx")
    if len(parts) < 2 or not parts[-1]:
        return parse(parts[0], nesting + 1) if len(parts) > 1 and parts[0] else None
    head, rounded = parts[0], parts[-1]
    relation = split_relation(head)
    if relation is not None and is_assignment(relation):
        return Approximation(relation.sides[0], relation.sides[-1], rounded)
    if not head:
        return parse(rounded, nesting + 1)
    if is_name(head) and head.strip() not in _CONSTANTS:
        return Approximation(head, "", rounded)
    return Approximation("", head, rounded)


def _group_digits(text: str) -> str:
    """Remove thousands separators where the commas can't separate list items."""
    if ", " in text or _ONE_GROUPED.fullmatch(text) or _RANGE_GROUPED.fullmatch(text):
        return _TIGHT_THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    return text


def _parse_brackets(text: str, nesting: int) -> Value:
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not (text.startswith(opening) and text.endswith(closing)):
            continue
        content = text[len(opening) : -len(closing)]
        if not is_balanced(content):
            continue
        for separator in (";", ","):
            parts = split_top(content, separator)
            if len(parts) > 1 and len(parts) <= MAX_ITEMS and all(parts):
                items = tuple(parse(part, nesting + 1) for part in parts)
                if separator == ";" and all("," in part for part in parts):
                    items = tuple(_row(item, opening, closing) for item in items)
                return _expand_signs(Group(items, opening, closing))
        if opening == "\\{":
            return Group((parse(content, nesting + 1),) if content.strip() else (), "\\{", "\\}")
        if content.strip():
            return parse(content, nesting + 1)
    signs = _both_signs(Leaf(text))
    return signs[0] if len(signs) == 1 else Group(tuple(signs))


def _row(item: Value, opening: str, closing: str) -> Value:
    """Return a bare list as a row of `[1,2;3,4]`."""
    if isinstance(item, Group) and not item.opening:
        return Group(item.items, opening, closing)
    return item


def _both_signs(value: Value) -> list[Value]:
    """Return the two values of a leaf with `\\pm`, otherwise the value."""
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
    if kind in ("cases", "aligned") or (kind == "array" and "&" not in body and "=" in body):
        items = tuple(parse(row.replace("&", "").strip(" ,"), nesting + 1) for row in rows)
        return items[0] if len(items) == 1 else Group(items, joint="and")
    cells = tuple(tuple(Leaf(cell.strip()) for cell in row.split("&")) for row in rows)
    return Matrix(cells)
