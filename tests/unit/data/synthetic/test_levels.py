"""Levels 2 and 3 of the synthetic source: answers derived a second time, nothing leaks."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from sapo_vl.data import store, synthetic
from sapo_vl.data.images import open_image
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.records import validate
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.data.synthetic.charts import COLOURS
from sapo_vl.data.synthetic.draw import HIGHER_TASKS
from sapo_vl.errors import ConfigError


@lru_cache
def drawn(level, split="train", seed=5, count=400):
    return tuple(synthetic.rows(seed=seed, split=split, count=count, level=level, teacher="exact"))


def numbers(text):
    return list(map(int, re.findall(r"\d+", text)))


def of_values(sample, facts):
    """The answer to a question about named values."""
    values = facts["values"]
    first, second, line = facts["asked"]
    return {
        "value": values[first],
        "sum": values[first] + values[second],
        "difference": abs(values[first] - values[second]),
        "range": max(values.values()) - min(values.values()),
        "over": len([v for v in values.values() if v > line]),
    }[facts["kind"]]


def scene(sample, facts):
    colour, shape = facts["asked"]
    chosen = {
        "both": lambda c, s: c == colour and s == shape,
        "colour": lambda c, s: c == colour,
        "not": lambda c, s: s != shape,
        "either": lambda c, s: c == colour or s == shape,
    }[facts["kind"]]
    return sum(chosen(c, s) for _, c, s in facts["shapes"])


def line_chart(sample, facts):
    values, place = facts["values"], facts["place"]
    return {
        "value": values[place],
        "change": abs(values[place + 1] - values[place]),
        "range": max(values) - min(values),
        "total": sum(values[:3]),
    }[facts["kind"]]


def clock(sample, facts):
    hour, minute = facts["hour"], facts["minute"]
    return {"past": minute, "until": 60 - minute, "since": hour * 60 + minute}[facts["kind"]]


def number_line(sample, facts):
    low, high = (facts["start"] + t * facts["step"] for t in facts["ticks"])
    return {"value": low, "distance": high - low, "sum": low + high}[facts["kind"]]


def grid_area(sample, facts):
    cells = {
        (x, y)
        for i, (w, h) in enumerate(zip(facts["widths"], facts["heights"], strict=True))
        for x in range(sum(facts["widths"][:i]), sum(facts["widths"][: i + 1]))
        for y in range(h)
    }
    if facts["kind"] == "area":
        return len(cells)
    around = ((1, 0), (-1, 0), (0, 1), (0, -1))
    return sum((x + a, y + b) not in cells for x, y in cells for a, b in around)


def printed(sample, facts):
    total, sign = 0, 1
    for part in re.findall(r"[+-]|\d+(?: x \d+)?", facts["text"]):
        if part in "+-":
            sign = 1 if part == "+" else -1
        else:
            total += sign * int(np.prod(numbers(part)))
    return total


def sides(sample, facts):
    if "c" in facts:
        a, b, c = facts["a"], facts["b"], facts["c"]
        assert a * a + b * b == c * c
        by_kind = {"hypotenuse": c, "leg": b, "perimeter": a + b + c, "area": a * b / 2}
        return by_kind[facts["kind"]]
    w, h = facts["w"], facts["h"]
    if facts["kind"] == "side":
        assert str(w * h) in sample.problem
    return {"perimeter": w + h + w + h, "area": w * h, "side": h}[facts["kind"]]


DERIVE = {
    "scene": scene,
    "bar_chart": of_values,
    "line_chart": line_chart,
    "table": of_values,
    "clock": clock,
    "number_line": number_line,
    "angles": lambda sample, facts: 180 - facts["first"] - facts["second"],
    "grid_area": grid_area,
    "printed": printed,
    "sides": sides,
}


@pytest.mark.parametrize("level", [2, 3])
def test_answers_follow_from_the_parameters(level):
    for sample in drawn(level):
        validate(sample)
        derived = DERIVE[sample.task](sample, sample.metadata)
        assert derived == int(sample.answer) >= 0, sample
        assert sample.solution.endswith(f"\\boxed{{{sample.answer}}}")
        assert sample.metadata["level"] == level
    assert Counter(s.task for s in drawn(level)) == dict.fromkeys(HIGHER_TASKS, 40)


@pytest.mark.parametrize("level", [2, 3])
def test_bars_are_as_high_as_their_values(level):
    seen = 0
    for sample in drawn(level):
        if sample.task != "bar_chart":
            continue
        pixels = np.asarray(open_image(sample.images[0])).astype(int)
        inks = np.array(list(COLOURS.values()))
        inked = (np.abs(pixels[:, :, None] - inks).sum(-1) == 0).any(-1)
        floor, top = pixels.shape[0] - 24, 10
        columns = np.array_split(np.arange(28, pixels.shape[1] - 6), len(sample.metadata["values"]))
        most = 20 if level == 2 else 60
        for place, value in zip(columns, sample.metadata["values"].values(), strict=True):
            height = inked[:, place].sum(axis=0).max() - 1
            assert height * most / (floor - top) == pytest.approx(value, abs=most / 100)
            seen += 1
    assert seen >= 160


@pytest.mark.parametrize("level", [2, 3])
def test_no_puzzle_is_on_both_sides(level):
    def parameters(split, seed):
        facts = [(s.task, s.metadata | {"teacher": ""}) for s in drawn(level, split, seed)]
        return {json.dumps(f, sort_keys=True) for f in facts}

    trained = parameters("train", 5) | parameters("train", 6)
    held_out = parameters("test", 5) | parameters("test", 6)
    assert not trained & held_out
    assert len(held_out) > 300


def test_levels_are_stored_and_checked(tmp_path):
    report = prepare(
        "synthetic",
        PrepareOptions(tmp_path / "set"),
        SyntheticOptions(count=20, test_count=10, level=3),
    )
    assert report.kept == {"train": 20, "test": 10}
    assert store.load(tmp_path / "set", "train").ids[0].startswith("synthetic-level3-0-")
    with pytest.raises(ConfigError, match="level: 4; allowed: 1, 2, 3"):
        prepare("synthetic", PrepareOptions(tmp_path / "x"), SyntheticOptions(level=4))
