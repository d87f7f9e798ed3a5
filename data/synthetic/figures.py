"""Level 2 and 3 tasks on geometry and numbers.

A task maps a random stream and the level to a `Puzzle`. Images are `side(level)` pixels square.
Answers are integers, exact by construction.

    task         image                                         level 2            level 3
    clock        a clock face with two hands                   by 5 minutes       to the minute
    number_line  a labelled line with points A and B           ticks of 1 or 2    ticks of 5 or 10
    angles       angles that make up 180 degrees or a triangle by 10 degrees      by 1 degree
    grid_area    rectangles joined on a grid                   two                three
    printed      a printed calculation                         two numbers        three numbers
    sides        a figure with labelled sides, not to scale    rectangles         triangles too
"""

from __future__ import annotations

import math
from random import Random

from PIL import ImageDraw

from sapo_vl.data.synthetic.charts import COLOURS, INK, PALE, side, write
from sapo_vl.data.synthetic.tasks import Puzzle

Draw = ImageDraw.ImageDraw

TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29), (9, 40, 41))
"""Pythagorean triples."""


def clock(rng: Random, level: int) -> Puzzle:
    """A clock: the minutes past the hour, since 12, or until the next hour."""
    hour, minute = rng.randrange(12), rng.randrange(0, 60, 5 if level == 2 else 1)
    kinds = {
        "past": ("How many minutes past the hour is it?", minute),
        "until": ("How many minutes are left until the next full hour?", 60 - minute),
        "since": ("How many minutes have passed since 12 o'clock?", 60 * hour + minute),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: Draw, rng: Random) -> None:
        middle, radius = side(level) / 2 + rng.randint(-3, 3), side(level) * 0.42
        box = (middle - radius, middle - radius, middle + radius, middle + radius)
        draw.ellipse(box, outline=INK, width=3)
        for tick in range(60):
            inner = 0.9 if tick % 5 == 0 else 0.95
            ends = [_at(middle, radius * r, tick * 6) for r in (inner, 1.0)]
            draw.line(ends, fill=INK, width=2 if tick % 5 == 0 else 1)
        for number in range(1, 13):
            write(draw, _at(middle, radius * 0.8, number * 30), str(number), 13)
        hands = ((30 * hour + minute / 2, 0.45, 5), (6 * minute, 0.72, 3))
        for turn, length, width in hands:
            draw.line([(middle, middle), _at(middle, radius * length, turn)], fill=INK, width=width)

    question, answer = kinds[kind]
    facts = {"kind": kind, "hour": hour, "minute": minute}
    return Puzzle(question, f"hour {hour} minute {minute}", answer, facts, paint, slips=(1, 5))


def number_line(rng: Random, level: int) -> Puzzle:
    """A line with labels at both ends and two points: a value, a distance, or the middle."""
    step = rng.choice((1, 2) if level == 2 else (5, 10))
    start = step * rng.randrange(0, 10)
    a, b = sorted(rng.sample(range(11), 2))
    low, high = start + a * step, start + b * step
    kinds = {
        "value": ("What number is at point A?", low),
        "distance": ("How far apart are A and B?", high - low),
        "sum": ("What is the sum of the numbers at A and B?", low + high),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: Draw, rng: Random) -> None:
        edge = side(level)
        left, y = 16 + rng.randint(0, 4), edge / 2 + rng.randint(-30, 30)
        gap = (edge - 40) / 10
        draw.line((left, y, left + 10 * gap, y), fill=INK, width=2)
        for tick in range(11):
            x = left + tick * gap
            draw.line((x, y - 6, x, y + 6), fill=INK)
            if tick in (0, 1, 10):
                write(draw, (x, y + 16), str(start + tick * step), 12)
        for name, tick, colour in (("A", a, "red"), ("B", b, "blue")):
            x = left + tick * gap
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLOURS[colour])
            write(draw, (x, y - 16), name, 13)

    question, answer = kinds[kind]
    facts = {"kind": kind, "start": start, "step": step, "ticks": [a, b]}
    return Puzzle(question, f"step {step} A {low} B {high}", answer, facts, paint, slips=(step,))


