r"""Read a gold answer: which answer type it has, by which rule, and what is doubtful about it.

    read_gold("5 cm")             number, quantity
    read_gold("x = 3, y = 4")     tuple, named values
    read_gold(r"\begin{pmatrix}1\\2\end{pmatrix}")    expression, matrix
    read_gold("an isosceles triangle")                text, words

The parser of the verifiers decides (answer_tree.py), so a gold answer has the type `text` only
where it would be compared as words. Linear in the length of the answer, without sympy.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from sapo_vl.rewards.parsing import units
from sapo_vl.rewards.parsing.answer_tree import parse
from sapo_vl.rewards.parsing.answer_values import (
    Alternatives,
    Approximation,
    Figure,
    Group,
    Leaf,
    Matrix,
    Named,
    Pair,
    Relation,
    Statement,
    Value,
    Words,
)
from sapo_vl.rewards.parsing.latex import clean, mend_escapes
from sapo_vl.rewards.parsing.matrices import as_matrix
from sapo_vl.rewards.parsing.named_values import named_values
from sapo_vl.rewards.parsing.number_sets import ALL, EMPTY, is_set, number_set
from sapo_vl.rewards.parsing.rationals import OverLimitError, to_fraction
from sapo_vl.rewards.parsing.relations import is_assignment, is_inequality

MAX_GOLD_CHARS = 400  # a longer one is a worked solution
_WORKED = re.compile(r"####|<answer>|\\boxed|\n\s*\n|\n.*\n")
_COMMAND = re.compile(r"\\(?:text|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_PROSE = re.compile(r"[^\W\d_]{4,}")
_TEXT_WORD = re.compile(r"\\text\s*\{[^{}]*[^\W\d_]{3}")
_FORMULA_OF_ELEMENTS = re.compile(
    r"(?=[A-Za-z_{}]*\d)(?:[A-Z][a-z]?(?:_?\{?\d+\}?)?){2,}|[A-Za-z]\d|\d[A-Z]"
)


@dataclass(frozen=True, slots=True)
class GoldReading:
    """How the verifiers read a gold answer."""

    answer_type: str  # number, expression, equation, tuple, interval, set or text
    rule: str  # what the parser read: number, quantity, pair, list, interval, words, ...
    doubtful: str = ""  # why a person should look at it; empty where nothing is odd


@lru_cache(maxsize=65536)
def read_gold(answer: str, unit: str | None = None) -> GoldReading:
    """Return the answer type, the rule and the doubts of a free answer (not a choice).

    `unit` is the unit that the source gives in a field of its own. Never raises.
    """
    reason = _doubt_before_parsing(answer)
    if len(answer) > MAX_GOLD_CHARS:
        return GoldReading("text", "worked solution", reason)
    text = clean(answer)
    if not any(char.isalnum() or char in "\\∅" for char in text):
        return GoldReading("text", "nothing", reason or "nothing is left of it")
    answer_type, rule = _read(text, parse(text))
    if unit and rule == "number":
        rule = "quantity"
    return GoldReading(answer_type, rule, reason or _doubt(text, answer_type))


def _doubt_before_parsing(answer: str) -> str:
    if any(map(_is_control, mend_escapes(answer))):
        return "control characters"
    if len(answer) > MAX_GOLD_CHARS or _WORKED.search(answer.strip()):
        return "a worked solution"
    return ""


def _is_control(char: str) -> bool:
    return char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs", "Co")


def _doubt(text: str, answer_type: str) -> str:
    if answer_type == "text":
        if any(char.isdigit() for char in text):
            return "words with a digit in them"
        return "a sentence" if len(text.split()) > 8 else ""
    depth = 0
    for char in text.replace("\\{", "").replace("\\}", ""):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            break
    return "unreadable LaTeX: its braces don't match" if depth else ""


def _read(text: str, value: Value) -> tuple[str, str]:
    """Return answer type and rule of a parsed gold answer."""
    if _FORMULA_OF_ELEMENTS.fullmatch(text):
        return "text", "words"
    if isinstance(value, Group):
        return _read_group(value)
    if isinstance(value, Relation):
        return _read_relation(value)
    if isinstance(value, Alternatives):
        return _read(text, value.values[0])[0], "alternatives"
    if isinstance(value, Named):
        return _read(text, value.value)[0], "named value"
    if isinstance(value, Words):
        return ("set", "set in words") if value.text in (ALL, EMPTY) else ("text", "words")
    if isinstance(value, Leaf):
        return _read_leaf(value)
    return _KINDS[type(value)]


_KINDS: dict[type, tuple[str, str]] = {
    Matrix: ("expression", "matrix"),
    Pair: ("expression", "pair"),
    Approximation: ("number", "approximation"),
    Figure: ("expression", "figure"),
    Statement: ("equation", "statement about figures"),
}


def _read_relation(relation: Relation) -> tuple[str, str]:
    if is_inequality(relation):
        return "interval", "inequality"
    return "equation", "named value" if is_assignment(relation) else "equation"


def _read_group(group: Group) -> tuple[str, str]:
    if group.opening == "\\{":
        return "set", "set"
    if group.is_ordered:
        if as_matrix(group) is not None:
            return "expression", "matrix"
        is_interval = is_set(group) and len(group.items) == 2
        return ("interval", "interval") if is_interval else ("tuple", "tuple")
    if any(isinstance(item, Words) for item in group.items):
        return "text", "words"
    if number_set(group) is not None and is_set(group):
        return "interval", "set of numbers"
    if named_values(group) is not None:
        return "tuple", "named values"
    return "set", "list"


def _read_leaf(leaf: Leaf) -> tuple[str, str]:
    quantity = units.split(leaf.text)
    try:
        is_number = to_fraction(quantity.value) is not None
    except OverLimitError:
        is_number = True
    if is_number:
        return "number", "number" if quantity.value == leaf.text else "quantity"
    words = _PROSE.findall(_COMMAND.sub(" ", quantity.value))
    if words or _TEXT_WORD.search(quantity.value):
        return "text", "words"
    return "expression", "expression"
