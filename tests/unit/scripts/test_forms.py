"""scripts/forms.sh: every configuration of training is in it, and only sizes are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench import forms
from helpers import ROOT

from sapo_vl import config as configs
from sapo_vl.config import Config, dump

FILES = sorted((ROOT / "configs" / "train").rglob("*.y*ml"))


def leaves(config: Config) -> dict[str, object]:
    return {f"{s}.{k}": v for s, tree in dump(config).items() if isinstance(tree, dict)
            for k, v in tree.items()}  # fmt: skip


def test_every_configuration_is_run():
    assert forms.all_files() == FILES
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_form_differs_in_its_sizes_alone(file):
    written, form = leaves(configs.load(file, [])), leaves(forms.form(file, Path("tiny"), []))
    changed = {key for key in written if written[key] != form[key]}
    assert changed <= {*forms.SIZES, "model.path", "run.dir"}
    plain_keys = [f"{key}={value}" for key, value in forms.PLAIN.items()]
    plain = leaves(forms.form(file, Path("tiny"), plain_keys))
    assert {key for key in form if form[key] != plain[key]} <= set(forms.PLAIN)
    assert (plain["learner.zero_stage"], plain["model.gradient_checkpointing"]) == (0, "none")


def test_the_family_and_the_heads_ties_follow_from_the_model():
    kinds = {file.stem: forms.model_kind(file) for file in FILES}
    assert kinds["main"] == ("qwen3_vl", True)
    assert kinds["qwen3_vl_4b"] == ("qwen3_vl", True)
    assert kinds["qwen3_vl_8b"] == ("qwen3_vl", False)
    assert kinds["qwen3_vl_30b_a3b"] == ("qwen3_vl_moe", False)
    assert kinds["qwen3_5_4b"] == ("qwen3_5", True)
    assert kinds["qwen3_5_9b"] == ("qwen3_5", False)
    assert kinds["qwen3_5_35b_a3b"] == ("qwen3_5_moe", False)


def test_ranks_have_unequal_shares():
    rollouts = list(range(12))
    assert [len(part) for part in forms.shares(rollouts, 0, 4)] == [5, 4, 2, 1]
    assert [len(part) for part in forms.shares(rollouts, 0, 2)] == [8, 4]
    parts = forms.shares(rollouts, 0, 4)
    assert sorted(i for part in parts for i in part) == rollouts


def test_a_bfloat16_form_may_round_as_the_plain_run_does_and_little_more():
    plain = forms.Errors(0.02, 0.2)
    assert forms.bounds(plain, "bfloat16") == pytest.approx((0.03, 0.3))
    assert forms.bounds(plain, "float32") == (forms.EXACT, forms.EXACT)