def angles(rng: Random, level: int) -> Puzzle:
    """Labelled angles with one missing: on a straight line, or in a triangle."""
    by = 10 if level == 2 else 1
    kind = rng.choice(("line", "triangle"))
    first = rng.randrange(30, 101, by)
    second = rng.randrange(20, 150 - first + 1, by)
    missing = 180 - first - second
    question = "What is the size of the angle x in degrees?"

    def paint(draw: Draw, rng: Random) -> None:
        edge = side(level)
        if kind == "line":
            foot, y = edge / 2, edge * 0.75 + rng.randint(-5, 5)
            draw.line((8, y, edge - 9, y), fill=INK, width=2)
            for turn in (first, first + second):
                tip = _polar(foot, y, edge * 0.6, turn)
                draw.line([(foot, y), tip], fill=INK, width=2)
            spots = ((first / 2, str(first)), (first + second / 2, str(second)))
            for middling, text in (*spots, (180 - missing / 2, "x")):
                write(draw, _polar(foot, y, edge * 0.3, middling), text, 14)
        else:
            corners = _triangle(first, second, edge)
            draw.polygon(corners, outline=INK, width=2)
            middle = (sum(x for x, _ in corners) / 3, sum(y for _, y in corners) / 3)
            for (x, y), text in zip(corners, (str(first), str(second), "x"), strict=True):
                inside = (0.68 * x + 0.32 * middle[0], 0.68 * y + 0.32 * middle[1])
                write(draw, inside, text, 13)

    facts = {"kind": kind, "first": first, "second": second}
    return Puzzle(question, f"180 - {first} - {second}", missing, facts, paint, slips=(by, 10))


def grid_area(rng: Random, level: int) -> Puzzle:
    """Adjacent columns of squares on a grid: area or perimeter of the union."""
    widths = [rng.randint(1, 3) for _ in range(level)]
    heights = sorted((rng.sample(range(1, 9), level)), reverse=True)
    area = sum(w * h for w, h in zip(widths, heights, strict=True))
    kinds = {
        "area": ("What is the area of the coloured figure in squares?", area),
        "perimeter": (
            "What is the perimeter of the coloured figure in sides of a square?",
            2 * (sum(widths) + heights[0]),
        ),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: Draw, rng: Random) -> None:
        cells, edge = 10, side(level)
        cell = (edge - 12) // cells
        left = 5
        x = left + rng.randint(0, cells - sum(widths)) * cell
        floor = 5 + cells * cell
        ink = rng.choice(list(COLOURS.values()))
        for w, h in zip(widths, heights, strict=True):
            draw.rectangle((x, floor - h * cell, x + w * cell, floor), fill=ink)
            x += w * cell
        for k in range(cells + 1):
            at = left + k * cell
            draw.line((left, at, left + cells * cell, at), fill=PALE)
            draw.line((at, left, at, left + cells * cell), fill=PALE)

    question, answer = kinds[kind]
    trace = " ".join(f"{w} by {h}" for w, h in zip(widths, heights, strict=True))
    facts = {"kind": kind, "widths": widths, "heights": heights}
    return Puzzle(question, trace, answer, facts, paint)


def printed(rng: Random, level: int) -> Puzzle:
    """A printed sum, difference or product; level 3 has three numbers and a product first."""
    a, b = rng.randint(2, 20), rng.randint(2, 12)
    kinds = {"sum": (f"{a} + {b}", a + b), "product": (f"{a} x {b}", a * b)}
    kinds["difference"] = (f"{a + b} - {b}", a)
    if level == 3:
        c = rng.randint(2, 30)
        kinds = {
            "sum": (f"{a} x {b} + {c}", a * b + c),
            "difference": (f"{a * b + c} - {a} x {b}", c),
            "chain": (f"{a + c} - {c} + {b}", a + b),
        }
    kind = rng.choice(list(kinds))
    text, answer = kinds[kind]

    def paint(draw: Draw, rng: Random) -> None:
        middle = side(level) / 2
        centre = (middle + rng.randint(-8, 8), middle + rng.randint(-30, 30))
        write(draw, centre, text, rng.randint(20, 24))

    facts = {"kind": kind, "text": text}
    return Puzzle("What is the result?", text, answer, facts, paint, slips=(1, 2, 10))


