"""Which of a bundle's rollouts a replay runs under a KL penalty."""

from __future__ import annotations

import numpy as np
from helpers import bare_prompt

from sapo_vl.config import load
from sapo_vl.schema import Rollout
from sapo_vl.training.replay import _with_reference


def test_only_rollouts_with_the_references_logprobs_have_a_penalty(capsys):
    bare = Rollout(bare_prompt(), [1])
    scored = Rollout(bare_prompt(), [1], reference_logprobs=np.zeros(1, np.float32))
    config = load(None, ["algorithm.kl_coef=0.1"])
    assert _with_reference([bare, scored], config) == [scored]
    assert config.algorithm.kl_coef == 0.1
    assert "1 responses that were not trained on" in capsys.readouterr().out
    assert _with_reference([bare], config) == [bare]
    assert config.algorithm.kl_coef == 0
    assert "algorithm.kl_coef=0 here" in capsys.readouterr().out


def test_without_a_penalty_all_are_run():
    bare = Rollout(bare_prompt(), [1])
    assert _with_reference([bare], load(None, [])) == [bare]
