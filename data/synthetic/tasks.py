"""The six level 1 tasks of the synthetic source: 64x64 images with exact answers.

A task maps a random stream to a `Puzzle`. `Puzzle.paint` does the drawing, so that answers are
available without images. Colours, sizes and positions jitter; nothing the answer depends on ever
overlaps or leaves the image.

    task   image                                              answers            random guess
    count  2 to 5 red, green, blue shapes on a 4x4 grid       0 to 5             0.29
    bars   three bars of height 1 to 5 over grid lines        0 to 10            0.13
    angle  a red hand in 30 degree steps, a blue at 0 or 90   0 to 180, by 30    0.17
    line   a number line from 0 to 6 with a red point         0 to 6             0.14
    arith  a sum of two digits 1 to 6, printed                2 to 12            0.11
    rect   a rectangle on an 8x8 grid, sides 1 to 4           1 to 16            0.11

The last column is the accuracy of guessing an answer from the task's own answer distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIDE = 64
"""Side of each image in pixels."""

COLOURS = {"red": (216, 36, 36), "green": (28, 150, 40), "blue": (36, 72, 216)}
"""Far enough apart that the jitter of `_tint` never makes two of them look alike."""

Paint = Callable[[ImageDraw.ImageDraw, Random], None]


@dataclass(frozen=True, slots=True)
class Puzzle:
    """One problem, not drawn yet.

    Puzzle("How many red shapes?", "red 3 green 1 blue 0", 3, {"kind": "one", ...}, paint)
    """

    question: str  # without the image mark
    trace: str  # what the image shows, as noted before the last step
    answer: int
    facts: dict[str, Any]  # parameters of image and question; Sample.metadata
    paint: Paint  # draws it; its random stream only moves and tints
    slips: tuple[int, ...] = (1, 2, 3)  # possible errors of a slip in the last step


def render(puzzle: Puzzle, rng: Random, side: int = SIDE) -> Image.Image:
    """Draw a puzzle on a nearly white background: RGB, `side` x `side` pixels."""
    shade = rng.randint(249, 255)
    image = Image.new("RGB", (side, side), (shade, shade, shade))
    puzzle.paint(ImageDraw.Draw(image), rng)
    return image


def count(rng: Random) -> Puzzle:
    """Count coloured shapes: one colour, two colours, or how many more of one."""
    shapes = [
        (rng.choice(list(COLOURS)), rng.choice(("circle", "square", "triangle")))
        for _ in range(rng.randint(2, 5))
    ]
    cells = rng.sample(range(16), len(shapes))
    number = {colour: sum(c == colour for c, _ in shapes) for colour in COLOURS}
    first, second = rng.sample(list(COLOURS), 2)
    if number[first] < number[second]:
        first, second = second, first
    kinds = {
        "one": (f"How many {first} shapes?", number[first]),
        "both": (f"How many {first} and {second} shapes?", number[first] + number[second]),
        "more": (
            f"How many more {first} than {second} shapes?",
            number[first] - number[second],
        ),
    }
    kind = rng.choice(list(kinds) if number[first] > number[second] else ["one", "both"])

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        for (colour, shape), cell in zip(shapes, cells, strict=True):
            size = rng.randint(11, 12)
            x = cell % 4 * 16 + rng.randint(1, 3)
            y = cell // 4 * 16 + rng.randint(1, 3)
            _shape(draw, shape, x, y, size, _tint(colour, rng))

    facts = {"kind": kind, "colours": [first, second], "shapes": [list(s) for s in shapes]}
    question, answer = kinds[kind]
    return Puzzle(question, _by_colour(number), answer, facts, paint)


def bars(rng: Random) -> Puzzle:
    """Read three bars: a sum, a difference, or the tallest."""
    height = {colour: rng.randint(1, 5) for colour in COLOURS}
    first, second = rng.sample(list(COLOURS), 2)
    kinds = {
        "sum": (f"What is the sum of {first} and {second}?", height[first] + height[second]),
        "difference": (
            f"What is the difference of {first} and {second}?",
            abs(height[first] - height[second]),
        ),
        "tallest": ("How tall is the tallest bar?", max(height.values())),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        unit, floor = 10, rng.randint(57, 58)
        width, left = rng.randint(12, 13), rng.randint(4, 5)
        for level in range(6):
            y = floor - level * unit
            draw.line((0, y, SIDE - 1, y), fill=(225, 225, 225) if level else (60, 60, 60))
        for index, (colour, units) in enumerate(height.items()):
            x = left + index * (width + 5)
            draw.rectangle((x, floor - units * unit, x + width, floor), fill=_tint(colour, rng))

    facts = {"kind": kind, "colours": [first, second], "heights": height}
    question, answer = kinds[kind]
    return Puzzle(question, _by_colour(height), answer, facts, paint)


def angle(rng: Random) -> Puzzle:
    """Two hands from one centre: the angle between them (30 to 180), or its supplement.

    Directions are degrees counter-clockwise from the right.
    """
    blue = rng.choice((0, 90))
    red = (blue + rng.randrange(30, 360, 30)) % 360
    between = min((red - blue) % 360, (blue - red) % 360)
    kinds = {
        "angle": ("What is the angle in degrees?", between),
        "supplement": ("What is the supplement of the angle in degrees?", 180 - between),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        x, y = rng.randint(31, 32), rng.randint(31, 32)
        for colour, degrees in (("blue", blue), ("red", red)):
            length, turn = rng.randint(25, 27), math.radians(degrees)
            tip = (round(x + length * math.cos(turn)), round(y - length * math.sin(turn)))
            draw.line((x, y, *tip), fill=_tint(colour, rng), width=4)
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(40, 40, 40))

    facts = {"kind": kind, "blue": blue, "red": red}
    question, answer = kinds[kind]
    return Puzzle(question, f"blue {blue} red {red}", answer, facts, paint, slips=(30,))


def line(rng: Random) -> Puzzle:
    """A number line from 0 to 6: the red point's value, or its distance to the right end."""
    tick = rng.randint(0, 6)
    kinds = {
        "value": ("What number is the red point at?", tick),
        "distance": ("How far is the red point from the right end?", 6 - tick),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        step, y = 9, rng.randint(26, 30)
        left = rng.randint(4, 5)
        ink = (50, 50, 50)
        draw.line((left, y, left + 6 * step, y), fill=ink)
        for number in range(7):
            x = left + number * step
            draw.line((x, y - 5, x, y + 5), fill=ink)
        for number in (0, 6):
            x = left + number * step
            draw.text((x, y + 7), str(number), fill=ink, font=font(11), anchor="mt")
        x, radius = left + tick * step, rng.randint(3, 4)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_tint("red", rng))

    facts = {"kind": kind, "tick": tick}
    question, answer = kinds[kind]
    return Puzzle(question, f"from 0 to 6 tick {tick}", answer, facts, paint)