def sides(rng: Random, level: int) -> Puzzle:
    """A rectangle or a right triangle with labelled sides: perimeter, area, or the missing side."""
    if level == 3 and rng.random() < 0.5:
        return _right_triangle(rng, level)
    w, h = rng.randint(2, 12 * (level - 1)), rng.randint(2, 9 * (level - 1))
    kinds = {
        "perimeter": ("What is the perimeter of the rectangle?", 2 * (w + h), w, h),
        "area": ("What is the area of the rectangle?", w * h, w, h),
        "side": (f"The area of the rectangle is {w * h}. How long is the side x?", h, w, "x"),
    }
    kind = rng.choice(list(kinds))
    question, answer, below, beside = kinds[kind]

    def paint(draw: Draw, rng: Random) -> None:
        edge = side(level)
        box = (0.2 * edge, 0.25 * edge, edge * rng.uniform(0.7, 0.8), edge * rng.uniform(0.6, 0.7))
        draw.rectangle(box, outline=INK, width=2)
        write(draw, ((box[0] + box[2]) / 2, box[3] + 12), str(below), 14)
        write(draw, (box[2] + 14, (box[1] + box[3]) / 2), str(beside), 14)

    facts = {"kind": kind, "w": w, "h": h}
    return Puzzle(question, f"w {w} h {h}", answer, facts, paint)


def _right_triangle(rng: Random, level: int) -> Puzzle:
    times = rng.randint(1, 4)
    a, b, c = (times * length for length in rng.choice(TRIPLES))
    if rng.random() < 0.5:
        a, b = b, a
    kinds = {
        "hypotenuse": ("How long is the side x?", c, (a, b, "x")),
        "leg": ("How long is the side x?", b, (a, "x", c)),
        "perimeter": ("What is the perimeter of the triangle?", a + b + c, (a, b, c)),
        "area": ("What is the area of the triangle?", a * b // 2, (a, b, c)),
    }
    kind = rng.choice(list(kinds))
    question, answer, labels = kinds[kind]

    def paint(draw: Draw, rng: Random) -> None:
        edge = side(level)
        x, y = 0.2 * edge, 0.8 * edge
        right, top = edge * rng.uniform(0.7, 0.85), edge * rng.uniform(0.2, 0.4)
        draw.polygon([(x, y), (right, y), (x, top)], outline=INK, width=2)
        draw.rectangle((x, y - 10, x + 10, y), outline=INK)
        write(draw, ((x + right) / 2, y + 12), str(labels[0]), 14)
        write(draw, (x - 14, (y + top) / 2), str(labels[1]), 14)
        write(draw, ((x + right) / 2 + 14, (y + top) / 2 - 12), str(labels[2]), 14)

    facts = {"kind": kind, "a": a, "b": b, "c": c}
    return Puzzle(question, f"{labels[0]} {labels[1]} {labels[2]}", answer, facts, paint)


def _at(middle: float, radius: float, degrees: float) -> tuple[float, float]:
    """Return a point on a clock face, at `degrees` clockwise from the top."""
    turn = math.radians(degrees)
    return middle + radius * math.sin(turn), middle - radius * math.cos(turn)


def _polar(x: float, y: float, radius: float, degrees: float) -> tuple[float, float]:
    """Return the point at `radius` and `degrees` counter-clockwise from the right of (x, y)."""
    turn = math.radians(degrees)
    return x + radius * math.cos(turn), y - radius * math.sin(turn)


def _triangle(first: int, second: int, edge: int) -> list[tuple[float, float]]:
    """Return a triangle's corners; its angles are `first` (left), `second` (right) and the rest."""
    turn_a, turn_b = math.radians(first), math.radians(second)
    third = math.sin(turn_a + turn_b)
    up = math.sin(turn_a) * math.sin(turn_b) / third
    along = math.cos(turn_a) * math.sin(turn_b) / third
    assert up > 0, (first, second)
    left, right = min(0.0, along), max(1.0, along)
    scale = 0.8 * edge / max(right - left, up)
    x, floor = 0.1 * edge - left * scale, 0.9 * edge
    return [(x, floor), (x + scale, floor), (x + along * scale, floor - up * scale)]
