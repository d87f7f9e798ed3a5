"""Values in boxes, tags, JSON and sentences: what a response states, denies and takes back."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.rewards.parsing.extract import (
    brace_pairs,
    calm,
    closing_brace,
    final_answer,
    joined_boxes,
)
from sapo_vl.rewards.parsing.statements import stated_value
from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import boxes, choice, count, judge, maths, point, text
from sapo_vl.schema import Outcome, Sample


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        ("5", "<answer>The answer is 5.</answer>", True),
        ("5", "<answer>There are 5 cats</answer>", True),
        ("6", "<answer>There are 5 cats</answer>", False),
        ("5", "\\boxed{\\text{The answer is } 5}", True),
        ("5", "The answer is 5, not 6.", True),
        ("6", "The answer is 5, not 6.", False),
        ("5", "Answer: 5 (since 3 + 2 = 5)", True),
        ("5", "Answer: `5`", True),
        ("5", '{"answer": 5}', True),
        ("6", '{"answer": 5}', False),
        ("5", '{"answer": "5"}', True),
        ("5", '```json\n{"answer": 5}\n```', True),
        ("5", "{'answer': 5}", True),
        ("\\frac{1}{2}", '{"reasoning": "x", "answer": "\\frac{1}{2}"}', True),
        ("5", '{"answer": 5, "confidence": 0.9}', True),
        ("(1,2)", '{"answer": [1, 2]}', False),
        ("6", "The answer is 6. (Earlier I said the answer is 5, which was wrong.)", True),
        ("5", "The answer is 6. (Earlier I said the answer is 5, which was wrong.)", False),
        ("6", "I first thought the answer is 5, but the answer is 6.", True),
        ("6", "The answer is 6. At first I thought the answer was 5.", True),
        ("5", "The answer is 6. At first I thought the answer was 5.", False),
        ("6", "The answer is 5. No wait, 6.", True),
        ("5", "The answer is 5. No wait, 6.", False),
        ("6", "The answer is 5. Actually, it is 6.", True),
        ("6", "The answer is not 5 but 6.", True),
        ("5", "The answer is not 5 but 6.", False),
        ("6", "The answer isn't 5; it's 6.", True),
        ("5", "The answer isn't 5; it's 6.", False),
        ("5", "The answer is not 5 as you might think.", False),
        ("5", "Ответ: 5", True),
        ("5", "Ответ: 6", False),
        ("5", "Antwort: 5", True),
        ("5", "Die Antwort ist 5.", True),
        ("5", "La respuesta es 5.", True),
        ("5", "La réponse est 5.", True),
        ("5", "A resposta é 5.", True),
        ("5", "La risposta è 5", True),
        ("5", "答えは5です。", True),
        ("5", "정답은 5입니다.", True),
        ("5", "答：5人", True),
        ("5", "Всего 5 яблок.", True),
        ("5", "Получаем 5.", True),
        ("5", "Итого: 5", True),
        ("5", "Es sind 5 Äpfel.", True),
        ("5", "Hay 5 manzanas en la imagen.", True),
        ("5", "一共有5只猫。", True),
        ("5", "图中共有5个。", True),
        ("5", "उत्तर: 5", True),
        ("5", "คำตอบคือ 5", True),
        ("5", "الجواب: 5", True),
        ("5", "Đáp án: 5", True),
        ("5", "Cevap: 5", True),
        ("5", "nicht 5", False),
        (
            "3",
            "I'm sorry, I can't tell from the picture; at least 3 angles would be needed.",
            False,
        ),
        ("3", "I cannot determine the value. There may be 3.", False),
        ("5", "\\boxed{5 \\text{ (since } x>0)}", True),
        ("5", "\\boxed{5 (because x is positive)}", True),
        ("5 m", "\\boxed{\\text{The length is 5 cm}}", False),
        ("5 cm", "\\boxed{\\text{The length is 5 cm}}", True),
        ("5", "There are 5 million people in the country.", False),
        ("5", "\\boxed{\\text{There are } 5 \\text{ million people}}", False),
        ("5", "\\boxed{**5**}", True),
        ("5", "\\boxed{`5`}", True),
        ("5", "\\boxed5", True),
        ("5", "$\\boxed 5$", True),
        ("\\frac{1}{2}", "\\boxed\\frac{1}{2}", True),
        ("15", "\\boxed15", True),
        ("1", "\\boxed15", False),
        ("5", "\x08oxed{5}", True),
        ("5", "\\boxed{\\text{5 cats and 3 dogs}}", False),
        ("5", "\\boxed{\\text{There are 5 cats and 3 dogs}}", False),
        ("5", "\\boxed{\\text{I don't know}}", False),
        ("5", "\\boxed{\\text{Either 5 or 6}}", False),
        ("5", "\\boxed{\\text{The answer is either 5 or 6}}", False),
        ("5", "\\boxed{\\text{The answer is 5 or 6}}", False),
        ("5", "\\boxed{\\text{The value of x is 5}}", True),
        ("5", "\\boxed{\\text{The answer is } x = 5}", True),
        ("\\frac{1}{2}", "\\boxed{\\text{The probability is }\\frac{1}{2}}", True),
        ("5", "<answer>Final answer: 5</answer>", True),
        ("5", "<answer>x = 5, because 2x = 10</answer>", True),
        ("5", "<answer>5, not 6</answer>", True),
        ("6", "<answer>5, not 6</answer>", False),
        ("5", "<answer>It is five.</answer>", True),
        ("5", "<answer>five</answer>", True),
        ("5", "<answer>The answer is $5$.</answer>", True),
        ("5", "<answer>**5**</answer>", True),
        ("5", "<answer>`5`</answer>", True),
        ("5", "Answer: **5**", True),
        ("5", "So the answer is '5'.", True),
        ("5", 'The answer is "5".', True),
        ("5", "The answer is 5 rather than 6.", True),
        ("5", "The answer is 5 instead of 6", True),
        ("5", "The answer is 5 (not 6).", True),
        ("5", "The final answer is 5 ✅", True),
        ("12", "There are 12 in total: 5 red and 7 blue.", True),
        ("5", "Thus, we get 5.", True),
        ("5", "Total: 5", True),
        ("5", "Area = 5", True),
        ("5", "**Answer:** 5", True),
        ("5", "<answer>\n5\n</answer>", True),
        ("5", "<think>The answer is 6</think>The answer is 5", True),
        ("6", "<think>The answer is 6</think>", False),
        ("6", "<think>\nThe answer is 6", False),
        ("5", "Thus $x=5$, i.e. the answer is $5$", True),
        ("7", "If the answer is 5, then x is 3. But the answer is 7.", True),
        ("5", "One might think the answer is 5. The answer is 7.", False),
        ("7", "The answer is 7. One might think that the answer is 5.", True),
        ("5", "Answer: 5\n\nExplanation: 2 + 3 = 5, and 3 is the smaller one.", True),
        ("9", "Answer: 9\n1. 4 cats\n2. 5 dogs", True),
    ],
)
def test_what_a_response_states(gold, response, right):
    result = maths.decide_fast(Sample("t-1", "t", "t", "?", (), gold), response)
    assert not isinstance(result, NeedsWorker), result
    assert (result.outcome is Outcome.CORRECT) is right, result


@pytest.mark.parametrize(
    "answer",
    [
        "5", r"\frac{1}{2}", "not 5", "5 or 6", "x = 5", "I don't know",
        r"(x, y) = (5, 8) \quad \text{and} \quad (8, 5)", r"5 \text{ cm}", "", " ", "(a, b)",
        r"\text{It is not 5}", "минус 5", "5 cats and 3 dogs", r"\{1, 2\}",
        r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
    ],
)  # fmt: skip
def test_what_states_no_value_is_left_as_it_is(answer):
    assert stated_value(answer) == answer.strip()


def test_boxes_are_found_in_one_pass():
    nested = "\\boxed{" * 2300 + "5" + "}" * 2300
    start = time.process_time()
    assert final_answer(nested).answer == "5"
    assert joined_boxes("\\boxed{" * 2300) is None
    assert joined_boxes(nested) is None
    assert time.process_time() - start < 1
    assert joined_boxes(r"\boxed{1}, \boxed{\frac{1}{2}} and $\boxed{3}$") == r"1, \frac{1}{2}, 3"


@given(st.text(alphabet="ab{}\\", max_size=80))
def test_one_pass_pairs_the_braces_as_one_search_each_does(text):
    pairs = brace_pairs(text)
    for opening, char in enumerate(text):
        slashes = len(text[:opening]) - len(text[:opening].rstrip("\\"))
        if char == "{" and slashes % 2 == 0:
            closing = closing_brace(text, opening)
            assert pairs.get(opening, -1) == closing


@given(st.text(alphabet=" \t\na", max_size=60))
def test_calm_keeps_the_words_and_the_lines(text):
    assert calm(text).split() == text.split()
    assert "  " not in calm(text)
    assert "\n\n" not in calm(text)


UNITS = (
    "A, ", "A or ", "A", "A ", "(A) ", "A: no. ", "not A ", "The answer is ", "answer: ",
    "Option A ", "option of ", "= ", "1,", "1,111,", "1 ", "$", "$a$1", "\\[", "\\(", "\\boxed{",
    "{", "(", "[", "<answer>", "\n", " ", "\n ", "*", "`", "#", "word ", ". ", "答案", "选A", "①",
    "\\text{", "%", "½", "{\"answer\": [", "\"", "'", "\\", "(since ", "not 5 but ", "5, not ",
    "\nHuman ", "<|a|>", "B is correct, ", "leaving ", "no, wait 5 ", "(1,2),", "[1,2,3,4],", "-",
    "^", "x²",
)  # fmt: skip
LIMIT = 0.5  # seconds of processor time for 16 kB; what is quadratic takes several


@pytest.mark.parametrize("unit", UNITS)
def test_a_repeated_text_takes_linear_time(unit):
    options = ("12", "Point A", "not a dog", "yes")
    one = Sample("t-1", "t", "t", "?", (), "B", answer_type="choice", choices=options)
    grid = Sample("t-1", "t", "t", "?", (), "[1, 2, 3, 4]", answer_type="boxes")
    spot = Sample("t-1", "t", "t", "?", (), "[1, 2]", answer_type="point")
    five = Sample("t-1", "t", "t", "?", (), "5", answer_type="count")
    repeated = (unit * 16_000)[:16_000]
    for response in (repeated, f"<answer>{repeated}</answer>"):
        for name, run in (
            ("choice", lambda r: choice.score(one, r)),
            ("final_answer", final_answer),
            ("joined_boxes", joined_boxes),
            ("count", lambda r: count.score(five, r)),
            ("boxes", lambda r: boxes.score(grid, r)),
            ("point", lambda r: point.score(spot, r)),
            ("extract_text", text.extract_text),
            ("refusal", judge.refusal),
        ):
            start = time.process_time()
            run(response)
            assert time.process_time() - start < LIMIT, name


def test_a_list_of_letters_is_read_at_once():
    """The pattern of a list once took 3 times as long for each letter more: 28 s for sixteen."""
    letters = [chr(ord("A") + i) for i in range(26)]
    for response in (", ".join(letters), "A or " * 200, f"The points are {', '.join(letters)}."):
        start = time.process_time()
        choice.score(Sample("t-1", "t", "t", "?", (), "B", answer_type="choice"), response)
        assert time.process_time() - start < 0.1


@settings(max_examples=60)
@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_nothing_that_a_model_writes_raises(response):
    for written in (
        response,
        f"\\boxed{{{response}}}",
        f"<answer>The answer is {response}</answer>",
    ):
        final_answer(written)
        joined_boxes(written)
    stated_value(response)
