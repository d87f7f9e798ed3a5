"""Level 2 and 3 tasks on data: scenes, charts and tables to read and combine.

A task maps a random stream and the level to a `Puzzle`; the level sets how much there is to read.
Images are `side(level)` pixels square. Answers are integers, exact by construction.

    task        image                                       level 2           level 3
    scene       shapes of 3 kinds in 4 colours on a grid    6 to 12           12 to 24
    bar_chart   labelled bars over a scale                  4, to 20 by 2     6, to 60 by 5
    line_chart  a line through months over a scale          5, to 20 by 2     7, to 60 by 5
    table       a table of names and numbers                4 rows, to 20     6 rows, 2 columns
"""

from __future__ import annotations

from random import Random
from typing import Any

from PIL import ImageDraw

from sapo_vl.data.synthetic.tasks import Puzzle, font

INK, PALE = (40, 40, 40), (222, 222, 222)

COLOURS = {
    "red": (208, 40, 40),
    "green": (30, 140, 50),
    "blue": (40, 70, 210),
    "orange": (235, 140, 20),
}
SHAPES = ("circle", "square", "triangle")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul")
NAMES = ("Ada", "Ben", "Cid", "Dora", "Eli", "Fay", "Gus", "Hal")
GOODS = ("apples", "books")

Draw = ImageDraw.ImageDraw


def side(level: int) -> int:
    """Return the side of an image in pixels."""
    return {2: 192, 3: 288}[level]


def write(draw: Draw, point: tuple[float, float], text: str, size: int, anchor: str = "mm") -> None:
    """Print a text with its Pillow `anchor` at `point`, `size` pixels high."""
    draw.text(point, text, fill=INK, font=font(size), anchor=anchor)


