"""Properties from a grammar: an answer equals its gold in any spelling and dress, others don't."""

from random import Random

import pytest
from answer_structures import KINDS, SYMBOLIC, draw, dressed
from hypothesis import given, settings
from hypothesis import strategies as st

from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import choice, maths
from sapo_vl.schema import Outcome, Sample

EXAMPLES = 150  # of each property, over all kinds
RANDOM = st.randoms(use_true_random=False)
FAST = sorted(set(KINDS) - set(SYMBOLIC))


def verdict(case, response):
    sample = Sample("g-1", "grammar", "t", "?", (), case.gold, choices=case.choices)
    return (choice.score if case.choices else maths.decide_fast)(sample, response)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(FAST), RANDOM)
def test_another_spelling_equals_the_gold(kind, rng):
    case = draw(rng, kind)
    response = dressed(rng, case.equal(rng))
    result = verdict(case, response)
    assert not isinstance(result, NeedsWorker), (case.gold, response)
    assert result.outcome is Outcome.CORRECT, (case.gold, response, result.reason)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(FAST), RANDOM)
def test_another_value_unit_order_or_name_does_not(kind, rng):
    case = draw(rng, kind)
    response = dressed(rng, case.different(rng))
    result = verdict(case, response)
    if not isinstance(result, NeedsWorker):
        assert result.outcome is Outcome.WRONG, (case.gold, response, result.reason)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(FAST), RANDOM)
def test_a_gold_equals_itself(kind, rng):
    case = draw(rng, kind)
    assert verdict(case, rf"\boxed{{{case.gold}}}").outcome is Outcome.CORRECT, case.gold


@pytest.mark.parametrize("kind", SYMBOLIC)
def test_kinds_that_need_computer_algebra(kind):
    for seed in range(6):
        rng = Random(seed)
        case = draw(rng, kind)
        sample = Sample("g-1", "grammar", "t", "?", (), case.gold)
        for answer, outcome in ((case.equal(rng), "correct"), (case.different(rng), "wrong")):
            result = maths.score(sample, dressed(rng, answer))
            assert result.outcome == outcome, (case.gold, answer, result.reason)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_case_again(kind):
    cases = [draw(Random(7), kind) for _ in range(2)]
    assert cases[0].gold == cases[1].gold
    assert cases[0].equal(Random(1)) == cases[1].equal(Random(1))
    assert {draw(Random(seed), kind).gold for seed in range(20)} != {cases[0].gold}
