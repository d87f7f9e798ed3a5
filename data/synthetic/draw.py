"""The synthetic source: drawn tasks with exact answers, on three levels.

One row, seed 0 (the picture, a 64x64 PNG, shows a red and a blue hand):

    Sample(id="synthetic-0-2", dataset="synthetic", task="angle",
           problem="<image>What is the angle in degrees?", images=(b"\\x89PNG..",), answer="90",
           answer_type="number", split="train",
           solution="<think>blue 0 red 90</think>\\\\boxed{90}",
           metadata={"level": 1, "teacher": "right", "kind": "angle", "blue": 0, "red": 90})

Level 1 has six tasks on 64x64 pixels that a tiny model can learn on a CPU in minutes
(synthetic_tasks.py). Levels 2 and 3 have ten more, in larger pictures with more to read
(synthetic_charts.py, synthetic_figures.py).

The training solutions come from a weak teacher: half are hasty guesses, a tenth read the picture
right and slip in the last step. Warm-up on perfect ones leaves reinforcement learning nothing to
do. What is held out is decided by the picture on level 1, and by the puzzle's parameters on the
others, so that no puzzle is ever on both sides, for any seed. Pictures are reproducible with the
same Pillow; another version may set the printed digits a pixel apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Literal, get_args

from sapo_vl.data.split import side
from sapo_vl.data.synthetic import charts as synthetic_charts
from sapo_vl.data.synthetic import figures as synthetic_figures
from sapo_vl.data.synthetic.tasks import SIDE, TASKS, Puzzle, render
from sapo_vl.schema import IMAGE_MARK, Sample

HOLDOUT = 0.15
"""Share of all pictures that no training set of any seed contains."""

GUESS_SHARE, SLIP_SHARE = 0.5, 0.1
"""The weak teacher's faults; the remaining 40 % are right."""

GUESS_TRACE = "guess"

LEVELS = (1, 2, 3)

HigherTask = Callable[[Random, int], Puzzle]

HIGHER_TASKS: dict[str, HigherTask] = {
    "scene": synthetic_charts.scene,
    "bar_chart": synthetic_charts.bar_chart,
    "line_chart": synthetic_charts.line_chart,
    "table": synthetic_charts.table,
    "clock": synthetic_figures.clock,
    "number_line": synthetic_figures.number_line,
    "angles": synthetic_figures.angles,
    "grid_area": synthetic_figures.grid_area,
    "printed": synthetic_figures.printed,
    "sides": synthetic_figures.sides,
}
"""Task name -> its puzzle maker on levels 2 and 3."""

Teacher = Literal["weak", "exact"]
TEACHERS: tuple[str, ...] = get_args(Teacher)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A puzzle with a teacher's response to it."""

    puzzle: Puzzle
    teacher: str  # "guess", "slip" or "right"
    solution: str  # "<think>trace</think>\\boxed{answer}"


def tasks(level: int) -> dict[str, Callable[[Random], Puzzle]]:
    """Return the puzzle makers of a level by the tasks' names."""
    if level == 1:
        return TASKS
    return {name: _at(task, level) for name, task in HIGHER_TASKS.items()}


def _at(task: HigherTask, level: int) -> Callable[[Random], Puzzle]:
    return lambda rng: task(rng, level)


def rows(
    *, seed: int, split: str, count: int, teacher: Teacher = "weak", level: int = 1
) -> Iterator[Sample]:
    """Yield `count` samples of one split, the tasks in turn.

    Record i of seed s is the same whatever `count` is, and its picture's pixels alone (level 1; its
    parameters alone on the others) decide its split, so samples of different splits never share a
    picture, not even across seeds. Held-out samples carry the exact solution under either teacher.
    """
    exact = teacher == "exact" or split == "test"
    names = list(tasks(level))
    cursors = list(range(len(names)))  # task t owns the records t, t + 6, t + 12, ...
    for produced in range(count):
        turn = produced % len(names)
        sample = None
        while sample is None:
            sample = _record(seed, cursors[turn], split, exact, level)
            cursors[turn] += len(names)
        yield sample


def corpus(seed: int, count: int) -> Iterator[str]:
    """Yield the texts of `count` records for training a tokenizer: question, then solution.

    Questions come without their image mark, solutions from the weak teacher.
    """
    for index in range(count):
        lesson = _lesson(_stream(seed, index, "lesson"), _task(index, 1), 1, exact=False)
        yield lesson.puzzle.question
        yield lesson.solution


def _record(seed: int, index: int, split: str, exact: bool, level: int) -> Sample | None:
    """Record `index` of `seed`, or None when it belongs to the other split."""
    task = _task(index, level)
    own = "" if level == 1 else f"level{level} "
    lesson = _lesson(_stream(seed, index, f"{own}lesson"), task, level, exact)
    puzzle = lesson.puzzle
    if level > 1:
        parameters = json.dumps([task, puzzle.facts], sort_keys=True)
        if side(parameters.encode(), HOLDOUT) != split:
            return None
    edge = SIDE if level == 1 else synthetic_charts.side(level)
    image = render(puzzle, _stream(seed, index, f"{own}picture"), edge)
    if level == 1 and side(image.tobytes(), HOLDOUT) != split:
        return None
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)
    return Sample(
        id=f"synthetic-{own.strip()}{'-' if own else ''}{seed}-{index}",
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
    """A wrong answer near the right one, from 0 on (level 1: off by 1 to 3 or 30, up to 180)."""
    most = 180 if level == 1 else puzzle.answer + max(puzzle.slips)
    options = [puzzle.answer + sign * size for size in puzzle.slips for sign in (-1, 1)]
    return rng.choice([option for option in options if 0 <= option <= most])


def _task(index: int, level: int) -> str:
    names = list(tasks(level))
    return names[index % len(names)]


def _stream(seed: int, index: int, purpose: str) -> Random:
    """An independent random stream; text seeds go through SHA-512, so neighbours share nothing."""
    return Random(f"{purpose} {seed} {index}")
