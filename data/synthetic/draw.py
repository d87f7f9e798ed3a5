"""Draw records: a task's puzzle, its image, and a teacher's solution.

Each record is a pure function of (seed, index, level): the random streams of puzzle and image are
seeded by these alone, so that record i is the same whatever the number of records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from random import Random
from typing import Literal, get_args

from sapo_vl.data.split import split_of
from sapo_vl.data.synthetic import charts, figures
from sapo_vl.data.synthetic.tasks import SIDE, TASKS, Puzzle, render
from sapo_vl.schema import IMAGE_MARK, Sample

HOLDOUT = 0.15
"""Share of all images (level 1) or puzzles (levels 2, 3) that no training set of any seed has."""

GUESS_SHARE, SLIP_SHARE = 0.5, 0.1
"""Shares of the weak teacher's solutions that guess or slip; the remaining 40 % are right."""

GUESS_TRACE = "guess"

LEVELS = (1, 2, 3)

HIGHER_TASKS: dict[str, Callable[[Random, int], Puzzle]] = {
    "scene": charts.scene,
    "bar_chart": charts.bar_chart,
    "line_chart": charts.line_chart,
    "table": charts.table,
    "clock": figures.clock,
    "number_line": figures.number_line,
    "angles": figures.angles,
    "grid_area": figures.grid_area,
    "printed": figures.printed,
    "sides": figures.sides,
}
"""Task name -> its puzzle function (random stream, level) on levels 2 and 3."""

Teacher = Literal["weak", "exact"]
TEACHERS: tuple[str, ...] = get_args(Teacher)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A puzzle with the teacher's solution."""

    puzzle: Puzzle
    teacher: str  # "guess", "slip" or "right"
    solution: str  # "<think>trace</think>\\boxed{answer}"


def tasks(level: int) -> dict[str, Callable[[Random], Puzzle]]:
    """Return task name -> puzzle function of a level."""
    if level == 1:
        return TASKS
    return {name: partial(_at_level, task, level) for name, task in HIGHER_TASKS.items()}


def _at_level(task: Callable[[Random, int], Puzzle], level: int, rng: Random) -> Puzzle:
    return task(rng, level)


def rows(
    *, seed: int, split: str, count: int, teacher: Teacher = "weak", level: int = 1
) -> Iterator[Sample]:
    """Yield `count` samples of one split, round-robin over the tasks.

    The split of a record depends only on its pixels (level 1) or its puzzle's parameters (levels 2
    and 3), so that different splits never share an image, not even across seeds. Test samples carry
    the exact solution under either teacher.
    """
    exact = teacher == "exact" or split == "test"
    names = list(tasks(level))
    cursors = list(range(len(names)))  # of 6 tasks, task t owns the records t, t + 6, t + 12, ..
    for produced in range(count):
        turn = produced % len(names)
        sample = None
        while sample is None:
            sample = _record(seed, cursors[turn], split, exact, level)
            cursors[turn] += len(names)
        yield sample


def corpus(seed: int, count: int) -> Iterator[str]:
    """Yield question and weak teacher's solution of `count` records, to train a tokenizer on.

    Questions come without their image mark.
    """
    for index in range(count):
        lesson = _lesson(_stream(seed, index, "lesson"), _task(index, 1), 1, exact=False)
        yield lesson.puzzle.question
        yield lesson.solution


def _record(seed: int, index: int, split: str, exact: bool, level: int) -> Sample | None:
    """Return record `index` of `seed`, or None if it belongs to the other split."""
    task = _task(index, level)
    prefix = "" if level == 1 else f"level{level} "
    lesson = _lesson(_stream(seed, index, f"{prefix}lesson"), task, level, exact)
    puzzle = lesson.puzzle
    if level > 1:
        parameters = json.dumps([task, puzzle.facts], sort_keys=True)
        if split_of(parameters.encode(), HOLDOUT) != split:
            return None
    edge = SIDE if level == 1 else charts.side(level)
    image = render(puzzle, _stream(seed, index, f"{prefix}picture"), edge)
    if level == 1 and split_of(image.tobytes(), HOLDOUT) != split:
        return None
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)
    return Sample(
        id=f"synthetic-{prefix.strip()}{'-' if prefix else ''}{seed}-{index}",
        dataset="synthetic",
        task=task,
        problem=IMAGE_MARK + puzzle.question,
        images=(png.getvalue(),),
        answer=str(puzzle.answer),
        split=split,
        solution=lesson.solution,
        metadata={"level": level, "teacher": lesson.teacher, **puzzle.facts},
    )


def _lesson(rng: Random, task: str, level: int, exact: bool) -> _Lesson:
    make = tasks(level)[task]
    puzzle = make(rng)
    trace, answer, teacher = puzzle.trace, puzzle.answer, "right"
    fault = 1.0 if exact else rng.random()
    if fault < GUESS_SHARE:
        trace, answer, teacher = GUESS_TRACE, make(rng).answer, "guess"
    elif fault < GUESS_SHARE + SLIP_SHARE:
        answer, teacher = _slip(rng, puzzle, level), "slip"
    return _Lesson(puzzle, teacher, f"<think>{trace}</think>\\boxed{{{answer}}}")


def _slip(rng: Random, puzzle: Puzzle, level: int) -> int:
    """Return a wrong answer near the right one: off by one of the slips, and not negative.

    At most 180 on level 1 (slips of 1 to 3 or 30), else the right answer plus the largest slip.
    """
    most = 180 if level == 1 else puzzle.answer + max(puzzle.slips)
    options = [puzzle.answer + sign * size for size in puzzle.slips for sign in (-1, 1)]
    return rng.choice([option for option in options if 0 <= option <= most])


def _task(index: int, level: int) -> str:
    names = list(tasks(level))
    return names[index % len(names)]


def _stream(seed: int, index: int, purpose: str) -> Random:
    """Return an independent random stream; string seeds are hashed (SHA-512), so none correlate."""
    return Random(f"{purpose} {seed} {index}")
