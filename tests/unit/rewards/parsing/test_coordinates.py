"""Boxes, points and counts in the forms that models write, by hand."""

import pytest

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.coordinates import coordinates
from sapo_vl.rewards.verifiers import boxes, count, point
from sapo_vl.schema import Outcome, Sample


def sample(gold, answer_type, **metadata):
    return Sample("t-1", "t", "t", "?", (), gold, answer_type=answer_type, metadata=metadata)


@pytest.mark.parametrize(
    "response",
    [
        '[{"bbox_2d": [10, 20, 30, 40], "label": "cup"}]',
        '{"bbox_2d": [10, 20, 30, 40], "label": "cup [red]"}',
        "{'bbox_2d': [10, 20, 30, 40], 'label': 'cup [1,2,3]'}",
        '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "a \\"big\\" [x]"}\n]\n```',
        "<|box_start|>(10,20),(30,40)<|box_end|>",
        "(10,20) (30,40)",
        "[[10,20],[30,40]]",
        '{"bbox_2d": ["10", "20", "30", "40"]}',
        "[10, 20, 30, 40,]",
        "[10 20 30 40]",
        "(10, 20, 30, 40)",
        "<answer>10, 20, 30, 40</answer>",
        '{"x1": 10, "y1": 20, "x2": 30, "y2": 40}',
        "xmin=10, ymin=20, xmax=30, ymax=40",
        r"\boxed{\left[10, 20, 30, 40\right]}",
        "The cup (the red one) [see 1] is at [10, 20, 30, 40].",
        "It's at [10,20,30,40] and that's it",
    ],
)
def test_a_box_in_every_form(response):
    assert boxes.score(sample("[10, 20, 30, 40]", "boxes"), response).score == 1


@pytest.mark.parametrize(
    "response",
    [
        "[10,20,30]",
        "[nan,20,30,40]",
        "[10,20,30,inf]",
        "[30,40,10,20]",
        "(10,20)",
        "[1_0, 20, 30, 40]",
        "[10, 20, 30, 1e9]",
        "[10,20,30,40,50]",
        "(10,20),(30,40),(50,60)",
        "[[[[",
        "",
    ],
)
def test_what_is_no_box(response):
    verdict = boxes.score(sample("[10, 20, 30, 40]", "boxes"), response)
    assert (verdict.outcome, verdict.score) == (Outcome.WRONG, 0.0)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("(30, 40)", True),
        ('<point x="30" y="40" alt="cup">cup</point>', True),
        ('{"point_2d": [30, 40], "label": "a (b)"}', True),
        ("x=30, y=40", True),
        ("30, 40", True),
        ("[[30,40]]", True),
        ("The point is (30, 40) (see above).", True),
        ("(30,40),(1,1)", False),
        ("(300,40)", False),
        ("", False),
    ],
)
def test_a_point_in_every_form(response, right):
    verdict = point.score(sample("[30, 40]", "point", radius=5), response)
    assert (verdict.outcome is Outcome.CORRECT) is right


@pytest.mark.parametrize("radius", [float("nan"), "5", -1, True, float("inf")])
def test_a_radius_that_is_none_is_named(radius):
    with pytest.raises(DataError, match=r"t-1.*radius"):
        point.score(sample("[30, 40]", "point", radius=radius), "(30, 40)")


def test_numbers_are_read_by_hand():
    assert coordinates("(1,2),[3.5, -4, 5e1, .5]") == [(1.0, 2.0), (3.5, -4.0, 50.0, 0.5)]
    assert coordinates("see [3] and (a, b)") == []
    assert isinstance(coordinates("[1, 2, x, 4]"), str)


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("8", r"\boxed{\text{eight}}", True),
        ("8", "eight (8)", True),
        ("8", "8 (eight)", True),
        ("8", r"\boxed{8 (seven)}", False),
        ("8", r"\boxed{8 (3 + 5)}", True),
        ("8", r"\boxed{8 (3 + 4)}", False),
        ("8", "<answer>8 (3 red and 5 blue)</answer>", False),
        ("0", r"\boxed{\text{none}}", True),
        ("0", "There are no cats in the picture.", True),
        ("0", "There are no cats, but 3 dogs.", False),
        ("5", "<answer>exactly 5</answer>", True),
        ("5", "There are five apples.", True),
        ("5", r"\boxed{5 dozen}", False),
        ("60", r"\boxed{5 dozen}", True),
        ("5", "seven or eight", False),
        ("5", "There are 3 cats and 2 dogs, so 5 animals.", True),
        ("5", "<answer>5 cats and 3 dogs</answer>", False),
        ("21", "twenty-one", True),
        ("5", "一共有5个", True),
        ("5", "五", True),
    ],
)
def test_counts(gold, response, right):
    verdict = count.score(sample(gold, "count"), response)
    assert (verdict.outcome is Outcome.CORRECT) is right, verdict