def arith(rng: Random) -> Puzzle:
    """A printed sum of two digits 1 to 6."""
    a, b = rng.randint(1, 6), rng.randint(1, 6)

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        ink = tuple(rng.randint(0, 60) for _ in range(3))
        centre = (32 + rng.randint(-1, 1), 32 + rng.randint(-2, 2))
        draw.text(centre, f"{a} + {b}", fill=ink, font=font(22), anchor="mm")

    facts = {"kind": "sum", "a": a, "b": b}
    return Puzzle("What is the sum?", f"{a} + {b}", a + b, facts, paint)


def rect(rng: Random) -> Puzzle:
    """A rectangle on an 8x8 grid: its perimeter or its area in grid units."""
    w, h = rng.randint(1, 4), rng.randint(1, 4)
    kinds = {
        "perimeter": ("What is the perimeter?", 2 * (w + h)),
        "area": ("What is the area?", w * h),
    }
    kind = rng.choice(list(kinds))

    def paint(draw: ImageDraw.ImageDraw, rng: Random) -> None:
        cell = 7
        left, top = rng.randint(3, 4), rng.randint(3, 4)
        x, y = left + cell * rng.randint(0, 2), top + cell * rng.randint(0, 2)
        ink = _tint(rng.choice(list(COLOURS)), rng)
        pale = tuple(255 - (255 - c) // 2 for c in ink)
        draw.rectangle((x, y, x + w * cell, y + h * cell), fill=pale)
        for k in range(9):
            step = k * cell
            draw.line((left, top + step, left + 8 * cell, top + step), fill=(225, 225, 225))
            draw.line((left + step, top, left + step, top + 8 * cell), fill=(225, 225, 225))
        draw.rectangle((x, y, x + w * cell, y + h * cell), outline=ink, width=2)

    facts = {"kind": kind, "w": w, "h": h}
    question, answer = kinds[kind]
    return Puzzle(question, f"w {w} h {h}", answer, facts, paint)


TASKS: dict[str, Callable[[Random], Puzzle]] = {
    "count": count,
    "bars": bars,
    "angle": angle,
    "line": line,
    "arith": arith,
    "rect": rect,
}
"""Task name (`Sample.task`) -> its puzzle function."""


def _by_colour(number: dict[str, int]) -> str:
    return " ".join(f"{colour} {n}" for colour, n in number.items())


def _tint(colour: str, rng: Random) -> tuple[int, ...]:
    return tuple(channel + rng.randint(-20, 20) for channel in COLOURS[colour])


def _shape(
    draw: ImageDraw.ImageDraw, shape: str, x: int, y: int, size: int, ink: tuple[int, ...]
) -> None:
    box = (x, y, x + size - 1, y + size - 1)
    if shape == "circle":
        draw.ellipse(box, fill=ink)
    elif shape == "square":
        draw.rectangle(box, fill=ink)
    else:
        draw.polygon([(x, box[3]), (box[2], box[3]), (x + size // 2, y)], fill=ink)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in font, `size` pixels high."""
    return ImageFont.load_default(size=size)
