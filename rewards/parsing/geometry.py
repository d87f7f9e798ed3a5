r"""Figures that are named by their points: which orders of the letters name the same figure.

| figure | the same |
|---|---|
| angle ABC | CBA: the vertex stays in the middle |
| segment, line, arc AB | BA |
| vector, ray AB | nothing else |
| triangle ABC | any order |
| polygon ABCD | once around, either way |

`AB \parallel CD` is symmetric, and `\triangle ABC \cong \triangle DEF` pairs the points in order.
In an expression a run of capitals is one quantity: `AB \cdot CD` isn't `AC \cdot BD`.
"""

from __future__ import annotations

import re

from sapo_vl.rewards.parsing.answer_values import Figure, Statement

_POINT = r"[A-Z](?:'+|_\s*\{?\w\}?)*"
_KINDS = {
    "\\angle": "angle", "\\measuredangle": "angle", "angle": "angle", "\\triangle": "triangle",
    "triangle": "triangle", "\\vec": "vector", "vector": "vector", "ray": "vector",
    "\\overline": "segment", "segment": "segment", "line": "segment", "line segment": "segment",
    "\\overleftrightarrow": "segment", "\\widehat": "arc", "arc": "arc", "\\odot": "circle",
    "circle": "circle", "quadrilateral": "polygon", "rectangle": "polygon", "square": "polygon",
    "parallelogram": "polygon", "rhombus": "polygon", "trapezoid": "polygon", "": "",
}  # fmt: skip
_PREFIX = "|".join(re.escape(kind) for kind in sorted(_KINDS, key=len, reverse=True) if kind)
_FIGURE = re.compile(rf"(?:m\s*)?({_PREFIX})?\s*\{{?\s*((?:{_POINT}\s*){{1,8}})\}}?", re.IGNORECASE)
_LETTERS = re.compile(_POINT)
_STATEMENT = re.compile(r"\s*(\\parallel|//|\\perp|\\cong|\\sim)(?![a-z])\s*")
_RUN = re.compile(
    r"(?:(\\vec|\\overline|\\angle|\\widehat|\\triangle)\s*"
    r"(?:\{\s*([A-Z]{2,3})\s*\}|([A-Z]{2,3}))|(?<![A-Za-z\\])([A-Z]{2,3}))(?![A-Za-z_'])"
)
_TEXT_PREFIX = re.compile(r"\\text\s*\{\s*([a-zA-Z ]+?)\s*\}")


def parse_figure(text: str) -> Figure | None:
    """Return the figure that a cleaned text names, or None; two capitals alone are a segment."""
    if len(text) > 60 or not any("A" <= char <= "Z" for char in text):
        return None
    text = _TEXT_PREFIX.sub(r"\1 ", text) if "\\text" in text else text
    match = _FIGURE.fullmatch(text.strip())
    if match is None:
        return None
    kind = _KINDS[(match[1] or "").casefold()]
    points = tuple(point.replace(" ", "") for point in _LETTERS.findall(match[2]))
    if any(not point[0].isupper() for point in points):
        return None
    if not kind and len(points) != 2:
        return None  # one capital is a variable, three are a word
    return Figure(kind, points)


def parse_statement(text: str) -> Statement | None:
    """Return the statement about two figures that a cleaned text makes, or None."""
    parts = _STATEMENT.split(text)
    if len(parts) != 3:
        return None
    left, right = (
        Figure("", (part,)) if len(part) == 1 and part.isalpha() else parse_figure(part)
        for part in (parts[0].strip(), parts[2].strip())
    )
    if left is None or right is None:
        return None
    operator = "\\parallel" if parts[1] == "//" else parts[1]
    return Statement(operator, left, right)


def same_figures(gold: Figure, answer: Figure) -> bool:
    """Whether two names are of one figure; a missing kind agrees with any."""
    if gold.kind and answer.kind and gold.kind != answer.kind:
        return False
    kind = gold.kind or answer.kind
    return _normal_order(kind, gold.points) == _normal_order(kind, answer.points)


def same_statements(gold: Statement, answer: Statement) -> bool:
    """Whether two statements say the same."""
    if gold.operator != answer.operator:
        return False
    if gold.operator in ("\\cong", "\\sim"):
        pairs = [sorted(zip(s.left.points, s.right.points, strict=False)) for s in (gold, answer)]
        swapped = sorted(zip(answer.right.points, answer.left.points, strict=False))
        return pairs[0] in (pairs[1], swapped)
    straight = same_figures(gold.left, answer.left) and same_figures(gold.right, answer.right)
    return straight or (
        same_figures(gold.left, answer.right) and same_figures(gold.right, answer.left)
    )


def _normal_order(kind: str, points: tuple[str, ...]) -> tuple[str, ...]:
    """Return the order that all names of the figure share."""
    if kind == "vector":
        return points
    if kind == "triangle":
        return tuple(sorted(points))
    if kind == "polygon":
        turns = [points[i:] + points[:i] for i in range(len(points))]
        return min(turns + [turn[::-1] for turn in turns])
    return min(points, points[::-1])


def named_quantities(gold: str, answer: str) -> tuple[str, str]:
    r"""Replace runs of capitals by one symbol each, where both expressions have some.

    `AB \cdot CD` and `AC \cdot BD` then differ. A vector against its order is the negative symbol.
    """
    if not (_RUN.search(gold) and _RUN.search(answer)):
        return gold, answer
    symbols: dict[tuple[str, ...], str] = {}
    return _with_symbols(gold, symbols), _with_symbols(answer, symbols)


def _with_symbols(text: str, symbols: dict[tuple[str, ...], str]) -> str:
    def symbol(match: re.Match[str]) -> str:
        command, run = match[1] or "", match[2] or match[3] or match[4]
        kind = _KINDS.get(command, "")
        points = tuple(run)
        reverse = kind == "vector" and points > points[::-1]
        order = min(points, points[::-1]) if kind == "vector" else _normal_order(kind, points)
        name = symbols.setdefault(
            (kind if kind in ("angle", "triangle", "vector") else "", *order),
            f"q_{{{len(symbols) + 1}}}",
        )
        return f" (-{name}) " if reverse else f" {name} "

    return _RUN.sub(symbol, text)
