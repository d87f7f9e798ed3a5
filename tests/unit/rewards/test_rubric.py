"""The rubric: weights, validity, user verifiers, bad gold answers, the factory."""

import pytest

from sapo_vl import config
from sapo_vl.errors import ConfigError, DataError
from sapo_vl.rewards.rubric import Rubric, build_rubric
from sapo_vl.schema import Outcome, Sample

USER_FILE = """
from sapo_vl.schema import Outcome, Verdict

def half(sample, response):
    return 0.5

async def later(sample, response):
    return Verdict(Outcome.CORRECT, 0.25, "async")

def broken(sample, response):
    raise KeyError("gone")

def too_much(sample, response):
    return 1.5
"""


def sample(answer="8", **more):
    return Sample("t-1", "test", "t", "?", (), answer, **more)


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "my_verifier.py"
    path.write_text(USER_FILE)
    return path


def test_rewards_are_weighted_sums_in_order():
    rubric = Rubric.from_terms([("boxed", 1.0), ("format", 0.25)])
    pairs = [
        (sample(), r"\boxed{8}"),
        (sample(), r"\boxed{9}"),
        (sample(), "8"),
        (sample("9"), r"\boxed{9}"),
    ]
    rewards = rubric.grade(pairs)
    assert [r.value for r in rewards] == [1.25, 0.25, 0.0, 1.25]
    assert [r.correct for r in rewards] == [True, False, False, True]
    assert all(r.valid for r in rewards)
    assert set(rewards[0].terms) == {"boxed", "format"}
    rubric.close()
    rubric.close()


def test_user_functions_sync_and_async(user_file):
    rubric = Rubric.from_terms(
        [("boxed", 1.0), (f"{user_file}:half", 2.0), (f"{user_file}:later", 4.0)]
    )
    (reward,) = rubric.grade([(sample(), r"\boxed{8}")])
    assert reward.value == 1.0 + 2.0 * 0.5 + 4.0 * 0.25
    assert reward.terms[f"{user_file}:later"].tier == "user"
    rubric.close()


@pytest.mark.parametrize(("function", "word"), [("broken", "gone"), ("too_much", "1.5")])
def test_a_broken_user_function_is_no_verdict(user_file, function, word):
    rubric = Rubric.from_terms([("boxed", 1.0), (f"{user_file}:{function}", 1.0)])
    (reward,) = rubric.grade([(sample(), r"\boxed{8}")])
    verdict = reward.terms[f"{user_file}:{function}"]
    assert verdict.outcome is Outcome.NO_VERDICT
    assert word in verdict.reason
    assert not reward.valid
    assert reward.value == 0.0
    rubric.close()


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([("boxd", 1.0)], ("rewards[0].fn", "'boxed'")),
        ([("boxed", 1.0), ("no/such.py:score", 1.0)], ("rewards[1].fn", "no/such.py")),
        ([("boxed", 1.0), ("boxed", 1.0)], ("rewards[1].fn", "'boxed'")),
        ([], ("rewards",)),
    ],
)
def test_a_wrong_term_names_the_key(terms, words):
    with pytest.raises(ConfigError) as caught:
        Rubric.from_terms(terms)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_function_names_the_key(user_file):
    with pytest.raises(ConfigError, match=r"rewards\[0\].fn.*'absent'"):
        Rubric.from_terms([(f"{user_file}:absent", 1.0)])


def test_a_file_that_does_not_import_names_the_key(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match=r"rewards\[0\].fn.*no_such_module_at_all"):
        Rubric.from_terms([(f"{tmp_path}/bad.py:score", 1.0)])


def test_bad_gold_is_an_error_with_the_id():
    rubric = Rubric.from_terms([("boxed", 1.0)])
    rubric.check_gold([sample("8"), sample("B", answer_type="choice")])
    with pytest.raises(DataError, match="t-1"):
        rubric.check_gold([sample("")])


@pytest.mark.parametrize("gold", ["8", "-1/2", "1,234", r"\frac{3}{7}", "red cube", "x^2+1"])
def test_own_gold_is_1_and_empty_is_0(gold):
    rubric = Rubric.from_terms([("boxed", 1.0)])
    rewards = rubric.grade(
        [(sample(gold), f"\\boxed{{{gold}}}"), (sample(gold), ""), (sample(gold), r"\boxed{}")]
    )
    assert [r.value for r in rewards] == [1.0, 0.0, 0.0]


def test_the_rubric_of_a_config_has_its_terms_its_length_limit_and_its_judge():
    terms = "rewards=[{fn: boxed}, {fn: overlong, weight: -0.5}]"
    rubric = build_rubric(config.load(None, [terms, "rollout.max_new_tokens=100"]))
    pairs = [(sample(), r"\boxed{8}")] * 2
    assert [r.value for r in rubric.grade(pairs, lengths=[75, 100])] == [1.0, 0.5]
    assert rubric.judge is None
    rubric.close()
    judge = "judge={url: http://127.0.0.1:9/v1, model: m}"
    rubric = build_rubric(config.load(None, ["rewards=[{fn: judge}]", judge]))
    assert rubric.judge is not None
    assert (rubric.judge.config.url, rubric.judge.config.model) == ("http://127.0.0.1:9/v1", "m")
    rubric.close()


def test_a_config_whose_judge_is_missing_names_the_term():
    with pytest.raises(ConfigError, match=r"rewards\[0\].fn.*judge\.url"):
        build_rubric(config.load(None, ["rewards=[{fn: judge}]"]))
