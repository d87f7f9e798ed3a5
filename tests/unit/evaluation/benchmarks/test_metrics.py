"""Metrics against numbers worked out by hand: pass@k, paired tests, We-Math, worst case, maj@n."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sapo_vl.evaluation.benchmarks import BENCHMARKS
from sapo_vl.evaluation.benchmarks.accuracy import cell, tables, verdicts
from sapo_vl.evaluation.benchmarks.protocol import (
    ExtractedAnswer,
    Judgement,
    Response,
    ScoredResponse,
)
from sapo_vl.evaluation.benchmarks.wemath_metrics import summary
from sapo_vl.evaluation.stats import (
    interval,
    mcnemar,
    paired,
    pass_at_k,
    repeated_samples,
    sign_flip,
)


def scored(
    problem: str, correct: bool | None, value: object = None, **more: object
) -> ScoredResponse:
    return ScoredResponse(
        Response("m", problem, "g", "r", **more), ExtractedAnswer(value), Judgement(correct, "")
    )


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n, right in itertools.product(range(1, 7), range(7)):
        if right > n:
            continue
        samples = [True] * right + [False] * (n - right)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            assert pass_at_k(n, right, k) == pytest.approx(np.mean([any(s) for s in subsets]))


def test_repeated_samples():
    verdicts = [("p", True), ("p", False), ("p", None), ("q", True), ("q", True)]
    found = repeated_samples(verdicts)
    assert found["n"] == 2
    assert found["avg@2"] == 0.75
    assert (found["pass@1"], found["pass@2"]) == (0.75, 1.0)
    assert repeated_samples([("p", True), ("q", False)]) == {}


def test_interval_of_coins():
    assert interval(np.array([]), []) == (0.0, 0.0)
    assert interval(np.ones(2), ["a", "b"]) == (1.0, 1.0)
    coins, names = np.array([0.0, 1.0] * 200), [str(i) for i in range(400)]
    assert interval(np.array([0.25, 0.75]), ["a", "a"], {"a": "f"}) == (0.5, 0.5)  # one family
    low, high = interval(coins, names)
    assert (low, high) == (pytest.approx(0.451, abs=0.006), pytest.approx(0.549, abs=0.006))


def test_variants_of_one_problem_are_resampled_together():
    """Forty coins that each count ten times are as uncertain as forty coins, not as 400."""
    coins, names = np.array([0.0, 1.0] * 20), [str(i) for i in range(40)]
    many = [f"{name}#{variant}" for name in names for variant in range(10)]
    families = {name: name.split("#")[0] for name in many}
    assert interval(np.repeat(coins, 10), many, families) == interval(coins, names)
    first = {name: [False] for name in many[:60]}
    second = {name: [name.startswith(("0#", "1#", "2#", "3#", "4#"))] for name in first}
    found = paired(first, second, families)
    assert (found.gained, found.difference) == (50, pytest.approx(5 / 6))
    assert found.p_value == pytest.approx(2 / 2**5)  # five families, not 50 problems


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert mcnemar(2, 2) == 1.0


def test_sign_flip_agrees_with_all_signs():
    gap = np.array([0.5, 0.5, 0.25, -0.25, 1.0])
    signs = np.array(list(itertools.product((-1, 1), repeat=5)))
    exact = np.mean(np.abs(signs @ gap) >= gap.sum())
    assert sign_flip(gap) == pytest.approx(exact)
    assert sign_flip(np.zeros(3)) == 1.0
    assert sign_flip(np.array([0.0, 0.5])) == 1.0  # +0.5 and -0.5 are equally extreme


def test_sign_flip_of_many_gaps_is_sampled():
    gap = np.array([1.0] * 14 + [-1.0] * 6)
    exact = 2 * sum(math.comb(20, k) for k in range(7)) / 2**20  # two-sided sign test: 0.115
    assert sign_flip(gap) == pytest.approx(exact, abs=0.02)


def test_paired():
    first = {"a": [True], "b": [False], "c": [False], "only": [True]}
    second = {"a": [True], "b": [True], "c": [True]}
    found = paired(first, second)
    assert (found.problems, found.gained, found.lost) == (3, 2, 0)
    assert (found.first, found.second) == (pytest.approx(1 / 3), 1.0)
    assert found.difference == pytest.approx(2 / 3)
    assert found.p_value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no problem in common"):
        paired(first, {"z": [True]})


def test_cells_and_tables():
    rows = [
        scored("p", True, meta={"level": 2, "skills": ["a", "b"]}),
        scored("q", False, meta={"level": 10, "skills": ["b"]}),
        scored("r", None, meta={"level": 2, "skills": []}),
    ]
    assert cell([("p", True), ("q", False), ("r", None)]) == {
        "accuracy": 0.5, "percent": 50.0, "correct": 1, "total": 2,
    }  # fmt: skip
    found = tables(rows, ("level", "skills", ("level", "skills"), "nothing"))
    assert list(found["level"]) == ["2", "10"]
    assert found["skills"]["a"]["accuracy"] == 1.0
    assert found["skills"]["b"]["accuracy"] == 0.5
    assert found["level_x_skills"]["10 / b"]["total"] == 1
    assert "nothing" not in found


def test_accuracy_is_the_mean_over_problems_whatever_their_number_of_samples():
    rows = [scored("p", k == 0, sample=k, meta={"level": 2}) for k in range(4)]
    rows.append(scored("q", True, meta={"level": 2}))
    assert cell(verdicts(rows)) == {
        "accuracy": 0.625, "percent": 62.5, "correct": 2, "total": 5,
    }  # fmt: skip
    assert tables(rows, ("level",))["level"]["2"]["accuracy"] == 0.625


def test_wemath_four_dimensions():
    rows = []
    groups = {  # sub-steps, composite
        "2steps_1": ((True, True), True),  # CM
        "2steps_2": ((True, False), True),  # RM strict, CM loose
        "2steps_3": ((False, False), True),  # RM both
        "2steps_4": ((True, True), False),  # IG
        "3steps_1": ((True, True, False), False),  # IK
    }
    for name, (steps, composite) in groups.items():
        kind = name.split("_")[0]
        rows += [(name, f"{kind}_{i + 1}", right) for i, right in enumerate(steps)]
        rows.append((name, f"{kind}_multi", composite))
    rows.append(("2steps_9", "2steps_1", True))  # a group without its composite
    found = summary(rows)
    assert (found["groups"], found["incomplete_groups"]) == (5, 1)
    strict, loose = found["strict"], found["loose"]
    assert strict["counts"] == {"IK": 1, "IG": 1, "CM": 1, "RM": 2}
    assert loose["counts"] == {"IK": 1, "IG": 1, "CM": 2, "RM": 1}
    assert (strict["IK"], strict["IG"], strict["CM"]) == (0.2, 0.2, 0.2)
    assert strict["RM"] == pytest.approx(2 / 3)
    assert strict["score"] == pytest.approx(0.2 + 0.5 * 0.2)
    assert loose["score"] == pytest.approx(0.4 + 0.5 * 0.2)
    assert found["steps"]["S2"]["total"] == 4
    assert found["steps"]["S1"]["correct"] == 2 + 1 + 0 + 2 + 2 + 1


def test_wemath_samples_have_groups_of_their_own():
    keys = ("2steps_1", "2steps_2", "2steps_multi")
    rows = [
        scored("2steps_5", sample == 0 or key != "2steps_multi", variant=key, sample=sample)
        for key in keys
        for sample in (0, 1)
    ]
    rows.append(scored("unknown", True))
    found = BENCHMARKS["wemath"].aggregate(rows)
    assert found["strict"]["counts"] == {"IK": 0, "IG": 1, "CM": 1, "RM": 0}
    assert (found["groups"], found["incomplete_groups"]) == (2, 1)


def test_dynamath_worst_case():
    aggregate = BENCHMARKS["dynamath"].aggregate
    rows = [scored("1", True, variant=str(v), meta={"level": "x"}) for v in range(1, 11)]
    rows += [scored("2", v != 3, variant=str(v), meta={"level": "y"}) for v in range(1, 11)]
    found = aggregate(rows)
    assert found["worst_case"]["accuracy"] == 0.5
    assert found["worst_case"]["seed_questions_with_all_variants"] == 2
    assert found["worst_case_level"]["y"]["accuracy"] == 0.0
    twice = [*rows, *(scored("1", False, variant=str(v), sample=1) for v in range(1, 11))]
    assert aggregate(twice)["worst_case"]["total"] == 3
    assert cell(verdicts(rows))["accuracy"] == 0.95


def test_emma_majority():
    aggregate = BENCHMARKS["emma"].aggregate
    rows = [
        *[scored("p", v == "B", v) for v in ("A", "B", "B", "C")],
        *[scored("q", v == "B", v) for v in ("A", "A", "B", "A")],
    ]
    found = aggregate(rows)["maj"]
    assert (found["accuracy"], found["total"], found["n"]) == (0.5, 2, 4)
