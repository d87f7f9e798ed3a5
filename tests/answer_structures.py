"""Answers with several parts (pairs, names, lists, intervals, matrices, figures), and responses.

The second half of the grammar of answer_grammar.py: the same `Case`, and `dressed`, which puts an
answer into a whole response.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from answer_grammar import KINDS as NUMBERS
from answer_grammar import Case

LETTERS = "ABCDEFGHKLMPQRST"


def _numbers(rng: Random, count: int) -> list[int]:
    return rng.sample(range(-50, 100), count)


def time(rng: Random) -> Case:
    """A time of day on a clock with twelve hours."""
    hour, minute = rng.randrange(1, 13), rng.randrange(60)

    def text(hour: int, minute: int, rng: Random) -> str:
        forms = (f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{hour} : {minute:02d}")
        return rng.choice(forms)

    def different(rng: Random) -> str:
        # 59 - minute is another minute; doubling both parts keeps the ratio, not the time
        pairs = {(hour % 12 + 1, minute), (hour, 59 - minute), (2 * hour, 2 * minute)}
        pairs = {(h, m) for h, m in pairs if h <= 12 and m < 60 and (h, m) != (hour, minute)}
        return text(*rng.choice(sorted(pairs)), rng)

    return Case("time", f"{hour}:{minute:02d}", lambda r: text(hour, minute, r), different)


def span(rng: Random) -> Case:
    """A range, a score or two years, with a hyphen."""
    low = rng.choice((rng.randrange(1, 90), rng.randrange(1900, 2020)))
    high = low + rng.randrange(1, 30)

    def text(low: int, high: int, rng: Random) -> str:
        return rng.choice((f"{low}-{high}", f"{low} - {high}", f"{low}–{high}", f"{low}—{high}"))

    def different(rng: Random) -> str:
        shift = rng.choice((1, 5, 10, -1))  # the difference stays the same
        return text(*rng.choice(((low + shift, high + shift), (high, low), (low, high + 1))), rng)

    return Case("span", f"{low}-{high}", lambda r: text(low, high, r), different)


def ratio(rng: Random) -> Case:
    """A ratio in lowest terms that can't be a time."""
    first, second = rng.choice(((2, 3), (3, 4), (5, 8), (7, 9), (3, 7), (11, 4), (5, 2), (1, 6)))

    def equal(rng: Random) -> str:
        forms = (f"{first}:{second}", f"{first} : {second}", rf"{first}\colon {second}")
        return rng.choice((*forms, f"{first}∶{second}", rf"{first} \text{{ to }} {second}"))

    def different(rng: Random) -> str:
        return rng.choice((f"{second}:{first}", f"{first}:{second + 1}", f"{first + 1}:{second}"))

    return Case("ratio", f"{first}:{second}", equal, different)


def named(rng: Random) -> Case:
    """Two named values."""
    names = rng.choice((("x", "y"), ("a", "b"), ("m", "n"), (r"\angle A", r"\angle B")))
    values = _numbers(rng, 2)

    def text(names: tuple[str, ...], values: list[int], rng: Random) -> str:
        joint = rng.choice((", ", ",", r",\ ", " and ", r" \text{ and } "))
        sign = rng.choice((" = ", "="))
        pairs = [f"{n}{sign}{v}" for n, v in zip(names, values, strict=True)]
        return joint.join(rng.sample(pairs, len(pairs)))

    def different(rng: Random) -> str:
        others = [values[::-1], [values[0] + 1, values[1]], [values[0], -values[1] - 1]]
        return text(names, rng.choice(others), rng)

    gold = ", ".join(f"{n} = {v}" for n, v in zip(names, values, strict=True))
    return Case("named values", gold, lambda r: text(names, values, r), different)


