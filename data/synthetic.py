"""The synthetic source: six drawn tasks a tiny model can learn on a CPU in minutes.

One row, seed 0 (the picture, a 64x64 PNG, shows a red and a blue hand):

    Sample(id="synthetic-0-2", dataset="synthetic", task="angle",
           problem="<image>What is the angle in degrees?", images=(b"\\x89PNG..",), answer="90",
           answer_type="number", split="train",
           solution="<think>blue 0 red 90</think>\\\\boxed{90}",
           metadata={"level": 1, "teacher": "right", "kind": "angle", "blue": 0, "red": 90})

The training solutions come from a weak teacher: half are hasty guesses, a tenth read the picture
right and slip in the last step. Warm-up on perfect ones leaves reinforcement learning nothing to
do. The tasks and their answer ranges are in synthetic_tasks.py. Pictures are reproducible with the
same Pillow; another version may set the printed digits a pixel apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Literal, get_args

from sapo_vl.data.split import side
from sapo_vl.data.synthetic_tasks import TASKS, Puzzle, render
from sapo_vl.schema import IMAGE_MARK, Sample

HOLDOUT = 0.15
"""Share of all pictures that no training set of any seed contains."""

GUESS_SHARE, SLIP_SHARE = 0.5, 0.1
"""The weak teacher's faults; the remaining 40 % are right."""

GUESS_TRACE = "guess"

Teacher = Literal["weak", "exact"]
TEACHERS: tuple[str, ...] = get_args(Teacher)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A puzzle with a teacher's response to it."""

    puzzle: Puzzle
    teacher: str  # "guess", "slip" or "right"
    solution: str  # "<think>trace</think>\\boxed{answer}"


def rows(*, seed: int, split: str, count: int, teacher: Teacher = "weak") -> Iterator[Sample]:
    """Yield `count` samples of one split, the tasks in turn.

    Record i of seed s is the same whatever `count` is, and its picture's pixels alone decide its
    split, so samples of different splits never share a picture, not even across seeds. Held-out
    samples carry the exact solution under either teacher.
    """
    exact = teacher == "exact" or split == "test"
    names = list(TASKS)
    cursors = list(range(len(names)))  # task t owns the records t, t + 6, t + 12, ...
    for produced in range(count):
        turn = produced % len(names)
        sample = None
        while sample is None:
            sample = _record(seed, cursors[turn], split, exact)
            cursors[turn] += len(names)
        yield sample


def corpus(seed: int, count: int) -> Iterator[str]:
    """Yield the texts of `count` records for training a tokenizer: question, then solution.

    Questions come without their image mark, solutions from the weak teacher.
    """
    for index in range(count):
        lesson = _lesson(_stream(seed, index, "lesson"), _task(index), exact=False)
        yield lesson.puzzle.question
        yield lesson.solution


def _record(seed: int, index: int, split: str, exact: bool) -> Sample | None:
    """Record `index` of `seed`, or None when its picture belongs to the other split."""
    task = _task(index)
    lesson = _lesson(_stream(seed, index, "lesson"), task, exact)
    puzzle = lesson.puzzle
    image = render(puzzle, _stream(seed, index, "picture"))
    if side(image.tobytes(), HOLDOUT) != split:
        return None
    png = BytesIO()
    image.save(png, "PNG", compress_level=1)
    return Sample(
        id=f"synthetic-{seed}-{index}",
        dataset="synthetic",
        task=task,
        problem=IMAGE_MARK + puzzle.question,
        images=(png.getvalue(),),
        answer=str(puzzle.answer),
        split=split,
        solution=lesson.solution,
        metadata={"level": 1, "teacher": lesson.teacher, **puzzle.facts},
    )


def _lesson(rng: Random, task: str, exact: bool) -> _Lesson:
    puzzle = TASKS[task](rng)
    trace, answer, teacher = puzzle.trace, puzzle.answer, "right"
    fault = 1.0 if exact else rng.random()
    if fault < GUESS_SHARE:
        trace, answer, teacher = GUESS_TRACE, TASKS[task](rng).answer, "guess"
    elif fault < GUESS_SHARE + SLIP_SHARE:
        answer, teacher = _slip(rng, puzzle), "slip"
    return _Lesson(puzzle, teacher, f"<think>{trace}</think>\\boxed{{{answer}}}")


def _slip(rng: Random, puzzle: Puzzle) -> int:
    """A wrong answer near the right one: off by 1 to 3 (angles: by 30), from 0 to 180."""
    options = [puzzle.answer + sign * size for size in puzzle.slips for sign in (-1, 1)]
    return rng.choice([option for option in options if 0 <= option <= 180])


def _task(index: int) -> str:
    return list(TASKS)[index % len(TASKS)]


def _stream(seed: int, index: int, purpose: str) -> Random:
    """An independent random stream; text seeds go through SHA-512, so neighbours share nothing."""
    return Random(f"{purpose} {seed} {index}")