def scene(rng: Random, level: int) -> Puzzle:
    """Count shapes by colour, by kind, by both, or by exclusion."""
    cells = 5 if level == 2 else 6
    number = rng.randint(*((6, 12) if level == 2 else (12, 24)))
    shapes = [(rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(number)]
    positions = rng.sample(range(cells * cells), number)
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    of_colour = sum(c == colour for c, _ in shapes)
    of_shape = sum(s == shape for _, s in shapes)
    both = sum(pair == (colour, shape) for pair in shapes)
    kinds = {
        "both": (f"How many {colour} {shape}s are there?", both),
        "colour": (f"How many {colour} shapes are there?", of_colour),
        "not": (f"How many shapes are not {shape}s?", number - of_shape),
        "either": (f"How many shapes are {colour} or {shape}s?", of_colour + of_shape - both),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: Draw, rng: Random) -> None:
        cell = side(level) // cells
        size = cell * 2 // 3
        for (colour, shape), position in zip(shapes, positions, strict=True):
            x = position % cells * cell + rng.randint(2, cell - size - 2)
            y = position // cells * cell + rng.randint(2, cell - size - 2)
            ink = tuple(channel + rng.randint(-15, 15) for channel in COLOURS[colour])
            box = (x, y, x + size, y + size)
            if shape == "circle":
                draw.ellipse(box, fill=ink)
            elif shape == "square":
                draw.rectangle(box, fill=ink)
            else:
                draw.polygon([(x, y + size), (x + size, y + size), (x + size // 2, y)], fill=ink)

    question, answer = kinds[kind]
    drawn = sorted([position, *pair] for position, pair in zip(positions, shapes, strict=True))
    facts = {"kind": kind, "asked": [colour, shape], "shapes": drawn}
    trace = f"all {number} {colour} {of_colour} {shape} {of_shape} both {both}"
    return Puzzle(question, trace, answer, facts, paint)


def bar_chart(rng: Random, level: int) -> Puzzle:
    """Labelled bars: a value, a sum, a difference, the range, or how many exceed a value."""
    labels = rng.sample(NAMES, 4 if level == 2 else 6)
    step, most = (2, 20) if level == 2 else (5, 60)
    values = {label: rng.randrange(step, most + 1, step) for label in labels}
    question, answer, facts = _asked(rng, values, "bar", step)

    def paint(draw: Draw, rng: Random) -> None:
        frame = _Frame(draw, level, most, step)
        gap = frame.width / len(values)
        for i, (label, value) in enumerate(values.items()):
            x = frame.left + (i + 0.2) * gap
            ink = list(COLOURS.values())[rng.randrange(4)]
            draw.rectangle((x, frame.y(value), x + 0.6 * gap, frame.floor), fill=ink)
            write(draw, (x + 0.3 * gap, frame.floor + 10), label, 11)

    return Puzzle(question, _listed(values), answer, facts, paint, slips=(1, step))


def line_chart(rng: Random, level: int) -> Puzzle:
    """A line over months: a value, a change, the range, or the total of the first three."""
    months = MONTHS[: 5 if level == 2 else 7]
    step, most = (2, 20) if level == 2 else (5, 60)
    values = {month: rng.randrange(0, most + 1, step) for month in months}
    series = list(values.values())
    month = rng.randrange(len(months) - 1)
    change = series[month + 1] - series[month]
    word = "rise" if change >= 0 else "fall"
    kinds = {
        "value": (f"What is the value in {months[month]}?", series[month]),
        "change": (
            f"By how much does the value {word} from {months[month]} to {months[month + 1]}?",
            abs(change),
        ),
        "range": ("What is the highest value minus the lowest?", max(series) - min(series)),
        "total": (f"What do {months[0]}, {months[1]} and {months[2]} add up to?", sum(series[:3])),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: Draw, rng: Random) -> None:
        frame = _Frame(draw, level, most, step)
        gap = frame.width / len(values)
        points = [(frame.left + (i + 0.5) * gap, frame.y(v)) for i, v in enumerate(series)]
        draw.line(points, fill=rng.choice(list(COLOURS.values())), width=2)
        for (x, y), label in zip(points, months, strict=True):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=INK)
            write(draw, (x, frame.floor + 10), label, 11)

    question, answer = kinds[kind]
    facts = {"kind": kind, "place": month, "values": series}
    return Puzzle(question, _listed(values), answer, facts, paint, slips=(1, step))


def table(rng: Random, level: int) -> Puzzle:
    """A table of names and numbers; level 3 has two columns of numbers."""
    names = rng.sample(NAMES, 4 if level == 2 else 6)
    columns = GOODS[: level - 1]
    most = 20 if level == 2 else 60
    rows = {name: [rng.randint(1, most) for _ in columns] for name in names}
    which = rng.randrange(len(columns))
    values = {name: row[which] for name, row in rows.items()}
    question, answer, facts = _asked(rng, values, columns[which], 1)

    def paint(draw: Draw, rng: Random) -> None:
        edge, size = side(level), 14
        high = edge // (len(rows) + 2)
        wide = edge // (len(columns) + 1)
        lines = [["name", *columns], *([name, *map(str, row)] for name, row in rows.items())]
        top = rng.randint(4, high // 2)
        for i, line in enumerate(lines):
            y = top + i * high
            draw.line((4, y, edge - 5, y), fill=INK if i < 2 else PALE)
            for j, text in enumerate(line):
                write(draw, (8 + j * wide, y + high / 2), text, size, "lm")

    facts |= {"rows": [[name, *row] for name, row in rows.items()], "column": columns[which]}
    return Puzzle(question, _listed(values), answer, facts, paint)


def _asked(
    rng: Random, values: dict[str, int], what: str, step: int
) -> tuple[str, int, dict[str, Any]]:
    """Return (question, answer, facts) of a random question about named values."""
    first, second = rng.sample(list(values), 2)
    line = rng.randrange(step, max(values.values()) + 1, step)
    of = f" of {what}" if what != "bar" else ""
    kinds = {
        "value": (f"What number{of} belongs to {first}?", values[first]),
        "sum": (f"What do {first} and {second} have together{of}?", values[first] + values[second]),
        "difference": (
            f"What is the difference between {first} and {second}{of}?",
            abs(values[first] - values[second]),
        ),
        "range": (
            f"What is the largest number{of} minus the smallest?",
            max(values.values()) - min(values.values()),
        ),
        "over": (
            f"How many of the names have more than {line}{of}?",
            sum(value > line for value in values.values()),
        ),
    }
    kind = rng.choice(list(kinds))
    question, answer = kinds[kind]
    facts = {"kind": kind, "asked": [first, second, line], "values": values}
    return question, answer, facts


def _listed(values: dict[str, int]) -> str:
    return " ".join(f"{name} {value}" for name, value in values.items())


class _Frame:
    """The axes of a chart, with labelled grid lines from 0 to `most`."""

    def __init__(self, draw: Draw, level: int, most: int, step: int) -> None:
        edge = side(level)
        self.left, self.floor, self._top = 28, edge - 24, 10
        self.width = edge - self.left - 6
        self._most = most
        for value in range(0, most + 1, step):
            y = self.y(value)
            draw.line((self.left, y, edge - 5, y), fill=PALE if value else INK)
            if value % (2 * step) == 0:
                write(draw, (self.left - 4, y), str(value), 10, "rm")

    def y(self, value: int) -> float:
        """Return the y coordinate of a value."""
        return self.floor - (self.floor - self._top) * value / self._most
