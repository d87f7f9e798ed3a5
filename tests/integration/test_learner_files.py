"""The learner's bfloat16 optimizer state, and checkpoints that come from somewhere else."""

from __future__ import annotations

import pytest
import torch
from helpers import distance, make_rollouts, make_samples, tiny_config

from sapo_vl.algorithm import objectives
from sapo_vl.errors import DataError
from sapo_vl.learner.saved_weights import whole_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rollouts(renderer):
    return make_rollouts(renderer.render(make_samples()))


@pytest.fixture
def objective(tiny_folder):
    return objectives.build(tiny_config(tiny_folder))


def test_the_first_update_in_bfloat16_is_the_same_with_and_without_zero(build, rollouts, objective):
    """DeepSpeed's step on zero gradients at stage 0 counts in neither Adam nor the weight decay."""
    ends = []
    for stage in (0, 2):
        keys = ("model.dtype=bfloat16", "learner.weight_decay=0.5", f"learner.zero_stage={stage}")
        learner = build(*keys)
        learner.update(rollouts, objective, 1e-2)
        ends.append({name: value.clone() for name, value in learner.weights()})
    assert distance(*ends) == 0


def test_a_pickle_with_code_in_a_checkpoint_is_not_run(build, tmp_path):
    class Bomb:
        def __reduce__(self):
            return ((tmp_path / "ran").write_text, ("x",))

    learner = build("learner.zero_stage=2")
    learner.save(tmp_path)
    for file in (tmp_path / "learner").iterdir():
        whole = file.read_bytes()
        torch.save({"module": Bomb()}, file)
        with pytest.raises(DataError, match=file.name):
            learner.load(tmp_path)
        with pytest.raises(DataError, match=file.name):
            list(whole_weights(tmp_path / "learner", learner.assets.family, torch.float32))
        file.write_bytes(whole)
    assert not (tmp_path / "ran").exists()
