"""Choice, count, boxes, point, text and the shaping terms; every verifier's own gold is 1."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.errors import ConfigError, DataError
from sapo_vl.rewards import CHECK_GOLD
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers import (
    answer,
    boxes,
    choice,
    count,
    language,
    overlong,
    point,
    repetition,
    shortness,
    text,
)
from sapo_vl.schema import ANSWER_TYPES, Outcome, Sample

ANIMALS = ("cat", "dog", "cow", "hen")
GOLDS = {
    "number": "42",
    "expression": "x^2+1",
    "equation": "y = 2x+1",
    "tuple": "(1,2)",
    "interval": "[0,1)",
    "set": r"\{1,2\}",
    "choice": "B",
    "multi_choice": "A, D",
    "count": "5",
    "boxes": "[[10, 10, 50, 50], [60, 60, 90, 90]]",
    "point": "[30, 40]",
    "text": "red cube",
}


def sample(gold, answer_type="number", choices=(), **more):
    return Sample(
        "t-1", "test", "t", "?", (), gold, answer_type=answer_type, choices=choices, **more
    )


def test_every_type_has_a_rule():
    assert set(answer.ROUTES) == set(ANSWER_TYPES) == set(GOLDS)


@pytest.mark.parametrize("answer_type", ANSWER_TYPES)
def test_own_gold_is_1_and_nothing_is_0(answer_type):
    choices = ANIMALS if "choice" in answer_type else ()
    one = sample(GOLDS[answer_type], answer_type, choices)
    rubric = Rubric.from_terms([("answer", 1.0)])
    responses = [
        f"\\boxed{{{one.answer}}}",
        f"<answer>{one.answer}</answer>",
        "",
        "\\boxed{}",
        " . ",
    ]
    values = [reward.value for reward in rubric.grade([(one, r) for r in responses])]
    assert values == [1.0, 1.0, 0.0, 0.0, 0.0]
    rubric.check_gold([one])
    rubric.close()


@pytest.mark.parametrize("name", CHECK_GOLD)
def test_bad_gold_is_an_error_with_the_id(name):
    kind = name if name in ANSWER_TYPES else "number"
    rubric = Rubric.from_terms([(name, 1.0)])
    with pytest.raises(DataError, match="t-1"):
        rubric.check_gold([sample("", kind, ANIMALS if kind == "choice" else ())])
    rubric.close()


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("B", True),
        ("b", True),
        ("(B)", True),
        ("B) dog", True),
        ("dog", True),
        ("The answer is (B) dog.", True),
        ("**B**", True),
        (r"\boxed{\text{B}}", True),
        ("答案：B。", True),
        ("答案是B", True),
        ("A cat is an animal, so B", True),
        ("It's not A because it makes no sense, therefore I think it's B", True),
        ("<think>A or C?</think> The correct option is B.", True),
        ("A", False),
        ("E", False),
        ("not B", False),
        (r"\boxed{\text{not B}}", False),
        ("Option B is wrong; the answer is A", False),
        ("I think B. Actually no, C.", False),
        ("It is either A or B.", False),
        (r"\boxed{A, B, C, D}", False),
        (r"\boxed{A or B}", False),
        ("Answer: (A)(B)(C)(D)", False),
        ("A. B. C. D.", False),
        ("cat and dog", False),
        (r"\boxed{B", False),
        (r"<think>\boxed{B}</think>\boxed{A}", False),
        ("", False),
    ],
)
def test_single_choice(response, right):
    verdict = choice.score(sample("B", "choice", ANIMALS), response)
    assert (verdict.outcome is Outcome.CORRECT) is right, verdict


@pytest.mark.parametrize(
    ("response", "right"),
    [("A and D", True), ("AD", True), (r"\boxed{D, A}", True), ("A", False), ("A, B, D", False)],
)
def test_several_choices(response, right):
    verdict = choice.score(sample("A, D", "multi_choice", ANIMALS), response)
    assert (verdict.outcome is Outcome.CORRECT) is right


def test_a_gold_that_is_no_option_is_an_error():
    with pytest.raises(DataError, match="t-1"):
        choice.score(sample("horse", "choice", ANIMALS), "A")
    assert choice.gold_letters(sample("dog", "choice", ANIMALS)) == {"B"}


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (r"\boxed{5}", True),
        ("<answer>five</answer>", True),
        ("There are 5 apples.", True),
        ("<answer>5 apples</answer>", True),
        ("<answer>1, 2, 3, 4, 5</answer>", False),
        ("<answer>-5</answer>", False),
        ("<answer>55</answer>", False),
        ("<answer>about 5</answer>", False),
        ("<answer>4.5</answer>", False),
    ],
)
def test_count(response, right):
    assert (count.score(sample("5", "count"), response).outcome is Outcome.CORRECT) is right


def test_boxes_by_hand():
    gold = sample("[[0, 0, 10, 10], [20, 20, 30, 30]]", "boxes")
    assert boxes.iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5
    half = boxes.score(gold, "<answer>[[0,0,10,5],[20,20,30,30]]</answer>")
    assert half.score == pytest.approx(2 * 1.5 / 4)
    assert half.outcome is Outcome.CORRECT
    extra = boxes.score(gold, "<answer>[[0,0,10,10],[20,20,30,30],[1,1,9,9]]</answer>")
    assert extra.score == pytest.approx(2 * 2 / 5)
    assert extra.outcome is Outcome.WRONG
    for bad in ("[0,0,10]", "[nan,0,10,10]", "[10,10,0,0]", "[0,0,1e308,1e308]", "none", ""):
        assert boxes.score(gold, f"<answer>{bad}</answer>").score == 0


def test_point_by_hand():
    box = sample("[10, 10, 20, 20]", "point")
    assert point.score(box, r"\boxed{(15, 12)}").score == 1
    assert point.score(box, r"\boxed{(15, 22)}").score == 0
    assert point.score(box, r"\boxed{(15, 12), (1, 1)}").score == 0
    near = sample("[30, 40]", "point", metadata={"radius": 5})
    assert point.score(near, "(33, 44)").score == 1  # distance 5
    assert point.score(near, "(33, 45)").score == 0


def test_text():
    cat = sample("cat", "text")
    for response in (
        "cat",
        "The answer is Cat.",
        r"\boxed{\text{a cat}}",
        "<answer>The cat</answer>",
    ):
        assert text.score(cat, response).score == 1, response
    for response in ("a", "not a cat", "<answer>not a cat</answer>", "category", ""):
        assert text.score(cat, response).score == 0, response


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("CO2", r"\boxed{\text{CO}_2}", True),
        ("H2O", "H₂O", True),
        ("CO2", "CO", False),
        ("x-axis", r"\boxed{\text{x axis}}", True),
        ("U.S.A.", "USA", True),
        ("isosceles", r"\boxed{\text{an isosceles triangle}}", True),
        ("right triangle", "right angle", False),
        ("no solution", "There is no solution.", True),
        ("three", "3", True),
        ("salt & pepper", "salt and pepper", True),
    ],
)
def test_spellings_of_words(gold, response, right):
    assert (text.score(sample(gold, "text"), response).score == 1) is right


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("5 cm", r"\boxed{5}", True),
        ("36cm", r"\boxed{36 \text{ cm}}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{bmatrix}1\\2\end{bmatrix}}", True),
        ("x = 3, y = 4", r"\boxed{y = 4, x = 3}", True),
        ("3 and 5", r"\boxed{5, 3}", True),
        ("7:30 PM", r"\boxed{\text{7:30 p.m.}}", True),
        ("5 cm", r"\boxed{6}", False),
        ("AB", r"\boxed{BA}", False),  # two letters are words
    ],
)
def test_a_text_that_is_mathematics_is_graded_as_such(gold, response, right):
    assert (answer.score(sample(gold, "text"), response).score == 1) is right


def test_overlong_grows_over_the_last_quarter():
    one = sample("1")
    faults = [
        overlong.score(one, "", tokens=n, max_tokens=1000).score for n in (0, 750, 875, 1000, 2000)
    ]
    assert faults == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_overlong_takes_the_token_counts_of_the_batch():
    rubric = Rubric.from_terms([("boxed", 1.0), ("overlong", -0.5)], max_tokens=1000)
    pairs = [(sample("1"), r"\boxed{1}")] * 2
    assert [r.value for r in rubric.grade(pairs, lengths=[10, 1000])] == [1.0, 0.5]
    rubric.close()


def test_only_correct_responses_are_rewarded_for_being_short():
    """Right and short, right and long, wrong and short, wrong and long; then without a verdict."""
    rubric = Rubric.from_terms([("boxed", 1.0), ("shortness", 0.2)], max_tokens=1000)
    texts = [r"\boxed{1}", r"\boxed{1}", r"\boxed{2}", r"\boxed{2}"]
    rewards = rubric.grade([(sample("1"), text) for text in texts], lengths=[250, 1000, 10, 900])
    assert [r.value for r in rewards] == pytest.approx([1 + 0.2 * 0.75, 1.0, 0.0, 0.0])
    scores = [r.terms["shortness"].score for r in rewards]
    assert scores == [0.75, 0.0, 0.0, 0.0]
    assert [r.correct for r in rewards] == [True, True, False, False]
    (masked,) = rubric.grade([(sample(""), r"\boxed{1}")], lengths=[10])  # no gold answer
    assert not masked.valid
    rubric.close()


@pytest.mark.parametrize(
    ("terms", "key"),
    [
        ([("boxed", 1.0), ("shortness", -0.2)], r"rewards\[1\]\.weight.*'shortness'"),
        ([("shortness", 1.0), ("boxed", 1.0)], r"rewards\[0\]\.fn.*'shortness'"),
    ],
)
def test_a_bonus_for_shortness_that_would_turn_around_is_refused(terms, key):
    with pytest.raises(ConfigError, match=key):
        Rubric.from_terms(terms)


def test_a_fault_needs_a_negative_weight():
    with pytest.raises(ConfigError, match=r"rewards\[1\].weight"):
        Rubric.from_terms([("answer", 1.0), ("repetition", 0.5)])


def test_repetition():
    one = sample("1")
    assert repetition.score(one, "a b c d e f g h i j").score == 0
    # 40 words, 37 four-grams, 4 different: 33/37 repeated
    assert repetition.score(one, "a b c d " * 10).score == pytest.approx((33 / 37 - 0.2) / 0.8)
    assert repetition.score(one, "").score == 0


def test_language():
    english, chinese = sample("1"), Sample("c", "t", "t", "求阴影部分的面积。", (), "1")
    english = Sample("e", "t", "t", "What is the area?", (), "1")
    assert language.score(english, "The area is 3.").score == 0
    assert language.score(english, "面积是三").score == 1.0
    assert language.score(chinese, "面积是 $x$").score == 0
    assert (
        language.score(chinese, "The area of the shaded region is three square units, so 3").score
        > 0.9
    )


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_nothing_a_model_writes_raises(response):
    for kind in ("choice", "multi_choice", "count", "boxes", "point", "text"):
        choices = ANIMALS if "choice" in kind else ()
        for written in (response, f"\\boxed{{{response}}}", f"the answer is {response}"):
            verdict = answer.ROUTES[kind](sample(GOLDS[kind], kind, choices), written)
            assert 0 <= verdict.score <= 1
    for shaping in (overlong, repetition, language, shortness):
        assert 0 <= shaping.score(sample("1"), response).score <= 1
