r"""Equations and inequalities: their sides, and what may stand on the left of a value.

A left side is a name (`x`, `a_n`, `f(x)`, `\angle A`, `AB`, `length`), a quantity (`f(2)`,
`\sin A`, `AB + CD`, `2 + 3`: it has the value on the right and no unknown of its own), or else one
half of an equation (`2x + y`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeGuard

from sapo_vl.rewards.parsing.answer_values import Relation, Value
from sapo_vl.rewards.parsing.brackets import split_top

_RELATION = re.compile(r"(\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|<|>|==?)")
_MARKED = re.compile("\0([^\0]*)\0")
_NAME_NOISE = re.compile(
    r"_\s*(?:\{[^{}]*\}|\w|\\[a-z]+(?:\s*[A-Z]+)?)|\\text\s*\{[^{}]*\}|'"
    r"|\\(?:angle|triangle|overline|vec|widehat|measuredangle|odot|arc)(?![a-z])"
)
_NAME = re.compile(r"\s*(?:\\[a-z]+|[A-Za-z]+|\|[A-Za-z]+\|)(?:\s*\([A-Za-z, ]*\))?\s*")
_NAMES = re.compile(
    r"\s*\(?\s*[A-Za-z](?:\([a-z]\))?(?:\s*[,:]\s*[A-Za-z](?:\([a-z]\))?)*\s*\)?\s*"
)
_NOT_NAMES = (
    "\\frac", "\\sqrt", "\\sin", "\\cos", "\\tan", "\\ln", "\\log", "\\pm", "\\pi", "\\infty",
)  # fmt: skip
_APPLIED = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|lg|exp|sinh|cosh|tanh)"
    r"(?![a-z])(?:\s*_\s*(?:\{[^{}]*\}|\w))?(?:\s*\^\s*(?:\{[^{}]*\}|\w))?"
    r"\s*(?:\([^()]*\)|\\(?:angle|triangle)?\s*[a-zA-Z]+|\{[^{}]*\}|\d*[a-zA-Z]\w*|[\d.]+°?)?"
    r"|\\lim(?![a-z])(?:\s*_\s*\{[^{}]*\})?|\\(?:int|sum|prod)(?![a-z]).*"
    r"|(?<![A-Za-z\\])[a-zA-Z]'*(?:_\s*(?:\{[^{}]*\}|\w))?\s*(?:\([^()]*\)|\{\([^()]*\)\})"
)
_POINTS = re.compile(
    r"(?:\\(?:angle|triangle|overline|vec|widehat|odot)\s*)?\{?(?:[A-Z]'*(?:_\{?\w\}?)?){2,}\}?"
    r"|\\(?:angle|triangle)\s*(?:\{\s*)?[A-Z]|\|[A-Z]+\|"
)
_CONSTANTS = re.compile(
    r"\\(?:pi|frac|sqrt|cdot|times|text\s*\{[^{}]*\}|infty)(?![a-z])|°|(?<![a-zA-Z])[ei](?![a-zA-Z])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_FUNCTION_OF = re.compile(r"([a-zA-Z]+)\(([a-zA-Z])\)")


@lru_cache(maxsize=4096)
def split_relation(text: str) -> Relation | None:
    """Return the chain of relations at the top level, or None."""
    if not _RELATION.search(text):
        return None
    parts = [part.strip() for part in split_top(_RELATION.sub("\0\\1\0", text), "\0")]
    if len(parts) < 3:
        return None
    sides = tuple(_MARKED.sub(r"\1", part) for part in parts[::2])
    return Relation(sides, tuple("=" if op == "==" else op for op in parts[1::2]))


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """Whether a side is a name (`x`, `a_n`, `f(x)`, `(p,q)`, `V_1:V_2`) and not an expression."""
    if any(command in text for command in _NOT_NAMES):
        return False
    bare = _NAME_NOISE.sub("", text)
    if not bare.strip():
        return bool(text.strip())
    return bool(_NAME.fullmatch(bare) or _NAMES.fullmatch(bare) or _is_label(bare))


def _is_label(text: str) -> bool:
    """Whether a text is words without a digit or an operator: `length of AB`."""
    return len(text) <= 60 and bool(re.fullmatch(r"\s*[^\W\d_]+(?:[ '-]+[^\W\d_]+)*\s*", text))


def is_quantity(text: str) -> bool:
    r"""Whether a side has a value of its own: `f(2)`, `\sin A`, `AB + CD`, but not `x + y`."""
    rest = _CONSTANTS.sub(" ", _POINTS.sub(" ", _APPLIED.sub(" ", text)))
    return bool(text.strip()) and not any(char.isalpha() for char in _COMMAND.sub("", rest))


def is_assignment(value: Value) -> TypeGuard[Relation]:
    """Whether a value is `name = ...`."""
    return isinstance(value, Relation) and set(value.operators) == {"="} and is_name(value.sides[0])


def name_first(relation: Relation) -> Relation:
    """Return `x = 5` for `5 = x`, any other relation as it is."""
    left, right = relation.sides[0], relation.sides[-1]
    if relation.operators == ("=",) and is_name(right) and not is_name(left):
        return Relation((right, left), relation.operators)
    return relation


def is_inequality(value: Value) -> TypeGuard[Relation]:
    """Whether a value has an operator other than `=`."""
    return isinstance(value, Relation) and set(value.operators) != {"="}


def is_numeric(text: str) -> bool:
    """Whether a text has no letters outside its commands."""
    return bool(text.strip()) and not any(c.isalpha() for c in _COMMAND.sub("", text))


@lru_cache(maxsize=4096)
def canonical_name(text: str) -> str:
    r"""Return a name without dress: `m\angle A` is `angleA`, `\text{Length }` is `length`.

    Two points of a segment are sorted (`BA` is `AB`). Case is kept for single letters.
    """
    name = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    name = (
        re.sub(r"[\\{}\s]|overline", "", name).removeprefix("m")
        if "angle" in name
        else (re.sub(r"[\\{}\s]|overline", "", name))
    )
    if re.fullmatch(r"[A-Z][A-Z]", name):
        return "".join(sorted(name))
    if name.startswith("angle") and len(name) == 8:
        return "angle" + min(name[5:], name[:4:-1])
    is_word = len(name) > 2 and name.isalpha() and not name.isupper()
    return name.casefold() if is_word and not name.startswith("angle") else name


def base_name(name: str) -> str:
    """Return a name without its index: `x_1` and `x_{2}` have the base `x`."""
    return re.sub(r"_.*|\d+$|'+$", "", name)


def same_name(gold: str, answer: str) -> bool:
    """Whether two left sides are one name, in any case."""
    names = [canonical_name(name).casefold() for name in (gold, answer)]
    return names[0] == names[1]


def with_argument_of(gold_name: str, answer: Relation) -> str | None:
    """Return the answer's right side with the argument renamed as in the gold's left side.

    `f(m) = m+1` gives `n+1` for `f(n)`; None when the two left sides are different names.
    """
    if same_name(gold_name, answer.sides[0]):
        return answer.sides[-1]
    g, a = (_FUNCTION_OF.fullmatch(name.replace(" ", "")) for name in (gold_name, answer.sides[0]))
    if g and a and g[1] == a[1]:
        return re.sub(rf"(?<![a-zA-Z\\]){a[2]}(?![a-zA-Z])", g[2], answer.sides[-1])
    return None