def unordered(rng: Random) -> Case:
    """A list or a set of two to five values, in any order."""
    values = _numbers(rng, rng.randrange(2, 6))
    is_set = rng.random() < 0.4

    def text(values: list[int], rng: Random) -> str:
        items = [str(v) for v in rng.sample(values, len(values))]
        if is_set:
            opening, closing = rng.choice(((r"\{", r"\}"), (r"\left\{", r"\right\}")))
            return f"{opening}{rng.choice((',', ', ')).join(items)}{closing}"
        tail = rng.choice((", ", " and ", r" \text{ and } ", ", and "))
        return ", ".join(items[:-1]) + tail + items[-1]

    def different(rng: Random) -> str:
        others = [values[:-1], [*values, 101], [*values[:-1], 102]]
        other = rng.choice(others)
        return text(other, rng) if len(other) > 1 or is_set else str(other[0])

    inside = ", ".join(map(str, values))
    gold = rf"\{{{inside}\}}" if is_set else inside
    return Case("set" if is_set else "list", gold, lambda r: text(values, r), different)


def ordered(rng: Random) -> Case:
    """A point with two or three coordinates."""
    values = _numbers(rng, rng.randrange(2, 4))

    def text(values: list[int], rng: Random) -> str:
        opening, closing = rng.choice((("(", ")"), (r"\left(", r"\right)"), ("( ", " )")))
        return f"{opening}{rng.choice((',', ', ', ' , ')).join(map(str, values))}{closing}"

    def different(rng: Random) -> str:
        others = [values[::-1], [*values[:-1], values[-1] + 1], [-values[0] - 1, *values[1:]]]
        return text(rng.choice(others), rng)

    return Case("tuple", f"({', '.join(map(str, values))})", lambda r: text(values, r), different)


def interval(rng: Random) -> Case:
    """An interval with finite ends, also as an inequality."""
    low, high = sorted(_numbers(rng, 2))
    is_closed = (rng.random() < 0.5, rng.random() < 0.5)

    def text(low: int, high: int, ends: tuple[bool, bool], rng: Random) -> str:
        signs = [r" \le " if closed else " < " for closed in ends]
        plain = [" ≤ " if closed else "<" for closed in ends]
        return rng.choice((
            f"{'[' if ends[0] else '('}{low}, {high}{']' if ends[1] else ')'}",
            rf"\left{'[' if ends[0] else '('}{low},{high}\right{']' if ends[1] else ')'}",
            f"{low}{signs[0]}x{signs[1]}{high}",
            f"{low}{plain[0]}x{plain[1]}{high}",
        ))  # fmt: skip

    def different(rng: Random) -> str:
        left, right = is_closed
        return rng.choice((
            text(low - 1, high, is_closed, rng), text(low, high + 1, is_closed, rng),
            text(low, high, (not left, right), rng), text(low, high, (left, not right), rng),
        ))  # fmt: skip

    gold = f"{'[' if is_closed[0] else '('}{low}, {high}{']' if is_closed[1] else ')'}"
    return Case("interval", gold, lambda r: text(low, high, is_closed, r), different)


def matrix(rng: Random) -> Case:
    """A matrix of two rows."""
    a, b, c, d = _numbers(rng, 4)

    def text(cells: tuple[int, int, int, int], rng: Random) -> str:
        name = rng.choice(("pmatrix", "bmatrix"))
        gap, end = rng.choice(("&", " & ")), rng.choice((r"\\", r" \\ "))
        a, b, c, d = cells
        return rf"\begin{{{name}}}{a}{gap}{b}{end}{c}{gap}{d}\end{{{name}}}"

    def different(rng: Random) -> str:
        return text(rng.choice(((a, c, b, d), (c, d, a, b), (a, b, c, d + 1), (b, a, d, c))), rng)

    gold = rf"\begin{{pmatrix}}{a} & {b} \\ {c} & {d}\end{{pmatrix}}"
    return Case("matrix", gold, lambda r: text((a, b, c, d), r), different)


