"""Rewards by term and task, by hand; missing verdicts counted by cause."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import bare_prompt

from sapo_vl.algorithm.reward_terms import (
    MAX_TASKS,
    commonest_cause,
    labels_of,
    sum_by_name,
    term_rates,
    term_sums,
)
from sapo_vl.schema import Outcome, Reward, Rollout, RolloutGroup, Verdict


def rollout(prompt, boxed: float | None, form: float) -> Rollout:
    """Return a graded response; `boxed` None is a missing verdict."""
    terms = {
        "/home/me/slow.py:score": Verdict(Outcome.NO_VERDICT, 0.0, "raised KeyError('x-17')")
        if boxed is None
        else Verdict(Outcome.CORRECT if boxed else Outcome.WRONG, boxed, ""),
        "format": Verdict(Outcome.CORRECT if form else Outcome.WRONG, form, ""),
    }
    value = 0.0 if boxed is None else 0.9 * boxed + 0.1 * form
    return Rollout(prompt, [1], reward=Reward(value, bool(boxed), boxed is not None, terms))


def group(task: str, *pairs) -> RolloutGroup:
    prompt = bare_prompt()
    prompt = replace(prompt, sample=replace(prompt.sample, task=task))
    return RolloutGroup(prompt, [rollout(prompt, *pair) for pair in pairs])


def test_means_by_term_and_task():
    groups = [group("sum", (1.0, 1.0), (0.0, 1.0)), group("count", (None, 1.0), (0.0, 0.0))]
    rates = term_rates(term_sums(groups))
    assert rates.pop("no_verdict") == {"slow.py:score: raised KeyError(..)": 1}
    assert rates == pytest.approx(
        {
            "reward/term/slow.py:score": 1 / 3,
            "reward/term/slow.py:score/sum": 1 / 2,
            "reward/term/slow.py:score/count": 0.0,
            "reward/term/format": 3 / 4,
            "reward/term/format/sum": 1.0,
            "reward/term/format/count": 1 / 2,
            "reward/task/sum": (1.0 + 0.1) / 2,
            "reward/task/count": 0.0,  # of the one that was judged
            "accuracy/task/sum": 1 / 2,
            "accuracy/task/count": 0.0,
        }
    )


def test_ranks_with_different_tasks_and_causes_add_up():
    groups = [group("sum", (1.0, 1.0)), group("count", (None, 1.0)), group("sum", (0.0, 0.0))]
    parts = [term_sums([one]) for one in groups]
    assert sum_by_name(parts) == term_sums(groups)


def test_many_tasks_have_no_curves():
    groups = [group(f"t{i}", (1.0, 1.0)) for i in range(MAX_TASKS + 1)]
    names = set(term_rates(term_sums(groups)))
    assert names == {"reward/term/slow.py:score", "reward/term/format"}
    assert "reward/task/t1" in term_rates(term_sums(groups[1:]))


def test_files_of_one_name_keep_their_folders():
    assert labels_of(["a/v.py:score", "boxed"]) == ["v.py:score", "boxed"]
    assert labels_of(["a/v.py:score", "b/v.py:score"]) == ["a/v.py:score", "b/v.py:score"]


def test_the_commonest_cause_over_steps():
    rows = [{"no_verdict": {"a": 2, "b": 3}}, {}, {"no_verdict": {"a": 2}}]
    assert commonest_cause(rows) == "a"
    assert commonest_cause([{}]) is None


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("timeout: no answer within 2 s", "timeout: no answer within 2 s"),
        ("raised KeyError('id-17')", "raised KeyError(..)"),
        ('raised E("x", 12345)', "raised E(.., ..)"),
        ("at 0x7f00ab\nline two", "at .. line two"),
        ("", "no reason given"),
        ("x" * 500, "x" * 120),
    ],
)
def test_a_cause_is_what_many_reasons_share(reason, cause):
    assert Verdict(Outcome.NO_VERDICT, 0.0, reason).cause == cause
