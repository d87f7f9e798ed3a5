"""The configuration: order of sources, refusals with the nearest name, and every YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT

from sapo_vl.config import Config, load, save
from sapo_vl.errors import ConfigError

FILES = sorted(ROOT.glob("configs/train/*.yaml")) + sorted(ROOT.glob("configs/eval/*.yaml"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_of_the_paper():
    sapo = load(None, []).sapo
    assert (sapo.tau_pos, sapo.tau_neg, sapo.mini_batches, sapo.mismatch_cap) == (1, 1.05, 4, 2)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = written(tmp_path, "sapo: {tau_pos: 0.9, tau_neg: 1.2}\nrun: {seed: 3}\n")
    config = load(path, ["sapo.tau_neg=1.1", "run.dir=runs/x"])
    assert (config.sapo.tau_pos, config.sapo.tau_neg) == (0.9, 1.1)
    assert config.sapo.mini_batches == 4
    assert (config.run.seed, config.run.dir) == (3, Path("runs/x"))


def test_the_last_override_of_a_key_wins():
    assert load(None, ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001"])
def test_scientific_numbers_are_numbers(text, tmp_path):
    assert load(None, [f"learner.lr={text}"]).learner.lr == 1e-5
    assert load(written(tmp_path, f"learner: {{lr: {text}}}"), []).learner.lr == 1e-5


def test_values_in_yaml_notation():
    config = load(
        None,
        [
            "model.freeze=[vision]",
            "sapo.mismatch_cap=null",
            "run.tensorboard=false",
            "learner.betas=[0.9, 0.99]",
            "rewards=[{fn: boxed, weight: 0.5}, {fn: my/file.py:score}]",
        ],
    )
    assert config.model.freeze == ["vision"]
    assert config.sapo.mismatch_cap is None
    assert config.run.tensorboard is False
    assert config.learner.betas == (0.9, 0.99)
    assert [(t.fn, t.weight) for t in config.rewards] == [("boxed", 0.5), ("my/file.py:score", 1)]


@pytest.mark.parametrize(
    ("override", "wrong", "right"),
    [
        ("sapo.tau_ngeative=1", "sapo.tau_ngeative", "sapo.tau_neg"),
        ("spao.tau_neg=1", "spao", "sapo"),
        ("tau_neg=1.1", "tau_neg", "sapo.tau_neg"),
        ("learner.group_size=4", "learner.group_size", "rollout.group_size"),
        ("rewards=[{fun: boxed}]", "rewards[0].fun", "rewards[0].fn"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, wrong, right):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert f"unknown key '{wrong}'" in str(caught.value)
    assert f"did you mean '{right}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    path = written(tmp_path, "sapo:\n  tau_negative: 1.1\n")
    with pytest.raises(ConfigError, match=r"tau_negative.*did you mean 'sapo.tau_neg'") as caught:
        load(path, [])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.seed", "not an override; write key=value"),
        ("sapo=3", "'sapo' holds a group of keys"),
        ("sapo.tau_neg=-1", "sapo.tau_neg=-1: Input should be greater than 0"),
        ("sapo.tau_neg=high", "sapo.tau_neg='high': Input should be a valid number"),
        ("learner.zero_stage=4", "learner.zero_stage=4: Input should be 0, 1, 2 or 3"),
        ("model.dtype=fp8", "model.dtype='fp8': Input should be 'float32' or 'bfloat16'"),
        ("rollout.group_size=1", "rollout.group_size=1"),
        ("rollout.prompts=2", "rollout.prompts=2 is below sapo.mini_batches=4"),
        ("data.max_pixels=100", "data.min_pixels=4096 is above data.max_pixels=100"),
        ("rollout.max_new_tokens=9000", "leaves no room"),
        ("rewards=[]", "rewards is empty"),
        ("learner.offload_parameters=true", "needs learner.zero_stage=3"),
        ("model.path=[1", "is not a value in YAML notation"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(override, words):
    with pytest.raises(ConfigError) as caught:
        load(None, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "must hold 'key: value' lines, not a list"),
        ("a: [1\n", "can't be read"),
        ("sapo:\n", "'sapo' holds a group of keys"),
    ],
)
def test_a_broken_file(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, text), [])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_nearest_there_is():
    with pytest.raises(ConfigError, match=r"does not exist; did you mean '.*smoke\.yaml'"):
        load(ROOT / "configs/train/smok.yaml", [])


def test_an_empty_file_is_all_defaults(tmp_path):
    assert load(written(tmp_path, "# nothing\n"), []) == Config()


def test_later_assignments_are_checked():
    config = load(None, [])
    with pytest.raises(ValueError, match="float32"):
        config.model.dtype = "fp8"


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_file_parses_and_survives_saving(path, tmp_path):
    config = load(path, [])
    save(config, tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml", []) == config


def test_offload_needs_zero():
    with pytest.raises(ConfigError, match=r"needs learner\.zero_stage of 1, 2 or 3"):
        load(None, ["learner.zero_stage=0", "learner.offload_optimizer=true"])


def test_there_are_files_for_every_size():
    names = {p.name for p in FILES}
    assert {"main.yaml", "smoke.yaml", "synthetic.yaml"} <= names
    sizes = {"qwen3_vl_2b.yaml", "qwen3_vl_4b.yaml", "qwen3_vl_8b.yaml", "qwen3_vl_30b_a3b.yaml"}
    assert sizes <= names


def test_everything_survives_saving(tmp_path):
    config = load(
        None,
        [
            "data.path=a/b",
            "sapo.mismatch_cap=null",
            "model.freeze=[merger, vision]",
            "learner.betas=[0.8, 0.9]",
            "rewards=[{fn: format}, {fn: boxed, weight: 2}]",
            "generator.parity_max=1e-3",
        ],
    )
    for number, own in enumerate((config, Config())):  # the default parity_max is infinite
        path = tmp_path / f"{number}.yaml"
        save(own, path)
        assert load(path, []) == own