def figure(rng: Random) -> Case:
    """An angle or a triangle by its points."""
    points = rng.sample(LETTERS, 3)
    a, b, c = points

    def equal(rng: Random) -> str:
        sign = rng.choice((r"\angle ", "∠", r"\angle{}".removesuffix("{}") + " "))
        return sign + rng.choice((a + b + c, c + b + a))

    def different(rng: Random) -> str:
        other = rng.choice([letter for letter in LETTERS if letter not in points])
        return r"\angle " + rng.choice((b + a + c, a + c + b, a + b + other))

    return Case("angle name", rf"\angle {a}{b}{c}", equal, different)


def choice(rng: Random) -> Case:
    """The letter of an option, or the option's text."""
    options = tuple(str(v) for v in rng.sample(range(10, 99), 4))
    right = rng.randrange(4)

    def text(index: int, rng: Random) -> str:
        letter = "ABCD"[index]
        forms = (letter, f"({letter})", rf"\text{{{letter}}}", f"{letter}. {options[index]}")
        return rng.choice((*forms, f"{letter}) {options[index]}", options[index]))

    def different(rng: Random) -> str:
        return text(rng.choice([i for i in range(4) if i != right]), rng)

    return Case("choice", "ABCD"[right], lambda r: text(right, r), different, options)


def polynomial(rng: Random) -> Case:
    """A polynomial of second degree, expanded or factored (needs computer algebra)."""
    p, q = rng.sample(range(1, 12), 2)

    def text(p: int, q: int, rng: Random) -> str:
        s, t = p + q, p * q
        return rng.choice((
            f"x^2+{s}x+{t}", f"x^{{2}} + {s}x + {t}", f"{t}+{s}x+x^2",
            f"(x+{p})(x+{q})", rf"\left(x+{q}\right)\left(x+{p}\right)", f"x(x+{s})+{t}",
        ))  # fmt: skip

    def different(rng: Random) -> str:
        return rng.choice((text(p, q + 1, rng), text(p + 1, q, rng), f"x^2-{p + q}x+{p * q}"))

    return Case("polynomial", f"x^2+{p + q}x+{p * q}", lambda r: text(p, q, r), different)


KINDS: dict[str, Callable[[Random], Case]] = NUMBERS | {
    "time": time, "span": span, "ratio": ratio, "named values": named, "list or set": unordered,
    "tuple": ordered, "interval": interval, "matrix": matrix, "angle name": figure,
    "choice": choice, "polynomial": polynomial,
}  # fmt: skip
SYMBOLIC = ("polynomial",)
"""Kinds that exact arithmetic can't decide."""


def draw(rng: Random, kind: str) -> Case:
    """Return a random case of a kind of `KINDS`."""
    return KINDS[kind](rng)


def dressed(rng: Random, answer: str) -> str:
    """Return a whole response that states `answer`, in one of the forms that models write."""
    inner = rng.choice((
        answer, f" {answer} ", f"{answer}.", f"${answer}$" if "$" not in answer else answer,
        rf"\displaystyle {answer}", f"{{{answer}}}", f"\n{answer}\n", f"{answer} \\,",
    ))  # fmt: skip
    box = rng.choice((rf"\boxed{{{inner}}}", rf"\boxed {{{inner}}}", rf"\fbox{{{inner}}}"))
    forms = [
        rf"So we get ${box}$.",
        f"The answer is {box}.",
        f"{box}",
        f"**Step 1.** We try 17.\n\n**Final answer:** \\[{box}\\]",
        rf"<think>Perhaps \boxed{{17}}.</think>The answer is {box}",
        rf"First I found \boxed{{17}}, which is wrong. Hence $${box}$$",
        f"<think>3 and 4</think>\n<answer>{inner}</answer>",
    ]
    if ". " not in answer and not answer.startswith("\\text"):  # `sq. m` ends a sentence
        forms += [f"The answer is {answer}.", f"**Answer:** {answer}", f"#### {answer}"]
        forms += [answer, f"So the final answer is {answer}"]
    return rng.choice(forms)
