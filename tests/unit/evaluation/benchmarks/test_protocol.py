"""Image tags of a prompt become marks, with the images that they show."""

from __future__ import annotations

from dataclasses import replace

from helpers import make_sample

from sapo_vl.evaluation.benchmarks.protocol import mark_images


def numbered(*numbers: int):
    sample = make_sample([(32, 32)] * len(numbers), seed=1)
    return replace(sample, metadata={"published": {"image_numbers": list(numbers)}})


def test_an_image_named_twice_is_shown_twice_and_unnamed_ones_come_first():
    sample = numbered(3, 1, 2)
    three, one, two = sample.images
    marked = mark_images("Compare <image 2> with <image_1>, then <image 2> and <image 9>.", sample)
    assert marked.text == "<image>Compare <image> with <image>, then <image> and <image 9>."
    assert marked.images == (three, two, one, two)
    assert marked.numbers == (3, 2, 1, 2)


def test_a_mark_in_the_text_itself_shows_nothing():
    marked = mark_images("An <image> tag, and <image 1>", numbered(1))
    assert marked.text == "An image tag, and <image>"
    assert len(marked.images) == 1
