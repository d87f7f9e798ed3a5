"""Which option a response claims: statements, denials, elimination, formulas, JSON."""

import pytest

from sapo_vl.errors import DataError
from sapo_vl.rewards.parsing.letters import EITHER, STRUCK, claim_at, claims, strike_denied
from sapo_vl.rewards.verifiers import choice
from sapo_vl.schema import Sample

N = ("12", "15", "18", "21")


@pytest.mark.parametrize(
    ("gold", "response", "choices"),
    [
        ("A", "B 選項不對，應選 A", N),
        ("C", "It can't be A or B, so it must be C.", N),
        ("B", "A and C are both wrong; B is right.", N),
        ("B", "\\boxed{**B**}", N),
        ("C", "\\boxed{\\text{A and C}}", ("A and B", "B and C", "A and C", "A, B and C")),
        ("B", "\\boxed{20 - 30}", ("10-20", "20-30", "30-40")),
        ("C", "\\boxed{\\frac{9}{2}}", ("4", "17/4", "9/2", "5")),
        ("B", "\\boxed{2^{10}}", ("1000", "1024", "2048", "512")),
        ("C", "A: no. B: no. C: yes. D: no.", N),
        ("C", "A is too big, B is too small, D is negative, leaving C.", N),
        ("A", "I would rule out B and C. Between A and D, A is the better choice.", N),
        ("B", '```json\n{"choice": "B", "reason": "A is too small"}\n```', N),
        ("C", "Only C remains.", N),
        ("C", "A, B and D can be ruled out. C remains.", N),
        ("C", "We can eliminate A, B, and D.\nSo C.", N),
        ("B", "A 错，C 错，D 错，所以选 B", N),
        ("B", "A、C 不正确，B 正确。", N),
        ("B", "A、C、D均错误，故选B。", N),
        ("D", "\\boxed{S = 21}\n\n**Answer: D**", N),
        ("D", "\\boxed{A = \\pi r^2}\n\nAnswer: D", N),
        ("D", "\\boxed{AB = 21}\n\n**Answer: D**", N),
        ("D", "We have $\\boxed{21}$, so D.", N),
        ("", "\\boxed{A or B}", N),
        ("AC", "\\boxed{\\{A, C\\}}", N),
        ("AC", "\\boxed{A \\text{ and } C}", N),
        ("AC", "A and C", N),
        ("", "A or C", N),
        ("B", "The answer is B. (Earlier I said the answer is A, which was wrong.)", N),
        ("B", "I first thought the answer was A, but the answer is B.", N),
        ("B", "The answer isn't A; it's B.", N),
        ("B", "The answer is not A but B.", N),
        ("B", "<answer>B, not A</answer>", N),
        ("B", "<answer>The answer is B.</answer>", N),
        ("B", "<answer>`B`</answer>", N),
        ("B", '{"answer": "B"}', N),
        ("B", '{"answer": "B. 15"}', N),
        ("B", "{'answer': 'B'}", N),
        ("B", '<answer>{"answer": "B"}</answer>', N),
        ("C", "\\boxed{4.5}", ("4", "17/4", "9/2", "5")),
        ("C", "\\boxed{\\frac92}", ("4", "17/4", "$\\frac{9}{2}$", "5")),
        ("B", "\\boxed{\\sqrt{2}}", ("2", "√2", "1", "4")),
        ("B", "<answer>15 cm</answer>", ("12 cm", "15 cm", "18 cm", "21 cm")),
        ("B", "The answer is 15 cm.", ("12 cm", "15 cm", "18 cm", "21 cm")),
        ("B", "\\boxed{①、③}", ("①②", "①③", "②③", "①②③")),
        ("B", "①③", ("①②", "①③", "②③", "①②③")),
        ("D", "①②③", ("①②", "①③", "②③", "①②③")),
        ("B", "正确的是①和③", ("①②", "①③", "②③", "①②③")),
        ("C", "AB", ("A", "B", "AB", "O")),
        ("B", "Option A is incorrect because it is too small. Option B is correct.", N),
        ("D", "A is wrong. B is wrong. C is wrong.\nD is right.", N),
        ("A", "A is right, B is not.", N),
        ("B", "B fits best; A, C and D do not.", N),
        ("D", "Not A. Not B. Not C. So, D.", N),
        ("D", "A: ✗\nB: ✗\nC: ✗\nD: ✓", N),
        ("C", "A ❌ B ❌ C ✅ D ❌", N),
        ("B", "A: No\nB: Yes\nC: No\nD: No", N),
        ("A", "A. Yes", ("Yes", "No")),
        ("B", "B: No", ("Yes", "No")),
        ("B", "The answer is (B): False.", ("True", "False")),
        ("B", "The correct answer is: No", ("Yes", "No")),
        ("C", "The answer is C, not B.", N),
        ("C", "The answer is C rather than B.", N),
        ("C", "I choose C over B", N),
        ("C", "My choice: C.", N),
        ("C", "I'd go with C.", N),
        ("C", "Therefore, C.", N),
        ("C", "C.", N),
        ("C", "(C)", N),
        ("C", "选C", N),
        ("C", "答案选C", N),
        ("C", "故選：C", N),
        ("C", "正確選項是 C", N),
        ("C", "Respuesta: C", N),
        ("C", "Die richtige Antwort ist C.", N),
        ("C", "Ответ: C", N),
        ("", "I don't know", N),
        ("", "None of them", N),
        ("", "A, B, C, D", N),
        ("", "I cannot decide between A and B.", N),
        ("C", "It is C. A is wrong.", N),
        ("C", "Everything except C is wrong, so C.", N),
        ("C", "A and B are false, D is false; C is true.", N),
        ("B", "A is incorrect, C is incorrect, and D is incorrect, therefore B.", N),
        ("C", "\\boxed{\\text{Only C}}", N),
        ("C", "\\boxed{C.}", N),
        ("C", "\\boxed{\\mathbf{C}}", N),
        ("C", "\\boxed{(C)\\ 18}", N),
        ("C", "\\boxed{\\text{C. } 18}", N),
        ("C", "\\boxed C", N),
        ("C", "$\\boxed{\\textbf{(C)}~18}$", N),
        ("C", "The answer is \\(C\\).", N),
        ("C", "The answer is **C**.", N),
        ("C", 'The answer is "C".', N),
        ("D", "It cannot be A, B or C. Hence D.", N),
        ("D", "Neither A nor B nor C; D it is.", N),
        (
            "D",
            "If A were right, we would get 12. The same for B and C. So the answer is D.",
            N,
        ),
        ("B", "We found 15, so the answer is 15.", N),
        ("B", "Since 3 * 5 = 15, option B", N),
        ("B", "选项B符合题意", N),
        ("B", "B项正确", N),
        ("C", "A、B、D均不符合题意，故选C", N),
        # a sentence without a "not" is no claim of yes, and one that denies knowledge none of no
        ("", "The question asks whether there are more buses than bicycles.", ("yes", "no")),
        ("", "I can't process this file.", ("yes", "no")),
        ("A", "Yes, there are more buses than bicycles.", ("yes", "no")),
        ("B", "There are two of each, so the answer is no.", ("yes", "no")),
        ("A", "The red bar is the longest. (C) Yes, it ends at 9.", ("yes", "no")),
        ("B", "The red curve does not meet the blue one. They end apart.", ("yes", "no")),
        ("", "The text does not provide the number of buses.", ("yes", "no")),
        ("", "The number of buses was not specified.", ("yes", "no")),
    ],
)
def test_claim(gold, response, choices):
    claimed, reason = choice.claim(response, choice.LETTERS[: len(choices)], choices)
    if gold:
        assert claimed == set(gold), reason
    else:
        assert len(claimed) != 1, reason  # nothing, or several: never one option's letter


