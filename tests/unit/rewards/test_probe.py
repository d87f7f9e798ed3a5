"""What a term says about gold answers and junk before a run: refused, warned about, or counted."""

from __future__ import annotations

import pytest

from sapo_vl.errors import ConfigError
from sapo_vl.rewards.probe import FORMS, GOLDS, JUNK_RECORDS, probe
from sapo_vl.rewards.rubric import Rubric, Term
from sapo_vl.schema import Outcome, Sample, Verdict

SAMPLES = [Sample(f"r{i}", "test", "t", "?", (), str(100 + i)) for i in range(40)]


class Scripted(Rubric):
    """A rubric whose one term says what a function says; no worker is started."""

    def __init__(self, score, name: str = "my.py:score") -> None:
        super().__init__([Term(name, 1.0)], None)
        self.score, self.asked = score, 0

    def verdicts(self, name, pairs, lengths=None):
        """Ask the function about every pair."""
        self.asked += len(pairs)
        return [self.score(sample, response) for sample, response in pairs]


def right(claim: bool) -> Verdict:
    return Verdict(Outcome.CORRECT if claim else Outcome.WRONG, float(claim), "")


def none(reason: str) -> Verdict:
    return Verdict(Outcome.NO_VERDICT, 0.0, reason)


def test_a_verifier_that_works_is_counted_and_has_no_warnings():
    (result,) = probe(Scripted(lambda s, r: right(r == f"\\boxed{{{s.answer}}}")), SAMPLES)
    assert (result.golds.right, result.golds.wrong, result.golds.none) == (GOLDS, 0, 0)
    assert (result.junk.right, result.junk.none) == (0, 0)
    assert result.junk.wrong == 4 * JUNK_RECORDS
    assert result.warnings == []


@pytest.mark.parametrize("form", FORMS)
def test_a_gold_answer_counts_in_the_form_that_the_verifier_expects(form):
    (result,) = probe(Scripted(lambda s, r: right(r == form.replace("%s", s.answer))), SAMPLES)
    assert result.golds.right == GOLDS
    assert result.warnings == []


def test_one_that_never_answers_is_refused_with_its_commonest_cause():
    reasons = iter(["a", "b", "b", *["b"] * 100])
    with pytest.raises(ConfigError, match=r"rewards\[0\]\.fn=my\.py:score.* 12 gold answers.*: b"):
        probe(Scripted(lambda s, r: none(next(reasons))), SAMPLES)


def test_one_that_answers_junk_alone_is_refused_too():
    def score(sample, response):
        return none("raised") if sample.answer in response else right(False)

    with pytest.raises(ConfigError, match="raised"):
        probe(Scripted(score), SAMPLES)


def test_a_slow_one_is_not_waited_for_again():
    rubric = Scripted(lambda s, r: none("timeout: no answer within 2 s"))
    with pytest.raises(ConfigError, match="no answer within 2 s"):
        probe(rubric, SAMPLES)
    assert rubric.asked == 4


def test_one_that_fails_at_times_is_warned_about():
    def score(sample, response):
        if sample.id == "r0":
            return none("raised KeyError('r0')")
        return right(sample.answer in response and "\\boxed" in response)

    (result,) = probe(Scripted(score), SAMPLES)
    (line,) = result.warnings
    assert "no verdict on 1 of 12 gold answers and on 4 of 12 junk" in line
    assert "raised KeyError(..)" in line


@pytest.mark.parametrize(
    ("score", "word"),
    [
        (lambda s, r: right(True), "accepts junk: an empty response"),
        (lambda s, r: right("boxed" in r), "another record's gold answer"),
        (lambda s, r: right(False), "refuses all 12 gold answers"),
    ],
)
def test_one_that_is_wrong_is_warned_about(score, word):
    (result,) = probe(Scripted(score), SAMPLES)
    assert any(word in line and "rewards[0].fn=my.py:score" in line for line in result.warnings)


def test_a_second_term_may_be_about_the_form():
    rubric = Rubric.from_terms([("boxed", 1.0), ("format", 0.1), ("overlong", -1.0)], max_tokens=9)
    results = probe(rubric, SAMPLES)
    assert [result.golds.right for result in results[:2]] == [GOLDS, GOLDS]
    assert results[0].junk.right == 0
    assert [result.warnings for result in results] == [[], [], []]
    rubric.close()


def test_one_record_alone_can_be_tried():
    (result,) = probe(Rubric.from_terms([("boxed", 1.0)]), SAMPLES[:1])
    assert result.golds.right == 1
    assert result.junk.wrong == 3  # there is no other record's gold answer


FILE = """
def nothing(sample, response): pass
def nan(sample, response): return float("nan")
def table(sample, response): return {"score": 1.0}
def listed(sample, response): return [1.0]
def two(sample, response): return 2.0
def other(prompts, completions, **kwargs): return [1.0]
def raises(sample, response): raise KeyError(sample.id)
"""


@pytest.mark.parametrize(
    "function", ["nothing", "nan", "table", "listed", "two", "other", "raises"]
)
def test_functions_of_users_that_never_answer(tmp_path, function):
    path = tmp_path / "v.py"
    path.write_text(FILE)
    rubric = Rubric.from_terms([(f"{path}:{function}", 1.0)], workers=1)
    with pytest.raises(ConfigError, match=rf"rewards\[0\]\.fn=.*v\.py:{function}"):
        probe(rubric, SAMPLES)
    rubric.close()
