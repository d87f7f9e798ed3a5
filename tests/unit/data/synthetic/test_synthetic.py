"""The synthetic source: answers derived a second time, from the trace and from the pixels."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.data import synthetic
from sapo_vl.data.images import open_image
from sapo_vl.data.records import validate
from sapo_vl.data.synthetic.tasks import TASKS

SOLUTION = re.compile(r"<think>(.*)</think>\\boxed\{(\d+)\}")
COLOURS = ("red", "green", "blue")


@lru_cache
def drawn(split="train", teacher="exact", seed=3, count=600):
    return tuple(synthetic.rows(seed=seed, split=split, count=count, teacher=teacher))


def pixel_rows(sample):
    return np.asarray(open_image(sample.images[0])).astype(int)


def mask(pixels_HWC, colour):
    """Where one channel stands out; pale fills and greys do not."""
    channel = COLOURS.index(colour)
    others = np.delete(pixels_HWC, channel, axis=2).max(axis=2)
    return pixels_HWC[:, :, channel] - others > 62


def numbers(trace):
    return list(map(int, re.findall(r"\d+", trace)))


def answer_from(task, question, trace):
    """The answer as a reader of question and trace works it out."""
    n = numbers(trace)
    if task in ("count", "bars"):
        by = dict(zip(COLOURS, n, strict=True))
        named = [by[c] for c in re.findall("red|green|blue", question)]
        if "tallest" in question:
            return max(n)
        if "more" in question:
            return named[0] - named[1]
        return abs(named[0] - named[1]) if "difference" in question else sum(named)
    if task == "angle":
        turn = abs(n[0] - n[1])
        between = 360 - turn if turn > 180 else turn
        return 180 - between if "supplement" in question else between
    if task == "line":
        return n[1] - n[2] if "right end" in question else n[2]
    if task == "rect":
        return n[0] * n[1] if "area" in question else n[0] + n[0] + n[1] + n[1]
    return n[0] + n[1]


def trace_from_pixels(task, p):
    """The numbers of the trace, measured in the picture."""
    if task == "count":
        cells = [(y, x) for y in range(0, 64, 16) for x in range(0, 64, 16)]
        return [
            sum(mask(p, c)[y : y + 16, x : x + 16].sum() > 30 for y, x in cells) for c in COLOURS
        ]
    if task == "bars":
        return [int(mask(p, c).any(axis=1).sum()) // 10 for c in COLOURS]
    if task == "angle":
        centre = np.argwhere(p.max(axis=2) < 60).mean(axis=0)
        found = []
        for colour in ("blue", "red"):
            dy, dx = np.argwhere(mask(p, colour)).mean(axis=0) - centre
            found.append(round(math.degrees(math.atan2(-dy, dx)) / 30) * 30 % 360)
        return found
    if task == "line":
        y, x = np.argwhere(mask(p, "red")).mean(axis=0)
        ticks = np.flatnonzero(p[round(y) - 5].max(axis=1) < 100)
        assert len(ticks) == 7
        return [0, 6, int(np.abs(ticks - x).argmin())]
    outline = np.argwhere(mask(p, "red") | mask(p, "green") | mask(p, "blue"))
    height, width = (outline.max(axis=0) - outline.min(axis=0)) // 7
    return [int(width), int(height)]


def test_answers_follow_from_question_and_trace():
    for sample in drawn():
        trace, boxed = SOLUTION.fullmatch(sample.solution).groups()
        derived = answer_from(sample.task, sample.problem, trace)
        assert str(derived) == sample.answer == boxed, sample


def test_traces_follow_from_the_pixels():
    for sample in drawn():
        if sample.task != "arith":  # printed digits are read by no three-line rule
            trace = SOLUTION.fullmatch(sample.solution)[1]
            assert trace_from_pixels(sample.task, pixel_rows(sample)) == numbers(trace), sample


def test_answers_lie_in_the_ranges_that_the_table_gives():
    ranges = {
        "count": range(6),
        "bars": range(11),
        "angle": range(0, 181, 30),
        "line": range(7),
        "arith": range(2, 19),
        "rect": range(1, 17),
    }
    for sample in drawn():
        assert int(sample.answer) in ranges[sample.task]


def test_trace_formats_and_every_question_kind():
    formats = {
        "count": r"red \d green \d blue \d",
        "bars": r"red \d green \d blue \d",
        "angle": r"blue \d+ red \d+",
        "line": r"from 0 to 6 tick \d",
        "arith": r"\d \+ \d",
        "rect": r"w \d h \d",
    }
    kinds = {task: set() for task in formats}
    for sample in drawn():
        assert re.fullmatch(formats[sample.task], SOLUTION.fullmatch(sample.solution)[1])
        kinds[sample.task].add(sample.metadata["kind"])
    assert kinds == {
        "count": {"one", "both", "more"},
        "bars": {"sum", "difference", "tallest"},
        "angle": {"angle", "supplement"},
        "line": {"value", "distance"},
        "arith": {"sum"},
        "rect": {"perimeter", "area"},
    }


def test_samples_are_valid_small_ascii_and_balanced():
    for sample in drawn():
        validate(sample)
        assert sample.problem.startswith("<image>")
        assert (sample.problem + sample.solution).isascii()
        assert pixel_rows(sample).shape == (64, 64, 3)
    assert Counter(s.task for s in drawn()) == dict.fromkeys(TASKS, 100)
    assert len({s.id for s in drawn()}) == 600


def test_the_weak_teachers_faults():
    lessons = drawn(teacher="weak", seed=0, count=3000)
    kinds = Counter(s.metadata["teacher"] for s in lessons)
    assert kinds["guess"] / 3000 == pytest.approx(0.5, abs=0.03)
    assert kinds["slip"] / 3000 == pytest.approx(0.1, abs=0.02)
    assert kinds["right"] / 3000 == pytest.approx(0.4, abs=0.03)
    for sample in lessons:
        trace, boxed = SOLUTION.fullmatch(sample.solution).groups()
        off = abs(int(boxed) - int(sample.answer))
        if sample.metadata["teacher"] == "guess":
            assert trace == "guess"
            continue
        assert str(answer_from(sample.task, sample.problem, trace)) == sample.answer
        if sample.metadata["teacher"] == "right":
            assert off == 0
        else:
            assert off in ((30,) if sample.task == "angle" else (1, 2, 3))


def test_guesses_are_right_about_as_often_as_the_table_says():
    guesses = [
        s for s in drawn(teacher="weak", seed=0, count=3000) if s.metadata["teacher"] == "guess"
    ]
    table = {"count": 0.30, "bars": 0.13, "angle": 0.17, "line": 0.15, "arith": 0.08, "rect": 0.11}
    for task, chance in table.items():
        of_task = [s for s in guesses if s.task == task]
        hit = sum(SOLUTION.fullmatch(s.solution)[2] == s.answer for s in of_task)
        assert hit / len(of_task) == pytest.approx(chance, abs=0.07)


def test_the_teacher_changes_the_solution_only():
    weak = drawn(teacher="weak", count=60)
    for lazy, exact in zip(weak, drawn(count=60), strict=True):
        assert (lazy.id, lazy.problem, lazy.images, lazy.answer) == (
            exact.id,
            exact.problem,
            exact.images,
            exact.answer,
        )


def test_held_out_solutions_are_exact_under_the_weak_teacher():
    for sample in drawn(split="test", teacher="weak", count=60):
        assert sample.metadata["teacher"] == "right"
        assert sample.split == "test"


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 20), st.sampled_from(["train", "test"]))
def test_a_shorter_run_is_the_beginning_of_a_longer_one(seed, count, split):
    short = list(synthetic.rows(seed=seed, split=split, count=count))
    longer = synthetic.rows(seed=seed, split=split, count=count + 5)
    assert short == list(islice(longer, count))


def test_a_record_is_pinned():
    sample = next(s for s in drawn(seed=0, count=6) if s.id == "synthetic-0-2")
    assert sample.problem == "<image>What is the angle in degrees?"
    assert sample.solution == r"<think>blue 0 red 90</think>\boxed{90}"


def test_no_held_out_picture_is_ever_trained_on():
    def pictures(split, seed):
        return {pixel_rows(s).tobytes() for s in drawn(split=split, seed=seed, count=300)}

    trained = pictures("train", 0) | pictures("train", 1)
    held_out = pictures("test", 0) | pictures("test", 1)
    assert len(trained) > 590
    assert len(held_out) > 590
    assert not trained & held_out
    last = max(int(s.id.split("-")[2]) for s in drawn(split="test", seed=0, count=300))
    assert 300 / last == pytest.approx(0.15, abs=0.04)


def test_the_corpus_is_questions_and_weak_solutions():
    texts = list(synthetic.corpus(seed=0, count=12))
    assert len(texts) == 24
    assert texts[4] == "What is the angle in degrees?"
    assert all(SOLUTION.fullmatch(text) for text in texts[1::2])
    assert not any("<image>" in text for text in texts)