def test_lists_of_letters():
    found = claims("A, B and C. Then D or E; also A and D, A is better.")
    assert [sorted(claim.letters) for claim in found] == [
        ["A", "B", "C"], [EITHER, "D", "E"], ["A", "D"], ["A"],
    ]  # fmt: skip
    assert claim_at("is (B) and C", 3).letters == {"B", "C"}
    assert claim_at("is Bob", 3) is None


@pytest.mark.parametrize(
    ("text", "struck"),
    [
        ("not A", "not *"),
        ("A and B are wrong, C is right", "* and * are wrong, C is right"),
        ("A is not only right", "A is not only right"),
        ("A is not wrong", "A is not wrong"),
        ("(B): False", "(B): False"),
        ("A: no. B: yes.", "*: no. B: yes."),
        ("rather than C", "rather than *"),
    ],
)
def test_denied_letters_are_struck(text, struck):
    assert strike_denied(text) == struck.replace("*", STRUCK)


def test_golds_of_every_form():
    def letters(gold, choices=N, kind="choice"):
        return choice.gold_letters(
            Sample("t-1", "t", "t", "?", (), gold, answer_type=kind, choices=choices)
        )

    assert letters("B") == letters("(b)") == letters("15") == {"B"}
    assert letters("A, C", kind="multi_choice") == letters("AC", kind="multi_choice") == {"A", "C"}
    assert letters("AB", ("A", "B", "AB", "O")) == {"C"}
    assert letters("AB", ("A", "B", "AB", "O"), "multi_choice") == {"A", "B"}
    for gold, choices in (("17", N), ("", N), ("A", tuple(map(str, range(27))))):
        with pytest.raises(DataError, match="t-1"):
            letters(gold, choices)
